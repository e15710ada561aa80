"""Keeps the tools that change what is loaded from callers whose key is not for that."""

from __future__ import annotations

from typing import Any

import mcp_types as types
from mcp.server import Server, ServerRequestContext
from mcp.server.context import CallNext, HandlerResult

from mcp_servers.key_scopes import granted

ADMIN_TOOLS = ("model_load", "model_unload")


def check_admin_calls(server: Server[Any]) -> None:
    """Refuse calls of these tools, from now on, where the key lacks the scope `admin`."""

    async def check(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        name = (ctx.params or {}).get("name") if ctx.method == "tools/call" else None
        if name not in ADMIN_TOOLS or ctx.request is None or "admin" in granted(ctx.request.scope):
            return await call_next(ctx)
        text = f"{name} needs a key with the scope admin, and this key lacks it"
        return types.CallToolResult(content=[types.TextContent(text=text)], is_error=True)

    server.middleware.append(check)
