"""Messages and tools to tokens and back."""
