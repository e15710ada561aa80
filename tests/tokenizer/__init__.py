"""Tests of runtime.tokenizer."""
