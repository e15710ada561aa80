"""Requests that are meant to do harm, or that wait too long, at the routes of OpenAI's API."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import SocketAttribute, SocketStream
from pydantic_core import ErrorDetails

import runtime.http_api.body as body_module
from mcp_servers.model_server.admission import AdmissionLimits
from runtime.http_api.faults import FaultError
from tests.helpers.model_service import ScriptedModels, scripted_models
from tests.helpers.scripted_chat_model import ScriptedTurn, play
from tests.helpers.web_service import HEADERS, ServedApp, open_app
from tools.spec import JsonObject

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
HELLO = {"model": "scripted", "messages": [{"role": "user", "content": "hello"}]}
STEPS = ("../", "..\\", "%2e%2e/", "..%2f", "....//", "..;/", "\u2025/", "/", "./", "C:\\")
TARGETS = (
    "etc/passwd",
    "models/x.gguf",
    "CON",
    "nul.gguf",
    "scripted",
    "a\0b",
    "\u202egguf.x",
    "~",
    "blobs/sha256-0",
)
SCHEMES = (
    "file:///",
    "file://localhost/",
    "hf:",
    "hf:../../",
    "http://169.254.169.254/",
    "\\\\h\\",
)
NAMES = [
    *(times * step + target for step in STEPS for times in (1, 2, 8) for target in TARGETS),
    *(scheme + step + target for scheme in SCHEMES for step in STEPS for target in TARGETS[:4]),
    *("", " ", ".", "..", "scripted ", " scripted", "Scripted", "scripted/", "scripted\n", "*"),
    *("$(id)", "`id`", "scripted;id", "{{7*7}}", "%s%n", "a" * 10_000, "\x1b[31m", "-rf"),
]


def ask_for(path: str, text: str, *, stream: bool) -> dict[str, Any]:
    """A request of a route that runs a model, with one text in it."""
    said = [{"role": "user", "content": text}]
    bodies: dict[str, dict[str, Any]] = {
        CHAT: {"messages": said},
        "/v1/messages": {"messages": said, "max_tokens": 5},
        "/v1/completions": {"prompt": text},
        "/v1/responses": {"input": text},
        "/v1/responses/compact": {"input": text},
        "/v1/embeddings": {"input": text},
    }
    streams = {"stream": True} if stream else {}
    return {"model": "scripted", **bodies[path], **streams}


ROUTES = [
    *((path, False) for path in (CHAT, "/v1/messages", "/v1/completions", "/v1/responses")),
    *((path, True) for path in (CHAT, "/v1/messages", "/v1/completions", "/v1/responses")),
    *(("/v1/responses/compact", False), ("/v1/embeddings", False)),
]
PATHS = list(dict.fromkeys(path for path, _ in ROUTES))


@pytest.mark.parametrize("path", [*PATHS, "/tokenize"])
async def test_no_name_of_a_model_reaches_a_file_or_a_server(path: str) -> None:
    """Names are looked up among those that are offered, never opened."""
    models = scripted_models(play(ScriptedTurn("x")))
    names = [name for name in NAMES if name != "scripted"]
    async with open_app(models) as app:
        for name in names:
            asked = {"prompt": "a"} if path == "/tokenize" else ask_for(path, "a", stream=False)
            body = json.dumps({**asked, "model": name}).encode()
            response = await app.request("POST", path, HEADERS, body)
            assert response.status_code in {400, 404}, name
            if path != "/v1/messages":
                assert response.json()["error"]["param"] == "model"
            assert len(response.content) < 30_000
    assert len(names) >= 500
    assert (models.names, models.model.asked) == ((), [])


@pytest.mark.parametrize(
    "kind",
    [
        *("text/plain", "text/plain; a=application/json", "application/x-www-form-urlencoded"),
        *("multipart/form-data; boundary=x", "", "application/jsonx"),
    ],
)
@pytest.mark.parametrize("path", [*PATHS, "/tokenize", "/v1/conversations"])
async def test_what_a_page_of_another_site_may_send_is_refused(path: str, kind: str) -> None:
    models = scripted_models(play(ScriptedTurn("x")))
    async with open_app(models) as app:
        headers = {**HEADERS, "content-type": kind}
        response = await app.request("POST", path, headers, json.dumps(HELLO).encode())
        asked = {"origin": "http://evil.example", "access-control-request-method": "POST"}
        preflight = await app.request("OPTIONS", path, {**HEADERS, **asked})
    assert response.status_code == 415
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert preflight.status_code == 403
    assert not [name for name in preflight.headers if name.startswith("access-control")]
    assert models.model.asked == []


SAID = {"role": "user", "content": "hello"}
CUSTOM: JsonObject = {"name": "f", "input_schema": {}}
TOOL = {"type": "function", "function": {"name": "f"}}
FEW: JsonObject = {"messages": [SAID], "max_tokens": 1}
WRONG: list[tuple[str, str, JsonObject]] = [
    # path, the value that is told, and a hundred thousand that do not fit
    (CHAT, "messages[0]", {"messages": [1] * 100_000}),
    (CHAT, "messages[0]", {"messages": [{"role": "x"}] * 100_000}),
    (
        CHAT,
        "messages[0].content[0].type",
        {"messages": [{"role": "user", "content": [{"type": "x"}] * 100_000}]},
    ),
    ("/v1/completions", "prompt[0]", {"prompt": ["a"] * 100_000}),
    ("/v1/completions", "prompt[0]", {"prompt": [-1] * 100_000}),
    ("/v1/embeddings", "input[0]", {"input": [-1] * 100_000}),
    ("/v1/responses", "input[0]", {"input": [{"type": "x"}] * 100_000}),
    ("/v1/messages", "messages.0", {"messages": [1] * 90_000, "max_tokens": 1}),
    ("/tokenize", "messages[0]", {"messages": [1] * 100_000}),
    ("/detokenize", "tokens[0]", {"tokens": [-1] * 100_000}),
    (CHAT, "messages: List should have at most 32768", {"messages": [SAID] * 100_000}),
    (CHAT, "tools: List should have at most 4096", {"tools": [TOOL] * 5000}),
    ("/v1/responses", "input: List should have at most 32768", {"input": [SAID] * 100_000}),
    ("/v1/messages", "tools: List should have at most 4096", {"tools": [CUSTOM] * 5000, **FEW}),
    (CHAT, "100000 values of the body do not fit", dict.fromkeys(map(str, range(100_000)))),
]


@pytest.mark.parametrize(("path", "told", "fields"), WRONG)
async def test_of_very_many_values_that_do_not_fit_one_is_told(
    path: str, told: str, fields: JsonObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []

    def count(value: object, problems: Sequence[ErrorDetails]) -> FaultError:
        counts.append(len(problems))
        return refusal(value, problems)

    refusal = body_module._refusal
    monkeypatch.setattr(body_module, "_refusal", count)
    usual: JsonObject = {} if path == "/detokenize" else {"model": "scripted"}
    if path == CHAT and "messages" not in fields:
        usual["messages"] = HELLO["messages"]
    async with open_app(scripted_models(play(ScriptedTurn("x")))) as app:
        body = json.dumps({**usual, **fields}).encode()
        refused = await app.request("POST", path, HEADERS, body)
    assert refused.status_code == 400
    assert refused.json()["error"]["message"].startswith(told)
    assert len(refused.content) < 1000
    assert sum(counts) < 100


@asynccontextmanager
async def full_server(models: ScriptedModels) -> AsyncIterator[ServedApp]:
    """A server whose one place is taken for good, and where one more may wait."""
    limits = AdmissionLimits(max_running=1, max_waiting=1)
    async with open_app(models, limits=limits) as app, anyio.create_task_group() as group:
        group.start_soon(app.request, "POST", CHAT, HEADERS, json.dumps(HELLO).encode())
        while not models.model.num_open:
            await anyio.lowlevel.checkpoint()
        yield app
        group.cancel_scope.cancel()


@pytest.mark.parametrize(("path", "stream"), ROUTES)
async def test_a_request_waits_no_longer_than_its_client(path: str, stream: bool) -> None:
    models = scripted_models(play(ScriptedTurn("x", hangs=True)))
    body = json.dumps(ask_for(path, "hello", stream=stream)).encode()
    async with full_server(models) as app:
        for given in ("nan", "-1", "1e3", "0x1", "9" * 40, ""):
            odd = {**HEADERS, "x-stainless-read-timeout": given}
            with anyio.move_on_after(0.02) as waited:
                await app.request("POST", path, odd, body)
            assert waited.cancelled_caught, given
        impatient = {**HEADERS, "x-stainless-read-timeout": "0.02"}
        refused = await app.request("POST", path, impatient, body)
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "5"
    assert refused.headers["content-type"] == "application/json"
    text = "no place was free within 0.01 s, as long as you wait; try again in 5 s"
    assert refused.json()["error"]["message"] == text
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert len(models.model.asked) == 1


@pytest.mark.parametrize(("path", "stream"), ROUTES)
async def test_a_full_queue_refuses_before_the_body_is_parsed(path: str, stream: bool) -> None:
    models = scripted_models(play(ScriptedTurn("x", hangs=True)))
    body = json.dumps(ask_for(path, "hello", stream=stream)).encode()
    async with full_server(models) as app, anyio.create_task_group() as group:
        group.start_soon(app.request, "POST", path, HEADERS, body)
        while not app.service.num_waiting:
            await anyio.lowlevel.checkpoint()
        answers = [await app.request("POST", path, HEADERS, sent) for sent in (body, b"{")]
        group.cancel_scope.cancel()
    for refused in answers:
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")


@pytest.mark.parametrize("num_chars", [9000, 200_000])
@pytest.mark.parametrize(
    ("path", "stream"), [route for route in ROUTES if route[0] != "/v1/responses/compact"]
)
async def test_a_prompt_that_is_too_long_is_refused_with_numbers_before_it_waits(
    path: str, stream: bool, num_chars: int
) -> None:
    models = scripted_models(play(ScriptedTurn("x", hangs=True)))
    body = json.dumps(ask_for(path, "a" * num_chars, stream=stream)).encode()
    async with full_server(models) as app:
        refused = await app.request("POST", path, HEADERS, body)
    assert refused.status_code == 400
    assert refused.headers["content-type"] == "application/json"
    assert refused.headers["x-should-retry"] == "false"
    error = refused.json()["error"]
    at_least = num_chars // models.model.tokenizer.max_token_bytes
    number = f"at least {at_least}" if at_least > 8192 else f"{num_chars}"
    told = (
        f"the prompt has {number} tokens, but the context has 8192: shorten the messages or offer "
        "fewer tools"
    )
    if path == "/v1/messages":
        assert error["type"] == "invalid_request_error"
        count = number.removeprefix("at least ")
        assert error["message"] == f"prompt is too long: {count} tokens > 8192 maximum; {told}"
        return
    params = {CHAT: "messages", "/v1/responses": "input"}
    if path not in params:
        field, most = ("input", 8192) if path == "/v1/embeddings" else ("prompt", 8191)
        told = f"{field} has {number} tokens, at most {most} fit: shorten it"
        params[path] = field
    assert error == {
        "message": told,
        "type": "invalid_request_error",
        "param": params[path],
        "code": "context_length_exceeded",
    }


@pytest.mark.parametrize(
    "url",
    [
        *("http://169.254.169.254/latest", "http://[::ffff:169.254.169.254]/", "http://0/"),
        *("file:///etc/passwd", "http://127.0.0.1:{port}/", "data:image/png;base64,AAAA"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/messages"])
async def test_no_address_in_a_message_is_fetched(url: str, path: str) -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(SocketAttribute.local_port)
        picture = {"url": url.format(port=port)}
        content = {"type": "image_url", "image_url": picture}
        if path != CHAT:
            content = {"type": "image", "source": {"type": "url", **picture}}
        models = scripted_models(play(ScriptedTurn("x")))
        body = {**HELLO, "max_tokens": 5, "messages": [{"role": "user", "content": [content]}]}
        async with open_app(models) as app:
            response = await app.request("POST", path, HEADERS, json.dumps(body).encode())
        connected: list[SocketStream] = []

        async def note(stream: SocketStream) -> None:
            connected.append(stream)

        with anyio.move_on_after(0.01):
            await listener.serve(note)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert (models.model.asked, connected) == ([], [])
