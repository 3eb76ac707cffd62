"""A trained network becomes files that serve, each of them checked."""
