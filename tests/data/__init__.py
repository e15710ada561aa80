"""Golden values and the scripts that make them."""
