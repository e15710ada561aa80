"""How much of a model's context the definitions of tools take.

Counts what the model's template makes of them; knows no template.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from runtime.agent.definitions import clean_definition
from runtime.agent.search import definition, search_spec
from runtime.chat.catalogue import sort_tools
from runtime.chat.messages import Message
from tools.spec import ToolSpec

CountTokens = Callable[[Sequence[Message], Sequence[ToolSpec]], Awaitable[int]]
"""Tokens of the prompt that messages and tools make; `ChatModel.count_tokens` is one."""

MAX_SHARE = 0.2
"""Definitions that take more of the context than this are searched, not listed."""

_ASKED = (Message("user", "?"),)
_FRAME_BYTES = 100  # what a template writes around a tool, at most
_ENOUGH_BYTES = 12  # of these sizes a token: more than there are


@dataclass(frozen=True, slots=True)
class ToolTokens:
    """What a server's tools would take of the prompt if there were no others.

    Attributes:
        server: its configured name; "" for functions of this program.
        num_tools: how many tools it has.
        num_tokens: their definitions as the model's template renders them.
        share: of the context, from 0.0 on; more than 1.0 where it does not fit.
    """

    server: str
    num_tools: int
    num_tokens: int
    share: float


@dataclass(frozen=True, slots=True)
class ToolReport:
    """What tools take of a model's context.

    Attributes:
        servers: server by server, by name; each alone, so their sum is a little more than all.
        num_tokens: of all definitions together.
        share: of all, of the context.
        is_searched: whether runs list one tool that searches, in place of all these.
    """

    servers: tuple[ToolTokens, ...]
    num_tokens: int
    share: float
    is_searched: bool


async def report_tools(
    tools: Sequence[ToolSpec], count: CountTokens, context_length: int
) -> ToolReport:
    """Measure what the definitions of tools take of a context of so many tokens, as offered.

    Raises:
        TemplateError: the model's template cannot render them.
    """
    tools = [clean_definition(tool) for tool in tools]
    by_server: dict[str, list[ToolSpec]] = {}
    for tool in sort_tools(tools):
        by_server.setdefault(tool.server or "", []).append(tool)
    servers = []
    for server, own in sorted(by_server.items()):
        num_tokens = await _measure(own, count)
        servers.append(ToolTokens(server, len(own), num_tokens, num_tokens / context_length))
    total = await _measure(sort_tools(tools), count)
    is_searched = await is_too_much(tools, count, context_length)
    return ToolReport(tuple(servers), total, total / context_length, is_searched)


async def is_too_much(tools: Sequence[ToolSpec], count: CountTokens, context_length: int) -> bool:
    """Whether tools are searched: they take too much, and the tool that searches takes less.

    Raises:
        TemplateError: the model's template cannot render them.
    """
    most = int(context_length * MAX_SHARE)
    tools = sort_tools(tools)
    # A token has several bytes as a rule, so twice as many tokens as bytes are never reached.
    sizes = [2 * len(json.dumps(definition(tool))) + _FRAME_BYTES for tool in tools]
    if sum(sizes) <= most:
        return False
    # The first of many tools are enough to tell, as a rule, that all are too much.
    num_first = bisect_left(list(accumulate(sizes)), _ENOUGH_BYTES * most) + 1
    own = await _measure([search_spec(tools)], count)
    for part in (tools[:num_first], tools) if num_first < len(tools) else (tools,):
        num_tokens = await _measure(part, count)
        if num_tokens > most and own < num_tokens:
            return True
    return False


async def _measure(tools: Sequence[ToolSpec], count: CountTokens) -> int:
    return await count(_ASKED, tools) - await count(_ASKED, ()) if tools else 0
