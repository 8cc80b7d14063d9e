"""What the server has for browsers."""
