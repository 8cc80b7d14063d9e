"""The server's own functions: called by the model, run here, answered in the same reply."""
