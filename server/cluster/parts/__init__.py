"""Parts of a gateway that replicas of their own compute: embedding with what screening needs, pictures, and speech."""
