"""Pictures and labels: where they come from, how they are varied, mixed and batched."""
