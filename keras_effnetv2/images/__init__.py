"""Decode picture files to pixels, and crop and resize them to squares."""
