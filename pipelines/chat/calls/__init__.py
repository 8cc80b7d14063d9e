"""Function calls in a reply: how they stand in a prompt, are held to their schemas, and are read out of text."""
