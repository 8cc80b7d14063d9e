"""The language model: its files, its forward pass and its kernels."""
