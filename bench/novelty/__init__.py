"""The parts of the bench of the VAE: objectives, scores, what they are measured on, and codes for an index."""
