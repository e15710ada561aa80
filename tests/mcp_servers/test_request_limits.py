"""Tests of what a request may be: size, nesting, JSON-RPC, and how many at once."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest
from starlette.types import Message, Receive, Scope, Send

from mcp_servers.message_rules import find_problem
from mcp_servers.request_limits import MAX_API_BODY_BYTES, MAX_BODY_BYTES, RequestLimits
from runtime.http_api.operations import OPERATIONS
from tests.helpers.model_service import scripted_models
from tests.helpers.scripted_chat_model import ScriptedTurn, play
from tests.helpers.web_service import HEADERS, ServedApp, on_port, open_app
from tests.mcp_servers.test_web_app import INITIALIZE
from tools.json_text import MAX_DEPTH
from tools.spec import JsonObject

pytestmark = pytest.mark.anyio

MODERN = {"mcp-protocol-version": "2026-07-28"}
INVALID, UNPARSED = -32600, -32700


@asynccontextmanager
async def session() -> AsyncIterator[tuple[ServedApp, dict[str, str]]]:
    """An application, and the headers of an open session of the handshake era."""
    async with open_app(scripted_models(play(ScriptedTurn(hangs=True)))) as app:
        opened = await app.request("POST", "/mcp", HEADERS, json.dumps(INITIALIZE).encode())
        headers = {**HEADERS, "mcp-session-id": opened.headers["mcp-session-id"]}
        ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        await app.request("POST", "/mcp", headers, json.dumps(ready).encode())
        yield app, headers


def error_of(response: httpx2.Response) -> tuple[int, Any, int]:
    """Status, id and code of an answer that is one JSON-RPC error."""
    body = response.json()
    assert body.keys() == {"jsonrpc", "id", "error"}
    assert response.headers["content-type"] == "application/json"
    return response.status_code, body["id"], body["error"]["code"]


BAD_BODIES = [
    # body, then the status, id and code of its answer
    (b"", 400, None, UNPARSED),
    (b"{", 400, None, UNPARSED),
    (b"[" * 100_000, 400, None, UNPARSED),
    (b'{"jsonrpc": "2.0", "id": ' + b"1" * 5000 + b', "method": "ping"}', 400, None, UNPARSED),
    ('{"jsonrpc": "2.0", "id": 1, "method": "ping"}'.encode("utf-16"), 400, None, UNPARSED),
    ('{"jsonrpc": "2.0", "id": 1, "method": "ping"}'.encode("utf-16-le"), 400, None, UNPARSED),
    (b"[" * 97 + b"]" * 97, 400, None, INVALID),
    (b'[{"jsonrpc": "2.0", "id": 1, "method": "ping"}]', 400, None, INVALID),
    (b'"ping"', 400, None, INVALID),
    (b'{"id": 1, "method": "ping"}', 400, None, INVALID),
    (b'{"jsonrpc": "2.0", "id": null, "method": "ping"}', 400, None, INVALID),
    (b'{"jsonrpc": "2.0", "id": [1], "method": "ping"}', 400, None, INVALID),
    (b'{"jsonrpc": "2.0", "id": true, "method": "ping"}', 400, None, INVALID),
    (b'{"jsonrpc": "2.0", "id": 1.5, "method": "ping"}', 400, None, INVALID),
    (b'{"jsonrpc": "2.0", "id": 7}', 400, 7, INVALID),
    (b" " * (MAX_BODY_BYTES + 1), 413, None, INVALID),
]


@pytest.mark.parametrize("version", [{}, MODERN])
async def test_bad_message_is_answered_with_the_error_of_json_rpc(version: dict[str, str]) -> None:
    async with session() as (app, headers):
        for body, *expected in BAD_BODIES:
            response = await app.request("POST", "/mcp", {**headers, **version}, body)
            assert error_of(response) == tuple(expected), body[:80]


@pytest.mark.parametrize("version", [{}, MODERN])
@pytest.mark.parametrize("kind", ["text/plain", "", "application/jsonx"])
async def test_body_of_another_type_is_refused(version: dict[str, str], kind: str) -> None:
    async with session() as (app, headers):
        sent = {**headers, **version, "content-type": kind}
        response = await app.request("POST", "/mcp", sent, json.dumps(INITIALIZE).encode())
    assert error_of(response) == (415, None, INVALID)


async def test_second_request_under_an_id_that_is_in_use_is_refused_and_the_first_answered() -> (
    None
):
    def call(request_id: int | str) -> bytes:
        params = {"name": "generate", "arguments": {"prompt": "a", "wait_seconds": 0.5}}
        message = {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}
        return json.dumps(message).encode()

    answers = {}
    async with session() as (app, headers):

        async def ask(name: str, request_id: int | str) -> None:
            answers[name] = await app.request("POST", "/mcp", headers, call(request_id))

        async with anyio.create_task_group() as group:
            group.start_soon(ask, "first", 7)
            await anyio.wait_all_tasks_blocked()
            await ask("second", "7")
            await ask("other", 8)
        await ask("again", 7)
    assert error_of(answers.pop("second")) == (400, "7", INVALID)
    assert {name: response.status_code for name, response in answers.items()} == {
        "first": 200,
        "other": 200,
        "again": 200,
    }
    for response in answers.values():
        assert '"status":"running"' in response.text


@pytest.mark.parametrize(
    ("body", "is_refused"),
    [
        (b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, False),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), True),
        (b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1), True),
        (b'{"a":[' * 49 + b"]}" * 49, True),
        (b'["' + b"[" * 1000 + b'"]', False),
        (rb'["\"' + b"[" * 1000 + b'"]', False),
        (rb'["\\",' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"]", True),
        (b"[" + b"[]," * 100_000 + b"[]]", False),
    ],
)
def test_nesting_is_counted_outside_strings(body: bytes, is_refused: bool) -> None:
    assert (find_problem(body) is not None) == is_refused


async def test_requests_beyond_the_bound_are_refused_with_a_hint() -> None:
    is_inside, leave = anyio.Event(), anyio.Event()
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        is_inside.set()
        await leave.wait()

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/mcp", "headers": []}
    limits = RequestLimits(app, max_requests=1)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(limits, scope, receive, send)
            await is_inside.wait()
            await limits(scope, receive, send)
            assert sent[0]["status"] == 503
            assert (b"retry-after", b"1") in sent[0]["headers"]
            sent.clear()
            leave.set()
        await limits(scope, receive, send)
    assert sent == []


@pytest.mark.parametrize(("path", "max_mib"), [("/mcp", 4), ("/v1/chat/completions", 10)])
async def test_body_that_grows_past_its_declared_length_is_refused_as_it_comes(
    path: str, max_mib: int
) -> None:
    num_read = 0

    async def receive() -> Message:
        nonlocal num_read
        num_read += 1
        return {"type": "http.request", "body": b" " * 1024 * 1024, "more_body": True}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("the application never sees it")

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    with anyio.fail_after(5):
        declared = [(b"content-length", b"10")]
        scope = {"type": "http", "method": "POST", "path": path, "headers": declared}
        await RequestLimits(app)(scope, receive, send)
    assert (sent[0]["status"], num_read) == (413, max_mib + 1)


async def test_bodies_that_are_too_much_together_are_refused_until_others_are_answered() -> None:
    is_inside, leave = anyio.Event(), anyio.Event()
    statuses: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["body"] == b"x" * 60
        is_inside.set()
        await leave.wait()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])
            assert (b"retry-after", b"1") in message["headers"]

    async def receive() -> Message:
        return {"type": "http.request", "body": b"x" * 60, "more_body": False}

    async def leave_early() -> Message:
        return {"type": "http.disconnect"}

    scope: Scope = {"type": "http", "method": "POST", "path": "/v1/x", "headers": []}
    limits = RequestLimits(app, max_held_bytes=100)
    with anyio.fail_after(5):
        await limits(scope, leave_early, send)
        for _ in range(2):
            async with anyio.create_task_group() as group:
                group.start_soon(limits, scope, receive, send)
                await is_inside.wait()
                await limits(scope, receive, send)
                leave.set()
            await limits(scope, receive, send)
            is_inside, leave = anyio.Event(), anyio.Event()
    assert statuses == [503, 503]


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        await anyio.Event().wait()
        raise AssertionError("nothing comes")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("the application never sees it")

    limits = RequestLimits(app, body_within_s=0.01)
    for path in ("/mcp", "/v1/chat/completions", "/apply-template"):
        scope: Scope = {"type": "http", "method": "POST", "path": path, "headers": []}
        with anyio.fail_after(5):
            await limits(scope, receive, send)
    assert [one["status"] for one in sent if one["type"] == "http.response.start"] == [408] * 3
    text = "the body did not come within 0.01 s"
    bodies = [json.loads(one["body"]) for one in sent if one["type"] == "http.response.body"]
    assert bodies[0]["error"] == {"code": INVALID, "message": text}
    kind = "invalid_request_error"
    told = {"message": text, "type": kind, "param": None, "code": None}
    assert [one["error"] for one in bodies[1:]] == [told, told]


HELLO: JsonObject = {"model": "scripted", "messages": [{"role": "user", "content": "hello"}]}
NESTED = b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
HOSTILE_BODIES = [
    # body, then its status
    (b"", 400),
    (b"\0", 400),
    (json.dumps(HELLO).encode("utf-16"), 400),
    (b'{"model": "scripted\xff"}', 400),
    (b'{"model": "a\\u0000"}', 400),
    (b'{"model": "\\udc00"}', 400),
    (NESTED, 400),
    (b'{"seed": ' + b"9" * 100_000 + b"}", 400),
    (b'{"temperature": 1e999}', 400),
    (b'{"temperature": -Infinity}', 400),
    (json.dumps(HELLO).encode()[:-1] + b', "n": 9223372036854775808}', 400),
    (b" " * (MAX_API_BODY_BYTES + 1), 413),
]


NO_JSON = [
    b"",
    b"\0",
    b'{"a": "\xff"}',
    b'{"a": "\xed\xa0\x80"}',
    b'\xef\xbb\xbf{"a": 1}',
    '{"a": 1}'.encode("utf-16"),
    '{"a": 1}'.encode("utf-32-le"),
    b'{"a": "\\udc00"}',
    b'{"\\ud83d": 1}',
    b'{"a": 1, "b": 2, "a": 1}',
    b'{"a": 1, "\\u0061": 1}',
    b'{"a": NaN}',
    b'{"a": -Infinity}',
    b'{"a": 1e999}',
    b'{"a": ' + b"9" * 100_000 + b"}",
    b'{"a": 01}',
    NESTED,
    b"[" * 100_000,
]
"""What is no JSON, or none that says one thing to every reader."""


async def test_hostile_bodies_are_refused_as_clients_of_the_api_read_it() -> None:
    async with open_app(scripted_models(play(ScriptedTurn("x")))) as app:
        for body, status in HOSTILE_BODIES:
            response = await app.request("POST", "/v1/chat/completions", HEADERS, body)
            assert response.status_code == status, body[:80]
            error = response.json()["error"]
            assert error.keys() == {"message", "type", "param", "code"}
            assert error["type"] == "invalid_request_error"
            assert len(response.content) < 1000


@pytest.mark.parametrize(
    "path", sorted({one.path for one in OPERATIONS if one.body and "{" not in one.path} | {"/mcp"})
)
async def test_what_is_no_json_is_refused_at_every_address(path: str) -> None:
    headers = {**HEADERS, **(MODERN if path == "/mcp" else {})}
    async with open_app(scripted_models(play(ScriptedTurn("x")))) as app:
        for body in NO_JSON:
            response = await app.request("POST", path, headers, body)
            assert response.status_code == 400, body[:80]
            error = response.json()["error"]
            assert any(word in error["message"] for word in ("JSON", "UTF-8", "nests"))
            assert error.get("type", "") == ("invalid_request_error" if path != "/mcp" else "")
            assert len(response.content) < 1000
        assert (await app.request("GET", "/health", HEADERS)).status_code == 200


@pytest.mark.parametrize(
    "arguments",
    [
        *('{"a": NaN}', '{"a": 1e999}', r'{"a": "\ud800"}', '{"a": 1, "a": 2}', "[1]", "\ufeff{}"),
        *("[" * 100_000, '{"a":' * 500 + "1" + "}" * 500, '{"a": ' + "9" * 5000 + "}"),
    ],
)
async def test_hostile_arguments_of_a_call_are_refused(arguments: str) -> None:
    """They are JSON in a text, which the reader of the body leaves as it is."""
    function = {"name": "add", "arguments": arguments}
    call = {"id": "c", "type": "function", "function": function}
    item = {"type": "function_call", "call_id": "c", **function}
    output = {"type": "function_call_output", "call_id": "c", "output": "2"}
    said = {"role": "assistant", "tool_calls": [call]}
    asked: list[tuple[str, JsonObject]] = [
        ("/v1/chat/completions", {"messages": [*HELLO["messages"], said]}),
        ("/v1/responses", {"input": [item, output]}),
    ]
    async with open_app(scripted_models(play(ScriptedTurn("x")))) as app:
        for path, body in asked:
            content = json.dumps({"model": "scripted", **body}).encode()
            response = await app.request("POST", path, HEADERS, content)
            assert response.status_code == 400
            assert response.json()["error"]["message"] == "arguments are a JSON object as text"


async def test_a_refusal_quotes_little_of_a_long_name() -> None:
    async with open_app(scripted_models(play(ScriptedTurn("x")))) as app:
        for field in ("a" * 100_000, "model"):
            body = json.dumps({**HELLO, field: "b" * 100_000}).encode()
            response = await app.request("POST", "/v1/chat/completions", HEADERS, body)
            assert response.status_code in {400, 404}
            assert len(response.content) < 2000


@pytest.mark.parametrize("length", [b"-1", b"1e3", b"99999999999999999999", b"0x10"])
async def test_a_wrong_length_is_refused_before_the_body_is_read(length: bytes) -> None:
    async with open_app(scripted_models(play(ScriptedTurn("x")))) as app, on_port(app) as url:
        port = int(url.rsplit(":", 1)[1].partition("/")[0])
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: "
            await stream.send(head + length + b"\r\n\r\n{")
            with anyio.fail_after(5):
                status = (await stream.receive()).split()[1]
    assert status in {b"400", b"413"}


async def test_a_client_that_sends_too_much_still_reads_why_it_is_refused() -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 1024 * 1024

    async with (
        open_app(scripted_models(play(ScriptedTurn("x")))) as app,
        on_port(app) as url,
        httpx2.AsyncClient(base_url=url.removesuffix("/mcp"), timeout=20) as client,
    ):
        path = "/v1/chat/completions"
        response = await client.post(path, content=parts(), headers=HEADERS)
    assert response.status_code == 413
    assert response.json()["error"]["message"] == f"the body is over {MAX_API_BODY_BYTES} bytes"


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_the_end_of_the_server_cuts_off_says_so(stream: bool) -> None:
    models = scripted_models(play(ScriptedTurn("some words", hangs=True)))
    found: list[httpx2.Response] = []
    async with open_app(models) as app:

        async def ask() -> None:
            body = json.dumps({**HELLO, "stream": stream}).encode()
            found.append(await app.request("POST", "/v1/chat/completions", HEADERS, body))

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            app.service.end_turns()
    (response,) = found
    last = response.text.rstrip("\n").rpartition("\n\n")[2].removeprefix("data: ")
    assert json.loads(last)["error"] == {
        "message": "the server is shutting down; try again when it is back",
        "type": "server_error",
        "param": None,
        "code": "unavailable",
    }
    assert response.status_code == (200 if stream else 503)
    assert models.model.num_open == 0


async def test_probes_are_answered_however_much_is_going_on() -> None:
    leave = anyio.Event()
    answered: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        answered.append(scope["path"])
        if scope["path"] == "/mcp":
            await leave.wait()

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        raise AssertionError("nobody is refused")

    limits = RequestLimits(app, max_requests=1)
    scope = {"type": "http", "method": "GET", "headers": []}
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(limits, {**scope, "path": "/mcp"}, receive, send)
            await anyio.wait_all_tasks_blocked()
            for path in ("/health", "/ready", "/metrics"):
                await limits({**scope, "path": path}, receive, send)
            leave.set()
    assert answered == ["/mcp", "/health", "/ready", "/metrics"]
