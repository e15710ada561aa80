"""A tool server of the modern era that asks its client whatever a test says.

`ask_client` answers with the request that it is given as its question, and once
that is answered with the answer; with `rounds` it asks that often, with `"rounds": 0` it only
wants to be asked again, once. `tell_log` logs.
"""

from __future__ import annotations

from typing import Any

import mcp_types as types
from mcp.server import Server, ServerRequestContext
from pydantic import TypeAdapter

QUESTION: TypeAdapter[Any] = TypeAdapter(types.InputRequest)


async def list_tools(
    context: ServerRequestContext, params: types.PaginatedRequestParams | None
) -> types.ListToolsResult:
    schema = {"type": "object"}
    tools = [types.Tool(name=name, input_schema=schema) for name in ("ask_client", "tell_log")]
    return types.ListToolsResult(tools=tools)


async def call_tool(
    context: ServerRequestContext, params: types.CallToolRequestParams
) -> types.CallToolResult | types.InputRequiredResult:
    arguments = params.arguments or {}
    if params.name == "tell_log":
        note = types.LoggingMessageNotificationParams.model_validate(arguments["params"])
        await context.session.send_notification(
            types.LoggingMessageNotification(params=note), related_request_id=context.request_id
        )
        return types.CallToolResult(content=[])
    rounds = arguments.get("rounds", 1)
    done = int(params.request_state or 0)
    if rounds == 0 and done == 0:
        return types.InputRequiredResult(request_state="1")
    if done < rounds:
        question = {"method": arguments["method"], "params": arguments["params"]}
        return types.InputRequiredResult(
            input_requests={"q": QUESTION.validate_python(question, by_name=False)},
            request_state=str(done + 1),
        )
    answers = {
        key: value.model_dump(by_alias=True, exclude_none=True, mode="json")
        for key, value in (params.input_responses or {}).items()
    }
    structured = {"result": answers["q"]} if answers else {"state": params.request_state}
    return types.CallToolResult(content=[], structured_content=structured)


def build_asking_server() -> Server:
    """Build it."""
    return Server("asking", on_list_tools=list_tools, on_call_tool=call_tool)
