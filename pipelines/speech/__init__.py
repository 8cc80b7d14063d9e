"""The speech stage: speaks a reply while it is still being written."""
