"""The folder of a run: what it holds, and the way back from it."""
