"""Audio in: where speech begins and ends, what was said, and whether it interrupts the reply."""
