"""Scores of pictures and the figures made of them."""
