"""Schedule, run, commit: many sequences on one model."""
