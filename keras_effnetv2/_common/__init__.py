"""Tools for all other folders: writing files whole, checks of values, progress, the machine."""
