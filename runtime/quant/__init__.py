"""What packed numbers mean."""
