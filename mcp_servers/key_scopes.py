"""What a key is good for, and the routes that ask for it.

A route is guarded itself, not its path: however a request spells it, what answers has asked.
"""

from __future__ import annotations

from typing import Literal, get_args

from starlette.routing import BaseRoute, Match, Route
from starlette.types import Receive, Scope, Send

from mcp_servers.refusals import Refused

KeyScope = Literal["inference", "tools", "admin"]
"""OpenAI's and Anthropic's APIs; the MCP server; loading and unloading models, by either.

Tokens of an authorization server have the first two, and `admin` where they say so.
"""

ALL_SCOPES: frozenset[KeyScope] = frozenset(get_args(KeyScope))
USUAL_SCOPES: frozenset[KeyScope] = ALL_SCOPES - {"admin"}


def grant(scope: Scope, key_scopes: frozenset[KeyScope]) -> None:
    """Write down what a request may do, as its key says."""
    scope.setdefault("state", {})["key_scopes"] = key_scopes


def granted(scope: Scope) -> frozenset[KeyScope]:
    """What a request may do: everything where nobody needs a key."""
    found: frozenset[KeyScope] = scope.get("state", {}).get("key_scopes", ALL_SCOPES)
    return found


class NeedsScope(BaseRoute):
    """A route that only keys with one scope reach."""

    def __init__(self, route: Route, needed: KeyScope) -> None:
        self._route = route
        self._needed = needed
        self.path = route.path
        self.endpoint = route.endpoint

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return self._route.matches(scope)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._needed in granted(scope):
            await self._route.handle(scope, receive, send)
        else:
            text = f"the key lacks the scope {self._needed}"
            await Refused(403, text)(scope, receive, send)
