"""Clients of the server; they need neither torch nor the server's packages."""
