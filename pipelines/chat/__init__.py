"""The chat stage: a transformer language model that answers a turn with a stream of text."""
