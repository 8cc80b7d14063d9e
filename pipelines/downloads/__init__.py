"""What is fetched from package registries, and the cache in which it lies."""
