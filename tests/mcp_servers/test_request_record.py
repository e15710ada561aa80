"""Tests of a request's id, of what its caller is told, and of its line in the access log."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mcp_servers.model_server.admission import AdmissionLimits
from mcp_servers.request_record import open_access_log
from tests.helpers.model_service import scripted_models
from tests.helpers.scripted_chat_model import ScriptedTurn, play
from tests.helpers.web_service import HEADERS, open_app
from tools.errors import ConfigurationError
from tools.spec import JsonObject

pytestmark = pytest.mark.anyio

KEY = "ada:inference,tools:key-0123456789abcdef"
BEARER = {**HEADERS, "authorization": "Bearer key-0123456789abcdef"}
CHAT = "/v1/chat/completions"
SECRET = {"model": "scripted", "messages": [{"role": "user", "content": "secret"}]}
OURS = re.compile(r"req_[0-9a-f]{24}")


@pytest.mark.parametrize("path", ["/health", "/nothing", "/v1/models", "/v1/nothing", "/mcp"])
async def test_every_answer_bears_the_id_that_was_given(path: str) -> None:
    async with open_app(scripted_models(play(ScriptedTurn("x"))), [KEY]) as app:
        for headers in (HEADERS, BEARER):
            given = {**headers, "x-request-id": "a-1._Z"}
            assert (await app.request("GET", path, given)).headers["x-request-id"] == "a-1._Z"


@pytest.mark.parametrize("given", ["", "a b", "a\x1b[31m", "x" * 129, "a,b"])
async def test_an_id_that_could_do_harm_in_a_log_is_replaced(given: str) -> None:
    records: list[JsonObject] = []
    async with open_app(scripted_models(play(ScriptedTurn("x"))), record=records.append) as app:
        headers = {**HEADERS, "x-request-id": given}
        for path in ("/health", "/v1/models"):
            response = await app.request("GET", path, headers)
            assert OURS.fullmatch(response.headers["x-request-id"])
            assert records.pop()["id"] == response.headers["x-request-id"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_record_says_who_took_how_much_and_nothing_of_what_was_said(stream: bool) -> None:
    records: list[JsonObject] = []
    models = scripted_models(play(ScriptedTurn("secret too")))
    async with open_app(models, [KEY], record=records.append) as app:
        body = json.dumps({**SECRET, "stream": stream}).encode()
        response = await app.request("POST", f"{CHAT}?secret=1", BEARER, body)
    (record,) = records
    assert "secret" not in json.dumps(records)
    assert str(record.pop("time")).endswith("+00:00")
    assert record.pop("seconds") > 0
    assert record == {
        "id": response.headers["x-request-id"],
        "method": "POST",
        "route": CHAT,
        "status": 200,
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "principal": "key ada",
    }


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "fields", "tokens"),
    [
        ("/v1/completions", {"prompt": [[1, 2], [3, 4, 5]], "max_tokens": 3}, (5, 6)),
        ("/v1/responses", {"input": "and"}, (10, 5)),
        ("/v1/messages", {"messages": SECRET["messages"], "max_tokens": 3}, (10, 5)),
        ("/v1/embeddings", {"input": [[1, 2], [3, 4, 5]]}, (5, 0)),
    ],
)
async def test_every_route_that_runs_a_model_tells_what_it_took(
    path: str, fields: JsonObject, tokens: tuple[int, int], stream: bool
) -> None:
    records: list[JsonObject] = []
    asked = {"model": "scripted", **fields}
    if path != "/v1/embeddings":
        asked["stream"] = stream
    async with open_app(scripted_models(play(ScriptedTurn("x"))), record=records.append) as app:
        response = await app.request("POST", path, HEADERS, json.dumps(asked).encode())
    assert response.status_code == 200
    (record,) = records
    assert (record["prompt_tokens"], record["completion_tokens"]) == tokens


async def test_records_name_only_our_own_methods_and_routes() -> None:
    records: list[JsonObject] = []
    async with open_app(scripted_models(play(ScriptedTurn("x"))), record=records.append) as app:
        await app.request("GET", "/v1/models/a%1bb", HEADERS)
        await app.request("EVIL", "/%1b[31m", HEADERS)
        await app.request("POST", "/mcp", HEADERS, b"{")
        await app.request("GET", "/health", {**HEADERS, "host": "evil.example"})
    told = [(one["method"], one["route"], one["status"]) for one in records]
    assert told == [
        ("GET", "/v1/models/{name:path}", 404),
        ("other", "other", 404),
        ("POST", "/mcp", 400),
        ("GET", "other", 421),
    ]


async def test_callers_of_the_apis_are_told_what_they_may_still_send() -> None:
    limits = AdmissionLimits(max_running=2, max_waiting=3, max_running_each=2, max_waiting_each=2)
    async with open_app(scripted_models(play(ScriptedTurn("x"))), limits=limits) as app:
        other = await app.request("GET", "/health", HEADERS)
        answer = await app.request("POST", CHAT, HEADERS, json.dumps(SECRET).encode())
    assert not [name for name in other.headers if name.startswith("x-ratelimit")]
    told = {name: text for name, text in answer.headers.items() if name.startswith("x-ratelimit")}
    assert told.keys() == {
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
    }
    assert told["x-ratelimit-limit-requests"] == "4"
    assert re.fullmatch(r"\d+\.\d{3}s", told["x-ratelimit-reset-requests"])


def test_a_log_has_a_line_for_each_record_whatever_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "access.jsonl"
    records: list[JsonObject] = [{"id": "a\nb"}, {"id": "\x1b[31m\u2028"}, {"id": "%s"}]
    with open_access_log(path) as write:
        assert write is not None
        for record in records:
            write(record)
    lines = path.read_text("utf-8").split("\n")
    assert [json.loads(line) for line in lines[:-1]] == records
    assert "\x1b" not in path.read_text("utf-8")


def test_a_log_that_cannot_be_written_is_told_at_the_start(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigurationError, match="cannot be written"),
        open_access_log(tmp_path),
    ):
        raise AssertionError("it is never open")
