"""Tests of runtime.quant."""
