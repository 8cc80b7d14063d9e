"""The models that listen."""
