"""Uses the Responses API of a `zonda serve` with OpenAI's own client, which checks every answer.

Runs in the clients' environment: `python tests/clients/responses.py URL`. The server has the
workbench as its tool server.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

openai: Any = import_module("openai")  # in the clients' environment only

CALCULATE = {"type": "mcp", "server_label": "workbench", "allowed_tools": ["calculate"]}
MUST_CALL = {"type": "mcp", "server_label": "workbench", "name": "calculate"}
WEATHER = {
    "type": "function",
    "name": "weather",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


def whole_and_streamed(client: Any) -> None:
    fields = {"input": "Say hello.", "max_output_tokens": 200, "temperature": 0}
    whole = client.responses.create(model="smollm2-135m", **fields)
    with client.responses.stream(model="smollm2-135m", **fields) as stream:
        text = "".join(one.delta for one in stream if one.type == "response.output_text.delta")
        streamed = stream.get_final_response()
    assert text == streamed.output_text == whole.output_text != ""
    assert whole.usage.output_tokens == streamed.usage.output_tokens > 0


def log_probabilities(client: Any) -> None:
    answer = client.responses.create(
        input="Say hello.",
        max_output_tokens=16,
        top_logprobs=2,
        include=["message.output_text.logprobs"],
    )
    (part,) = answer.output[0].content
    assert "".join(bytes(one.bytes).decode() for one in part.logprobs) == part.text != ""
    assert all(len(one.top_logprobs) == 2 for one in part.logprobs)


def kept(client: Any) -> None:
    first = client.responses.create(input="I am Ada.", max_output_tokens=16)
    second = client.responses.create(
        input="Hm?", previous_response_id=first.id, max_output_tokens=16
    )
    items = list(client.responses.input_items.list(second.id, order="asc", limit=2))
    assert [one.type for one in items] == ["message"] * 3
    assert client.responses.retrieve(first.id).output_text == first.output_text
    client.responses.delete(first.id)
    try:
        client.responses.retrieve(first.id)
    except openai.NotFoundError:
        pass
    else:
        raise AssertionError("it is still there")
    counted = client.responses.input_tokens.count(input="I am Ada.")
    assert counted.input_tokens == first.usage.input_tokens


def conversation(client: Any) -> None:
    made = client.conversations.create(items=[{"role": "user", "content": "I am Ada."}])
    client.responses.create(input="Who?", conversation=made.id, max_output_tokens=16)
    items = client.conversations.items.list(made.id)
    assert len(list(items)) == 3
    assert client.conversations.retrieve(made.id).id == made.id
    assert client.conversations.delete(made.id).deleted


def functions(client: Any) -> None:
    fields = {"tools": [WEATHER], "max_output_tokens": 64}
    asked = client.responses.create(
        input="In Rome?", tool_choice="required", parallel_tool_calls=False, **fields
    )
    call = next(one for one in asked.output if one.type == "function_call")
    assert json.loads(call.arguments) in ({"city": "Paris"}, {"city": "Rome"})
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "sun"}
    told = client.responses.create(
        input=[output], previous_response_id=asked.id, tool_choice="none", **fields
    )
    assert told.output[-1].type == "message"


def background(client: Any) -> None:
    stream = client.responses.create(
        input="Count for ever.", background=True, stream=True, max_output_tokens=4000
    )
    begun = next(iter(stream)).response
    stream.close()
    assert client.responses.cancel(begun.id).status == "cancelled"
    assert client.responses.cancel(begun.id).status == "cancelled"
    again = client.responses.retrieve(begun.id, stream=True, starting_after=0)
    assert next(one.type for one in again) == "response.queued"


def tool_servers(client: Any) -> None:
    fields = {"tools": [CALCULATE], "max_output_tokens": 128}
    events = list(
        client.responses.create(
            input="What is 17 * 23?", tool_choice=MUST_CALL, stream=True, **fields
        )
    )
    asked = events[-1].response
    assert [one.type for one in asked.output] == ["mcp_list_tools", "mcp_approval_request"]
    assert [tool.name for tool in asked.output[0].tools] == ["calculate"]
    answer = {
        "type": "mcp_approval_response",
        "approval_request_id": asked.output[1].id,
        "approve": True,
    }
    made = client.responses.create(
        input=[answer], previous_response_id=asked.id, tool_choice="none", **fields
    )
    call = made.output[0]
    assert (call.type, call.approval_request_id) == ("mcp_call", asked.output[1].id)
    assert call.output is not None or call.error is not None


def main(url: str) -> int:
    client = openai.OpenAI(
        base_url=f"{url}/v1", api_key="none", _strict_response_validation=True, timeout=60
    )
    steps: list[Callable[[Any], None]] = [
        *(whole_and_streamed, log_probabilities, kept, conversation),
        *(functions, background, tool_servers),
    ]
    for step in steps:
        step(client)
        sys.stdout.write(f"{step.__name__}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
