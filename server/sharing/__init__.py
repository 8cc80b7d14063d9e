"""What several servers share through Redis, besides what they share through the history's database."""
