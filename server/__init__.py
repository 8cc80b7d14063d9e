"""The server: configuration, routes, the websocket protocol and access control."""
