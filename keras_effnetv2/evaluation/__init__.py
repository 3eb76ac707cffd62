"""Scores of pictures, the figures made of them, and the pictures to judge."""
