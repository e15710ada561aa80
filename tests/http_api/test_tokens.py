"""Long texts at `/tokenize`: written bit by bit, and no longer than somebody waits."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import anyio
import anyio.to_thread
import pytest

import runtime.http_api.tokens as tokens_module
from runtime.tokenizer import Tokenizer
from tests.helpers.model_service import scripted_models
from tests.helpers.scripted_chat_model import ScriptedTurn, play
from tests.helpers.tiny_tokenizer import tiny_tokenizer
from tests.helpers.web_service import HEADERS, on_port, open_app
from tools.spec import JsonObject

pytestmark = pytest.mark.anyio

TEXT = "and the time é\n" * 40


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"prompt": TEXT}, "tokens"),
        ({"prompt": TEXT, "return_token_strs": True}, "token_strs"),
        ({"content": TEXT}, "tokens"),
        ({"content": TEXT, "with_pieces": True}, "tokens"),
        ({"content": "", "with_pieces": True}, "tokens"),
    ],
)
@pytest.mark.parametrize("at_once", [1, 7, 100_000])
async def test_an_answer_is_the_same_in_pieces_of_any_size(
    asked: JsonObject, field: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens_module, "WRITTEN_AT_ONCE", at_once)
    tokenizer = tiny_tokenizer()
    token_ids = tokenizer.encode(asked.get("prompt") or asked.get("content", ""))
    expected: list[object] = list(token_ids)
    if field == "token_strs":
        expected = [tokenizer.spell(one).decode("utf-8", "replace") for one in token_ids]
    elif asked.get("with_pieces"):
        expected = [{"id": one, "piece": _piece(tokenizer, one)} for one in token_ids]
    async with open_app(scripted_models(play(ScriptedTurn("x")))) as app:
        answer = await app.request("POST", "/tokenize", HEADERS, json.dumps(asked).encode())
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()[field] == expected
    if "prompt" in asked:
        assert answer.json()["count"] == len(token_ids)


def _piece(tokenizer: Tokenizer, token_id: int) -> str | list[int]:
    spelled = tokenizer.spell(token_id)
    try:
        return spelled.decode()
    except UnicodeDecodeError:
        return list(spelled)


async def test_a_text_is_cut_no_further_once_its_client_has_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, is_left, ended = threading.Event(), threading.Event(), threading.Event()

    def encode_for_ever(
        self: Tokenizer, text: str, *, parse_special: bool = False
    ) -> Iterator[list[int]]:
        try:
            yield [3]
            begun.set()
            is_left.wait(10)
            while True:
                yield [3]
        finally:
            ended.set()

    monkeypatch.setattr(Tokenizer, "encode_parts", encode_for_ever)
    body = json.dumps({"content": TEXT}).encode()
    head = b"POST /tokenize HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    async with open_app(scripted_models(play(ScriptedTurn("x")))) as app, on_port(app) as url:
        port = int(url.rsplit(":", 1)[1].removesuffix("/mcp"))
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            await anyio.to_thread.run_sync(begun.wait, 10)
        is_left.set()
        assert await anyio.to_thread.run_sync(ended.wait, 10)
