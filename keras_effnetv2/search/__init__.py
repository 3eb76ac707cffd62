"""Architecture search and scaling (paper, section 3): the space, the scaling of what is found."""
