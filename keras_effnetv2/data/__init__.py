"""Labelled pictures become batches: sources, packing, checks, the pipeline."""
