"""What trains the small demonstration of models with an encoder."""
