"""Tests of runtime.weights."""
