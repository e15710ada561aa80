"""Requests that are meant to do harm, or that wait too long, at the routes of OpenAI's API."""

from __future__ import annotations

import json

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import SocketAttribute, SocketStream

from mcp_servers.model_server.admission import AdmissionLimits
from tests.helpers.model_service import scripted_models
from tests.helpers.scripted_chat_model import ScriptedTurn, play
from tests.helpers.web_service import HEADERS, open_app

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


async def test_no_name_of_a_model_reaches_a_file_or_a_server() -> None:
    """Names are looked up among those that are offered, never opened."""
    models = scripted_models(play(ScriptedTurn("x")))
    names = [name for name in NAMES if name != "scripted"]
    async with open_app(models) as app:
        for name in names:
            body = json.dumps({**HELLO, "model": name}).encode()
            response = await app.request("POST", CHAT, HEADERS, body)
            assert response.status_code in {400, 404}, name
            assert response.json()["error"]["param"] == "model"
            assert len(response.content) < 30_000
    assert len(names) >= 450
    assert (models.names, models.model.asked) == ((), [])


@pytest.mark.parametrize(
    "kind",
    [
        *("text/plain", "text/plain; a=application/json", "application/x-www-form-urlencoded"),
        *("multipart/form-data; boundary=x", "", "application/jsonx"),
    ],
)
async def test_what_a_page_of_another_site_may_send_is_refused(kind: str) -> None:
    models = scripted_models(play(ScriptedTurn("x")))
    async with open_app(models) as app:
        headers = {**HEADERS, "content-type": kind}
        response = await app.request("POST", CHAT, headers, json.dumps(HELLO).encode())
        asked = {"origin": "http://evil.example", "access-control-request-method": "POST"}
        preflight = await app.request("OPTIONS", CHAT, {**HEADERS, **asked})
    assert response.status_code == 415
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert preflight.status_code == 403
    assert not [name for name in preflight.headers if name.startswith("access-control")]
    assert models.model.asked == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_waits_no_longer_than_its_client(stream: bool) -> None:
    models = scripted_models(play(ScriptedTurn("x", hangs=True)))
    limits = AdmissionLimits(max_running=1, max_waiting=1)
    body = json.dumps({**HELLO, "stream": stream}).encode()
    async with open_app(models, limits=limits) as app, anyio.create_task_group() as group:
        group.start_soon(app.request, "POST", CHAT, HEADERS, body)
        while not models.model.num_open:
            await anyio.lowlevel.checkpoint()
        for given in ("nan", "-1", "1e3", "0x1", "9" * 40, ""):
            odd = {**HEADERS, "x-stainless-read-timeout": given}
            with anyio.move_on_after(0.02) as waited:
                await app.request("POST", CHAT, odd, body)
            assert waited.cancelled_caught, given
        impatient = {**HEADERS, "x-stainless-read-timeout": "0.02"}
        refused = await app.request("POST", CHAT, impatient, body)
        group.cancel_scope.cancel()
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "5"
    assert refused.json()["error"] == {
        "message": "no place was free within 0.01 s, as long as you wait; try again in 5 s",
        "type": "rate_limit_error",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    assert len(models.model.asked) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_that_is_too_long_is_refused_with_numbers_before_it_waits(
    stream: bool,
) -> None:
    models = scripted_models(play(ScriptedTurn("x", hangs=True)))
    limits = AdmissionLimits(max_running=1, max_waiting=1)
    long = {"role": "user", "content": "a" * 9000}
    async with open_app(models, limits=limits) as app, anyio.create_task_group() as group:
        group.start_soon(app.request, "POST", CHAT, HEADERS, json.dumps(HELLO).encode())
        while not models.model.num_open:
            await anyio.lowlevel.checkpoint()
        body = {**HELLO, "messages": [long], "stream": stream}
        refused = await app.request("POST", CHAT, HEADERS, json.dumps(body).encode())
        group.cancel_scope.cancel()
    assert refused.status_code == 400
    assert refused.json()["error"] == {
        "message": "the prompt has 9000 tokens, but the context has 8192: shorten the messages "
        "or offer fewer tools",
        "type": "invalid_request_error",
        "param": "messages",
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
