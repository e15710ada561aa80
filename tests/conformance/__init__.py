"""The official conformance suite of MCP against our server factory, server and client."""
