"""Pages that show people a run."""
