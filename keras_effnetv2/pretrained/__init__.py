"""A name or a file becomes tensors: what is published, download, one reader for each source."""
