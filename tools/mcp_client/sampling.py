"""A tool server's request for text of our model: checked against its budget, and translated.

Source: Model Context Protocol 2025-11-25, sampling.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import anyio
import mcp_types as types

from tools.errors import InvalidRequestError
from tools.mcp_client.options import SamplingBudget
from tools.mcp_client.wire import from_mcp_content, from_mcp_tool
from tools.sampling import SampledCall, SampledMessage, SamplingReply, SamplingRequest

MAX_MESSAGES = 256
MAX_TOOLS = 64
_WINDOW_S = 60.0


class SamplingMeter:
    """Counts a server's requests; a minute holds no more than its budget allows."""

    def __init__(self, budget: SamplingBudget) -> None:
        self._budget = budget
        self._times: deque[float] = deque()

    def count(self) -> None:
        """Count one more.

        Raises:
            InvalidRequestError: the last minute had its share.
        """
        now = anyio.current_time()
        while self._times and self._times[0] <= now - _WINDOW_S:
            self._times.popleft()
        if len(self._times) >= self._budget.per_minute:
            wait_s = self._times[0] + _WINDOW_S - now
            raise InvalidRequestError(
                f"this client answers {self._budget.per_minute} sampling requests a minute; "
                f"ask again in {wait_s:.0f} s"
            )
        self._times.append(now)


def to_sampling_request(
    server: str, params: types.CreateMessageRequestParams, budget: SamplingBudget
) -> SamplingRequest:
    """Return what our model is asked; never more tokens than the budget has.

    Raises:
        InvalidRequestError: it asks for what this client does not give; the server is told.
    """
    if params.include_context not in {None, "none"}:
        raise InvalidRequestError(
            f"includeContext {params.include_context!r} is refused: no conversation leaves this "
            "client; send what is needed as messages"
        )
    if (params.tools or params.tool_choice) and not budget.has_tools:
        raise InvalidRequestError("this client did not declare sampling.tools")
    if len(params.messages) > MAX_MESSAGES or len(params.tools or ()) > MAX_TOOLS:
        raise InvalidRequestError(f"at most {MAX_MESSAGES} messages and {MAX_TOOLS} tools are read")
    if params.max_tokens < 1 or not 0 <= (params.temperature or 0) <= 2:
        raise InvalidRequestError("maxTokens has to be at least 1, temperature 0 to 2")
    tools = [from_mcp_tool(tool, name=tool.name, server=server) for tool in params.tools or ()]
    choice = params.tool_choice
    return SamplingRequest(
        server=server,
        messages=tuple(turn for message in params.messages for turn in _turns(message)),
        max_tokens=min(params.max_tokens, budget.max_tokens),
        system=params.system_prompt or None,
        temperature=params.temperature,
        stop=tuple(params.stop_sequences or ()),
        tools=tuple(tools),
        tool_mode=(choice.mode if choice else None) or "auto",
    )


def to_sampling_result(
    reply: SamplingReply, *, with_tools: bool
) -> types.CreateMessageResult | types.CreateMessageResultWithTools:
    """Return what the server is told; its own shape where it offered tools."""
    text = types.TextContent(text=reply.text)
    if not with_tools:
        return types.CreateMessageResult(
            role="assistant", content=text, model=reply.model, stop_reason=reply.stop_reason
        )
    calls = [
        types.ToolUseContent(id=call.call_id, name=call.name, input=call.arguments)
        for call in reply.calls
    ]
    return types.CreateMessageResultWithTools(
        role="assistant",
        content=[*([text] if reply.text or not calls else []), *calls],
        model=reply.model,
        stop_reason=reply.stop_reason,
    )


def _turns(message: types.SamplingMessage) -> Sequence[SampledMessage]:
    """Split a message: results of tools are turns of their own."""
    results: list[SampledMessage] = []
    texts: list[str] = []
    calls: list[SampledCall] = []
    for block in message.content_as_list:
        if isinstance(block, types.TextContent):
            texts.append(block.text)
        elif isinstance(block, types.ToolUseContent):
            calls.append(SampledCall(block.id, block.name, block.input))
        elif isinstance(block, types.ToolResultContent):
            text = "\n".join(from_mcp_content(part).as_text for part in block.content)
            results.append(SampledMessage("tool", text, call_id=block.tool_use_id))
        else:
            raise InvalidRequestError(f"this client's model reads no {block.type} in a message")
    own = SampledMessage(message.role, "\n".join(texts), tuple(calls))
    return [*results, *([own] if texts or calls or not results else [])]
