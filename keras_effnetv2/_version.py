"""Version of the package, alone in its file so that the build reads it without importing more."""

__version__ = "0.1.0"
