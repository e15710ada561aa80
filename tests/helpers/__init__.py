"""Fakes, tiny checkpoints and tolerances for tests."""
