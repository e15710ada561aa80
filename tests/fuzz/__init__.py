"""Mutated input for readers of untrusted files: `python -m tests.fuzz gguf --executions N`."""
