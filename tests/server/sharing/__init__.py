"""What several servers share through Redis."""
