"""``/openapi.json`` and the JSON Schema of the websocket's events, generated from the code's own models."""
