"""Keeps a run's conversation inside the model's context.

Tool results are what grows: a long one is cut, and before a round that would not fit the
oldest ones are shown as one-line stubs. Their full texts stay here, where the model reads them
with a tool. Other messages, the user's above all, are never touched.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from runtime.agent.budget import CountTokens
from runtime.agent.limits import clip
from runtime.agent.search import ToolSearch
from runtime.chat.messages import Message
from tools.spec import JsonObject, ToolAnnotations, ToolResult, ToolSpec
from tools.toolset import CallContext, Toolset

logger = logging.getLogger(__name__)

READ_RESULT = ToolSpec(
    name="read_result",
    description=(
        "Read more of an earlier tool result that was cut or put away. `id` is what its note"
        " says; `offset` is the character to begin at."
    ),
    input_schema={
        "type": "object",
        "properties": {
            "id": {"type": "string", "pattern": "^r[0-9]{1,6}$"},
            "offset": {"type": "integer", "minimum": 0},
        },
        "required": ["id"],
    },
    annotations=ToolAnnotations(read_only=True),
)

# Once results go, they go until a quarter is free, so that not every round drops some: each
# time the prompt is prefilled again from the first one dropped.
_COMFORTABLE = 0.75


class Context:
    """The conversation as the model is shown it, and the texts of what it is not shown.

    A toolset too: `read_result`, once there is something to read, and what searches tools,
    beside the run's own.

    Invariant: a result's id is `r` and its place in the conversation, which only grows.

    Attributes:
        tools: what the model's prompt lists.
    """

    def __init__(
        self,
        toolset: Toolset,
        tools: Sequence[ToolSpec],
        max_chars: int,
        search: ToolSearch | None = None,
    ) -> None:
        self.tools = list(tools)
        self._search = search
        self._toolset = toolset
        self._max_chars = max_chars
        self._has_name = all(tool.name != READ_RESULT.name for tool in tools)
        self._texts: dict[str, str] = {}
        self._stubs: dict[int, str] = {}

    @property
    def admitted(self) -> Sequence[ToolSpec]:
        """What the model may call besides: it has found them."""
        found = () if self._search is None else self._search.admitted
        listed = {tool.name for tool in self.tools}
        return [tool for tool in found if tool.name not in listed]

    def callable_tools(self) -> Sequence[ToolSpec]:
        """What the model may call now."""
        return (*self.tools, *self.admitted)

    def offer(self, tools: Sequence[ToolSpec], search: ToolSearch | None = None) -> None:
        """Offer these tools from now on, and still what was kept."""
        self._search = search
        own = [READ_RESULT] if self._texts else []
        self.tools = [tool for tool in tools if tool.name != READ_RESULT.name or not own] + own
        self._has_name = bool(own) or all(tool.name != READ_RESULT.name for tool in tools)

    def cut(self, text: str, place: int) -> str:
        """Shorten the result that becomes message number `place`, and keep it whole."""
        if len(text) <= self._max_chars:
            return text
        result_id = self._keep(text, place)
        hint = f"; {READ_RESULT.name} id {result_id} has them" if result_id else ""
        return clip(text, self._max_chars, hint)

    def show(self, messages: Sequence[Message]) -> list[Message]:
        """Return the messages with what was put away as stubs."""
        return [
            replace(message, content=self._stubs[place]) if place in self._stubs else message
            for place, message in enumerate(messages)
        ]

    async def fit(self, messages: Sequence[Message], max_tokens: int, count: CountTokens) -> None:
        """Put results away, oldest first, until the prompt has at most `max_tokens`.

        Results of the round that just ended go only when nothing else is left. What still does
        not fit is left to the model to refuse.
        """
        num_tokens = await count(self.show(messages), self.tools)
        if num_tokens <= max_tokens:
            return
        num_before = num_tokens
        newest = max((n for n, one in enumerate(messages) if one.role == "assistant"), default=0)
        for place, message in enumerate(messages):
            goal = int(max_tokens * _COMFORTABLE) if place < newest else max_tokens
            if num_tokens <= goal:
                break
            if message.role == "tool" and self._put_away(message, place):
                num_tokens = await count(self.show(messages), self.tools)
        logger.debug("prompt of %d tokens cut to %d of %d", num_before, num_tokens, max_tokens)

    async def list_tools(self) -> Sequence[ToolSpec]:
        return self.callable_tools()

    async def call_tool(self, name: str, arguments: JsonObject, context: CallContext) -> ToolResult:
        """Read a kept result, search tools, or call one of the run's own."""
        if self._has_name and name == READ_RESULT.name:
            return self._read(str(arguments.get("id")), int(arguments.get("offset", 0)))
        if self._search is not None and self._search.has(name):
            return self._search.call(name, arguments)
        return await self._toolset.call_tool(name, arguments, context)

    def _put_away(self, message: Message, place: int) -> bool:
        """Show a stub from now on; False where it would be no shorter, or is one already."""
        if place in self._stubs:
            return False
        text = self._texts.get(f"r{place}", message.content)
        stub = f"[result of {message.name or 'a tool'}, {len(text)} characters, put away"
        stub += f"; {READ_RESULT.name} id r{place} has it]" if self._has_name else "]"
        if len(stub) >= len(message.content):
            return False
        self._keep(text, place)
        self._stubs[place] = stub
        return True

    def _keep(self, text: str, place: int) -> str | None:
        """Keep a text to be read; return its id, or None where the name of the tool is taken."""
        if not self._has_name:
            return None
        if not self._texts:
            self.tools.append(READ_RESULT)
        self._texts[f"r{place}"] = text
        return f"r{place}"

    def _read(self, result_id: str, offset: int) -> ToolResult:
        text = self._texts.get(result_id)
        if text is None:
            known = ", ".join(self._texts)
            return ToolResult.from_text(
                f"no result {result_id!r}; there are {known}", is_error=True
            )
        if offset >= len(text):
            problem = f"offset {offset} is past the end: {result_id} has {len(text)} characters"
            return ToolResult.from_text(problem, is_error=True)
        if len(text) - offset <= self._max_chars:
            return ToolResult.from_text(text[offset:])
        end = offset + max(1, self._max_chars - 80)
        note = f"[{end} of {len(text)} characters read; go on with offset {end}]"
        return ToolResult.from_text(f"{text[offset:end]}\n{note}")
