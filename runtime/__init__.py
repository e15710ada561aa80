"""The engine, and what makes it an agent."""
