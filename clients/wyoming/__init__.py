"""The Wyoming adapter: Home Assistant and other voice systems talk to a Loquent server through it."""
