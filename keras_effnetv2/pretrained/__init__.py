"""Weights as tensors: the published sets, download, and one reader for each kind of file."""
