"""The product: local models offered to MCP hosts as tools."""
