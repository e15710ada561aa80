"""Tests of tools.mcp_client."""
