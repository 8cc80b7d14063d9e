"""What the server has for browsers besides its protocol."""
