"""Function calls in a reply: how functions stand in a prompt, how calls are held to their schemas, and how they are read."""
