"""Programs; the top of the import order."""
