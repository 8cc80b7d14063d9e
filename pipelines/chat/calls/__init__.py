"""Function calls in a reply: how a model is told of functions, held to valid calls, and how its calls are read."""
