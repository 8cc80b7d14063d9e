"""Pictures that a generative adversarial network draws from a caption."""
