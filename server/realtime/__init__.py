"""The realtime websocket: wire format, turn logic, connection."""
