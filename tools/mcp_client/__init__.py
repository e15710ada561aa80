"""External MCP servers as toolsets."""
