"""Output types and schemas to token masks; knows no model and no torch."""
