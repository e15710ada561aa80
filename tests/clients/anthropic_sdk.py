"""Anthropic's own SDK against `zonda serve`, whose address is the argument.

Run by `tests.clients` in an environment that has the SDK and none of our packages.
"""

from __future__ import annotations

import sys

import anyio
from anthropic import (  # type: ignore[import-not-found]  # not a dependency of ours
    Anthropic,
    APIStatusError,
    AsyncAnthropic,
    BadRequestError,
    NotFoundError,
)

MODEL = "smollm2-135m"
ASKED = {"role": "user", "content": "What is the weather in Oslo?"}
WEATHER = {
    "name": "get_weather",
    "description": "The weather in a city now.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
MUST_CALL = {"type": "tool", "name": "get_weather"}


def check_calls(client: Anthropic) -> None:
    """A call, whole and streamed, and an answer to its result."""
    options = {"model": MODEL, "max_tokens": 300, "tools": [WEATHER], "tool_choice": MUST_CALL}
    whole = client.messages.create(messages=[ASKED], **options)
    with client.messages.stream(messages=[ASKED], **options) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_message()
    for message in (whole, streamed):
        (call,) = message.content
        assert (message.stop_reason, call.type, call.name) == (
            "tool_use",
            "tool_use",
            "get_weather",
        )
        assert set(call.input) == {"city"}
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
    result = {"type": "tool_result", "tool_use_id": whole.content[0].id, "content": "12 degrees"}
    turns = [ASKED, {"role": "assistant", "content": whole.content}]
    turns.append({"role": "user", "content": [result]})
    answer = client.messages.create(
        model=MODEL, max_tokens=40, tools=[WEATHER], tool_choice={"type": "none"}, messages=turns
    )
    assert answer.stop_reason in {"end_turn", "max_tokens"}
    assert answer.usage.cache_read_input_tokens > 0


def check_counts(client: Anthropic) -> None:
    """Counted tokens are those that are used; a stop sequence is named."""
    asked = {"model": MODEL, "system": "Be brief.", "tools": [WEATHER], "messages": [ASKED]}
    counted = client.messages.count_tokens(**asked)
    greedy = {"temperature": 0}
    used = client.messages.create(**asked, max_tokens=1, extra_body=greedy).usage
    assert counted.input_tokens == used.input_tokens + used.cache_read_input_tokens
    spoken = client.messages.create(
        model=MODEL, max_tokens=40, messages=[ASKED], extra_body=greedy
    ).content[0]
    middle = spoken.text[len(spoken.text) // 2 :][:3]
    cut = client.messages.create(
        model=MODEL, max_tokens=40, messages=[ASKED], stop_sequences=[middle], extra_body=greedy
    )
    assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", middle)
    assert cut.content[0].text == spoken.text.split(middle)[0]


def check_refusals(client: Anthropic) -> None:
    """Errors are of the SDK's own kinds and name the request."""
    image = {"type": "image", "source": {"type": "url", "url": "http://a.example/b.png"}}
    cases = (
        (MODEL, [image], BadRequestError, "invalid_request_error", "no image"),
        (MODEL, "word " * 20000, BadRequestError, "invalid_request_error", "too long: 2"),
        ("nothing", "?", NotFoundError, "not_found_error", "no model is named 'nothing'"),
    )
    for model, content, kind, name, told in cases:
        problem = error_of(client, model=model, messages=[{"role": "user", "content": content}])
        assert isinstance(problem, kind)
        assert (problem.type, problem.request_id is not None) == (name, True)
        assert told in problem.message
    assert [model.id for model in client.models.list()] == [MODEL]


def error_of(client: Anthropic, **asked: object) -> APIStatusError | None:
    try:
        client.messages.create(max_tokens=5, **asked)
    except APIStatusError as exc:
        return exc
    return None


async def check_async(url: str) -> None:
    """Streams and whole messages at the same time."""
    async with AsyncAnthropic(base_url=url, api_key="unused", max_retries=0) as client:
        texts: list[str] = []

        async def stream() -> None:
            async with client.messages.stream(
                model=MODEL, max_tokens=20, messages=[ASKED], extra_body={"temperature": 0}
            ) as events:
                texts.append("".join([text async for text in events.text_stream]))

        async def ask() -> None:
            message = await client.messages.create(
                model=MODEL, max_tokens=20, messages=[ASKED], extra_body={"temperature": 0}
            )
            texts.append(message.content[0].text)

        async with anyio.create_task_group() as group:
            for check in (stream, ask, stream, ask):
                group.start_soon(check)
        assert len(set(texts)) == 1
        assert len(texts) == 4


def main(url: str) -> None:
    client = Anthropic(base_url=url, api_key="unused", max_retries=0)
    check_calls(client)
    check_counts(client)
    check_refusals(client)
    anyio.run(check_async, url)


if __name__ == "__main__":
    main(sys.argv[1])
    sys.stdout.write("anthropic's SDK is served as it expects\n")
