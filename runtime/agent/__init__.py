"""A model in a loop with tools, under limits and policy."""
