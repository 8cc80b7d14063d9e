"""Conversations that last: stored in SQLite or PostgreSQL, behind ``History``."""
