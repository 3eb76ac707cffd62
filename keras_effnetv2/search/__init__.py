"""Architecture search and scaling (paper, section 3)."""
