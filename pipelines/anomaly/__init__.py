"""Checks every input for what is not normal, and says why."""
