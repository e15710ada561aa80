"""Tests of runtime.grammar."""
