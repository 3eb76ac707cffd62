"""Training itself: `train`, the progressive callback, first checks, snapshots, workers."""
