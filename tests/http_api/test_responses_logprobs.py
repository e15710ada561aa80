"""Log-probabilities of responses over HTTP."""

from __future__ import annotations

import json
from typing import Any, cast

import httpx2
import pytest

from runtime.chat.model import ChatModel
from tests.helpers.model_service import ScriptedModels
from tests.helpers.scripted_engine import ScriptedEngine, say
from tests.helpers.tiny_tokenizer import tiny_tokenizer
from tests.helpers.web_service import HEADERS, open_app
from tests.http_api.test_responses import events_of

pytestmark = pytest.mark.anyio

TOKENIZER = tiny_tokenizer()
INCLUDE = ["message.output_text.logprobs"]
CLOCK = {"type": "function", "name": "clock"}
BOTH = {"include": INCLUDE, "top_logprobs": 1}


async def ask(said: str, **fields: Any) -> tuple[httpx2.Response, ScriptedEngine]:
    engine = ScriptedEngine(TOKENIZER, say(said), score=lambda token_id: -token_id / 8)
    model = ChatModel("scripted", TOKENIZER, engine, context_length=4096)
    async with open_app(ScriptedModels(cast("Any", model))) as app:
        body = json.dumps({"model": "scripted", "input": "hello", **fields}).encode()
        return await app.request("POST", "/v1/responses", HEADERS, body), engine


def entries(text: str, num_top: int) -> list[dict[str, Any]]:
    found = []
    for token_id in TOKENIZER.encode(text):
        spelled = TOKENIZER.spell(token_id)
        one = {
            "token": spelled.decode("utf-8", "replace"),
            "logprob": -token_id / 8,
            "bytes": list(spelled),
        }
        found.append({**one, "top_logprobs": [one][:num_top]})
    return found


@pytest.mark.parametrize(
    ("fields", "num_top"),
    [({"include": INCLUDE}, 0), ({"top_logprobs": 3}, 3), (BOTH, 1)],
)
async def test_tokens_come_with_their_log_probabilities(
    fields: dict[str, Any], num_top: int
) -> None:
    response, engine = await ask("é", **fields)
    body = response.json()
    assert body["output"][0]["content"] == [
        {
            "type": "output_text",
            "text": "é",
            "annotations": [],
            "logprobs": entries("é", num_top),
        }
    ]
    assert body["top_logprobs"] == num_top
    assert engine.requests[0].sampling.top_logprobs == num_top


async def test_nobody_is_told_what_was_not_asked_for() -> None:
    response, engine = await ask("é", top_logprobs=0)
    assert response.json()["output"][0]["content"][0]["logprobs"] == []
    assert engine.requests[0].sampling.top_logprobs is None


async def test_streamed_log_probabilities_join_to_the_whole() -> None:
    response, _ = await ask("time and time", include=INCLUDE, stream=True)
    events = events_of(response)
    parts = [one["logprobs"] for one in events if one["type"] == "response.output_text.delta"]
    (done,) = (one for one in events if one["type"] == "response.output_text.done")
    whole = events[-1]["response"]["output"][0]["content"][0]["logprobs"]
    assert [token for part in parts for token in part] == done["logprobs"] == whole
    assert whole == entries("time and time", 0)
    assert len(parts) > 1


async def test_a_text_before_a_call_has_its_log_probabilities_too() -> None:
    called = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
    response, _ = await ask(f"time {called}", include=INCLUDE, tools=[CLOCK])
    said, call = response.json()["output"]
    assert (said["type"], call["type"]) == ("message", "function_call")
    told = said["content"][0]["logprobs"]
    assert "".join(one["token"] for one in told).startswith("time")


async def test_those_of_an_answer_that_may_be_mended_come_with_its_end() -> None:
    response, _ = await ask("time and time", include=INCLUDE, stream=True, tools=[CLOCK])
    events = events_of(response)
    parts = [one["logprobs"] for one in events if one["type"] == "response.output_text.delta"]
    assert not any(parts)
    whole = events[-1]["response"]["output"][0]["content"][0]["logprobs"]
    assert whole == entries("time and time", 0)
