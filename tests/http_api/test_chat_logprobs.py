"""Log-probabilities and biases of chat completions over HTTP."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from runtime.chat.model import ChatModel
from tests.helpers.model_service import ScriptedModels
from tests.helpers.scripted_engine import ScriptedEngine, say
from tests.helpers.tiny_tokenizer import tiny_tokenizer
from tests.helpers.web_service import open_app
from tests.http_api.test_chat import chunks_of

pytestmark = pytest.mark.anyio

TOKENIZER = tiny_tokenizer()
HELLO = {"model": "scripted", "messages": [{"role": "user", "content": "hello"}]}


async def ask(said: str, **fields: Any) -> tuple[Any, ScriptedEngine]:
    engine = ScriptedEngine(TOKENIZER, say(said), score=lambda token_id: -token_id / 8)
    model = ChatModel("scripted", TOKENIZER, engine, context_length=4096)
    async with open_app(ScriptedModels(cast("Any", model))) as app:
        headers = {"host": "127.0.0.1", "content-type": "application/json"}
        body = json.dumps({**HELLO, **fields}).encode()
        return await app.request("POST", "/v1/chat/completions", headers, body), engine


async def test_tokens_come_with_text_bytes_and_the_likeliest_in_their_place() -> None:
    response, engine = await ask("é", logprobs=True, top_logprobs=3)
    (choice,) = response.json()["choices"]
    tokens = TOKENIZER.encode("é")
    assert choice["message"]["content"] == "é"
    entries: list[dict[str, Any]] = [
        {
            "token": TOKENIZER.spell(one).decode("utf-8", "replace"),
            "logprob": -one / 8,
            "bytes": list(TOKENIZER.spell(one)),
        }
        for one in tokens
    ]
    assert b"".join(bytes(one["bytes"]) for one in entries) == "é".encode()
    assert choice["logprobs"] == {
        "content": [{**one, "top_logprobs": [one]} for one in entries],
        "refusal": None,
    }
    assert engine.requests[0].sampling.top_logprobs == 3
    response, _ = await ask("é", logprobs=True)
    assert response.json()["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []
    response, engine = await ask("é")
    assert response.json()["choices"][0]["logprobs"] is None
    assert engine.requests[0].sampling.top_logprobs is None


async def test_streamed_log_probabilities_join_to_the_whole() -> None:
    fields = {"logprobs": True, "top_logprobs": 1}
    whole, _ = await ask("time and time", **fields)
    streamed, _ = await ask("time and time", stream=True, **fields)
    parts = [chunk["choices"][0]["logprobs"] for chunk in chunks_of(streamed)]
    joined = [token for part in parts if part for token in part["content"]]
    assert joined == whole.json()["choices"][0]["logprobs"]["content"]
    assert sum(part is not None for part in parts) > 1


async def test_biases_reach_the_engine_and_those_of_nothing_are_left_out() -> None:
    _, engine = await ask("x", logit_bias={"5": 3, "9": -100, "none": 0})
    assert engine.requests[0].sampling.logit_bias == ((5, 3.0), (9, -100.0))
