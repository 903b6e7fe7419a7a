"""Training: a Recipe fitted into a run folder. Knows nothing of threads, panels or who is watching."""
