"""The OpenAI-compatible HTTP interface, one file a resource."""
