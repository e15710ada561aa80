"""The sandbox that VS Code's mcp.json asks for, as our own keys.

An entry says `sandboxEnabled`, the file beside `servers` what sandboxed servers may do. Single
network domains cannot be told apart here: a server that may reach some reaches all.
Source: VS Code 2026-08, `IMcpSandboxConfiguration`.
"""

from __future__ import annotations

from typing import Any


def with_sandbox(entry: Any, shared: Any) -> Any:
    """Return the entry, with our own `sandbox` where it asks for one and we know no better."""
    if not isinstance(entry, dict) or entry.get("sandboxEnabled") is not True:
        return entry
    runtime = entry.get("x-runtime", {})
    if not isinstance(runtime, dict) or "sandbox" in runtime:
        return entry
    rules = entry.get("sandbox", shared)
    files, network = _part(rules, "filesystem"), _part(rules, "network")
    sandbox = {
        "kind": "bwrap",
        "network": bool(network.get("allowedDomains")),
        "write": files.get("allowWrite", []),
        "read_only": files.get("denyWrite", []),
        "hide": files.get("denyRead", []),
    }
    return {**entry, "x-runtime": {**runtime, "sandbox": sandbox}}


def _part(rules: Any, name: str) -> dict[str, Any]:
    part = rules.get(name) if isinstance(rules, dict) else None
    return part if isinstance(part, dict) else {}
