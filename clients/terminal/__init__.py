"""The terminal client: ``loquent chat`` and ``loquent ask``."""
