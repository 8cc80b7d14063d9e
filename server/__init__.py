"""The server: configuration, routes, the websocket protocol and its doors."""
