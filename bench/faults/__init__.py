"""Faults and malice: what breaks while conversations go on, and what it costs. Each has a command; see ``--help``."""
