"""The doing: `train`, the progressive callback, first checks, snapshots, workers."""
