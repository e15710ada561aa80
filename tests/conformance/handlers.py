"""What the suite calls that no tool or prompt of ours does: sampling, roots, logging, changes.

These answer in place of our handlers, on the wire of our server; everything else is passed on.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import anyio
import mcp_types as t
from mcp import MCPError
from mcp.server import ServerRequestContext

from mcp_servers.model_server.tasks import check_declared
from mcp_servers.toolset_server import OfferingServer
from tests.conformance.tools import PNG, TEXT, spec_of
from tools.spec import ToolSpec

Context = ServerRequestContext[Any, Any]
Answer = t.CallToolResult | t.InputRequiredResult
Call = Callable[[Context, t.CallToolRequestParams], Awaitable[Answer]]

_IMAGE = t.ImageContent(data=base64.b64encode(PNG).decode(), mime_type="image/png")
_SAMPLE = t.CreateMessageRequest(
    params=t.CreateMessageRequestParams(
        messages=[
            t.SamplingMessage(
                role="user", content=t.TextContent(text="What is the capital of France?")
            )
        ],
        max_tokens=100,
    )
)
_ROOTS = t.ListRootsRequest()


def says(*content: t.ContentBlock) -> Call:
    """Return always the same."""

    async def answer(context: Context, params: t.CallToolRequestParams) -> Answer:
        return t.CallToolResult(content=list(content))

    return answer


def _embedded(uri: str, mime_type: str, text: str) -> t.EmbeddedResource:
    contents = t.TextResourceContents(uri=uri, mime_type=mime_type, text=text)
    return t.EmbeddedResource(resource=contents)


def _form(message: str, name: str) -> t.ElicitRequest:
    schema = {"type": "object", "properties": {name: TEXT}, "required": [name]}
    return t.ElicitRequest(
        params=t.ElicitRequestFormParams(message=message, requested_schema=schema)
    )


def asks(**requests: t.InputRequest) -> Call:
    """Ask for what the client declares, until all of it is there."""

    async def answer(context: Context, params: t.CallToolRequestParams) -> Answer:
        given = params.input_responses or {}
        missing = {
            key: request
            for key, request in requests.items()
            if key not in given and _declares(context, request)
        }
        if missing:
            return t.InputRequiredResult(input_requests=missing, request_state=params.name)
        return t.CallToolResult(content=[t.TextContent(text=f"was told {sorted(given)}")])

    return answer


def _declares(context: Context, request: t.InputRequest) -> bool:
    capabilities = context.session.client_capabilities or t.ClientCapabilities()
    declared = {
        "elicitation/create": capabilities.elicitation,
        "sampling/createMessage": capabilities.sampling,
        "roots/list": capabilities.roots,
    }
    return declared[request.method] is not None


async def sample(context: Context, params: t.CallToolRequestParams) -> Answer:
    prompt = str((params.arguments or {}).get("prompt", ""))
    result = await context.session.create_message(
        [t.SamplingMessage(role="user", content=t.TextContent(text=prompt))],
        max_tokens=100,
        related_request_id=context.request_id,
    )
    return t.CallToolResult(content=[t.TextContent(text=f"LLM response: {result.content}")])


async def log(context: Context, params: t.CallToolRequestParams) -> Answer:
    for text in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await context.session.send_log_message("info", text, related_request_id=context.request_id)
        await anyio.sleep(0.05)
    return t.CallToolResult(content=[t.TextContent(text="all was logged")])


async def need_sampling(context: Context, params: t.CallToolRequestParams) -> Answer:
    if _declares(context, _SAMPLE):
        return t.CallToolResult(content=[t.TextContent(text="it is declared")])
    raise MCPError(
        t.MISSING_REQUIRED_CLIENT_CAPABILITY,
        "the client has to declare sampling",
        data={"requiredCapabilities": {"sampling": {}}},
    )


_ROUNDS = "test_input_required_result"
CALLS: Mapping[str, Call] = {
    "test_embedded_resource": says(
        _embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")
    ),
    "test_multiple_content_types": says(
        t.TextContent(text="Multiple content types test:"),
        _IMAGE,
        _embedded("test://mixed-content-resource", "application/json", '{"test":"data"}'),
    ),
    "test_tool_with_logging": log,
    "test_logging_tool": log,
    "test_sampling": sample,
    "test_missing_capability": need_sampling,
    f"{_ROUNDS}_sampling": asks(capital_question=_SAMPLE),
    f"{_ROUNDS}_list_roots": asks(client_roots=_ROOTS),
    f"{_ROUNDS}_multiple_inputs": asks(
        user_name=_form("What is your name?", "name"), greeting=_SAMPLE, client_roots=_ROOTS
    ),
    f"{_ROUNDS}_capabilities": asks(
        user_name=_form("What is your name?", "name"), greeting=_SAMPLE
    ),
}
CHANGES = ("test_trigger_tool_change", "test_trigger_prompt_change")


def list_specs() -> Sequence[ToolSpec]:
    """The tools that are answered here."""
    return [
        spec_of(name, "Shows a part of the protocol.", prompt=TEXT) for name in (*CALLS, *CHANGES)
    ]


def wrap(server: OfferingServer) -> None:
    """Put these answers before those of a server that is ready."""
    call_tool = server.get_request_handler("tools/call")
    get_prompt = server.get_request_handler("prompts/get")
    announcements = server.announcements
    assert call_tool is not None
    assert get_prompt is not None
    assert announcements is not None

    async def call(context: Context, params: t.CallToolRequestParams) -> Any:
        if params.name == "failing_job":  # the suite takes it for a tool that only tasks can serve
            check_declared(context)
        if params.name in CHANGES:
            is_tool = params.name == CHANGES[0]
            await (announcements.tools_changed if is_tool else announcements.prompts_changed)()
            return t.CallToolResult(content=[t.TextContent(text="all were told")])
        if params.name in CALLS:
            return await CALLS[params.name](context, params)
        return await call_tool.handler(context, params)

    async def prompt(context: Context, params: t.GetPromptRequestParams) -> Any:
        asked = "user_context" in (params.input_responses or {})
        if params.name == f"{_ROUNDS}_prompt" and not asked:
            form = _form("What context should the prompt use?", "context")
            return t.InputRequiredResult(input_requests={"user_context": form})
        return await get_prompt.handler(context, params)

    server.add_request_handler("tools/call", t.CallToolRequestParams, call)
    server.add_request_handler("prompts/get", t.GetPromptRequestParams, prompt)
