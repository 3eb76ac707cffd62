"""The folder of a run: what it holds, and how to read it back."""
