"""Sentence embeddings, shared by every stage that needs them."""
