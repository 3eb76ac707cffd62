"""Pages about a run for people to read."""
