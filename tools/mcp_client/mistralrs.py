"""The `servers[]` file of mistral.rs, entry by entry as other hosts would write it.

Its global limits become each server's. `tool_prefix` and `resources` have no meaning here: tools
are named after their server, and `max_concurrent_calls` is left to the agent's own limits.
Source: mistral.rs, mcp-config-schema, reference of November 2026.
"""

from __future__ import annotations

from typing import Any

from tools.errors import ConfigurationError

_KINDS = ("Process", "Http")


def entry_name(server: Any, number: int) -> str:
    """Return what the `number`-th server of a file is called."""
    named = server if isinstance(server, dict) else {}
    return str(named.get("name") or named.get("id") or f"server{number}")


def to_entry(server: Any, document: dict[str, Any]) -> dict[str, Any]:
    """Return an entry as under `mcpServers`.

    Raises:
        ConfigurationError: it is none, or of a kind that we cannot use.
    """
    source = server.get("source") if isinstance(server, dict) else None
    if not isinstance(source, dict) or source.get("type") not in (*_KINDS, "WebSocket"):
        raise ConfigurationError('`source` has to be an object with the `type` "Process" or "Http"')
    if source["type"] == "WebSocket":
        raise ConfigurationError(
            'servers of type "WebSocket" cannot be used; give the `url` of streamable HTTP, "Http"'
        )
    is_enabled = server.get("enabled", True) and document.get("auto_register_tools", True)
    runtime: dict[str, Any] = {"enabled": is_enabled}
    limits = [document.get("tool_timeout_secs"), source.get("timeout_secs")]
    if given := [limit for limit in limits if limit is not None]:
        shortest = min(given, key=_seconds)
        runtime["timeout"] = {"idle": shortest, "total": shortest}
    if source["type"] == "Http":
        headers = source.get("headers") or {}
        if (token := server.get("bearer_token")) is not None and isinstance(headers, dict):
            headers = {**headers, "Authorization": f"Bearer {token}"}
        return {"type": "http", "url": source.get("url"), "headers": headers, "x-runtime": runtime}
    return {
        "command": source.get("command", ""),
        "args": source.get("args") or [],
        "env": source.get("env") or {},
        "cwd": source.get("work_dir"),
        "x-runtime": runtime,
    }


def _seconds(limit: Any) -> float:
    """Order limits; what is no number comes first, and is refused where entries are checked."""
    return limit if isinstance(limit, int | float) else 0.0
