"""Tests of what a key is good for: on every route, however its path is spelled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mcp_servers.guard import make_access, read_keys
from mcp_servers.key_scopes import ALL_SCOPES, USUAL_SCOPES
from mcp_servers.model_server.tools import Surface
from runtime.chat.messages import ToolCall
from tests.helpers.model_service import agent_over, scripted_models
from tests.helpers.scripted_chat_model import ScriptedTurn, play
from tests.helpers.scripted_tools import ScriptedToolset, echo, make_spec
from tests.helpers.web_service import HEADERS, ServedApp, connect, on_port, open_app
from tests.mcp_servers.test_web_app import INITIALIZE
from tools.errors import ConfigurationError
from tools.spec import JsonObject

pytestmark = pytest.mark.anyio

KEYS = {
    name: f"{name}-0123456789abcdef" for name in ("plain", "talks", "calls", "rules", "nothing")
}
LINES = [
    KEYS["plain"],
    f"a:inference:{KEYS['talks']}",
    f"b:tools:{KEYS['calls']}",
    f"c:tools,admin,inference:{KEYS['rules']}",
]
HELLO = {"model": "scripted", "messages": [{"role": "user", "content": "hello"}]}


async def statuses(app: ServedApp, name: str, header: str = "authorization") -> dict[str, int]:
    key = KEYS[name] if header == "x-api-key" else f"Bearer {KEYS[name]}"
    headers = {**HEADERS, header: key}
    found = {}
    for method, path, body in (
        ("GET", "/health", {}),
        ("POST", "/mcp", INITIALIZE),
        ("POST", "/%6dcp", INITIALIZE),
        ("POST", "/v1/chat/completions", HELLO),
        ("GET", "/v1/models", {}),
        ("GET", "/%76%31/models/scripted", {}),
        ("GET", "//v1/models", {}),
        ("GET", "/v1/models/", {}),
    ):
        content = json.dumps(body).encode() if body else b""
        found[path] = (await app.request(method, path, headers, content)).status_code
    return found


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
async def test_each_key_opens_the_routes_of_its_scopes_only(header: str) -> None:
    async with open_app(scripted_models(play(ScriptedTurn("x"))), LINES) as app:
        found = {name: tuple((await statuses(app, name, header)).values()) for name in KEYS}
    assert found == {
        "plain": (200, 200, 200, 200, 200, 200, 404, 404),
        "talks": (200, 403, 403, 200, 200, 200, 404, 404),
        "calls": (200, 200, 200, 403, 403, 403, 404, 403),
        "rules": (200, 200, 200, 200, 200, 200, 404, 404),
        "nothing": (401,) * 8,
    }


async def test_refusals_are_in_the_words_of_the_api_that_was_called() -> None:
    async with open_app(scripted_models(play(ScriptedTurn("x"))), LINES) as app:
        calls = {**HEADERS, "authorization": f"Bearer {KEYS['calls']}"}
        unfit = await app.request("GET", "/v1/models", calls)
        missing = await app.request("GET", "/v1/models", HEADERS)
        anthropic = await app.request("POST", "/v1/messages", HEADERS)
        foreign = await app.request("GET", "/v1/models", {**calls, "host": "evil.example"})
        lost = await app.request("GET", "/v1/nothing", calls)
        wrong = await app.request("DELETE", "/v1/models", {**calls, **bearer("talks")})
    assert unfit.json() == error("the key lacks the scope inference", "permission_error")
    text = "a key is needed: Authorization: Bearer KEY"
    assert missing.json() == error(text, "authentication_error", "invalid_api_key")
    assert missing.headers["x-should-retry"] == "false"
    assert missing.headers["www-authenticate"] == "Bearer"
    told = {"type": "authentication_error", "message": text}
    request_id = anthropic.headers["request-id"]
    assert anthropic.json() == {"type": "error", "error": told, "request_id": request_id}
    assert request_id == anthropic.headers["x-request-id"]
    assert (foreign.status_code, foreign.json()["error"].keys()) == (421, ERROR_KEYS)
    assert (lost.status_code, lost.json()["error"]["code"]) == (404, "unknown_url")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert set(wrong.headers["allow"].split(", ")) == {"GET", "HEAD"}


ERROR_KEYS = {"message", "type", "param", "code"}


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS[name]}"}


def error(message: str, kind: str, code: str | None = None) -> dict[str, dict[str, str | None]]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


MAY_UNLOAD = [("plain", False), ("calls", False), ("rules", True)]


@pytest.mark.parametrize(("name", "may"), MAY_UNLOAD)
async def test_models_are_unloaded_by_keys_for_that_only(name: str, may: bool) -> None:
    models = scripted_models(play(ScriptedTurn("x")))
    surface = Surface(loadable=("scripted",))
    async with open_app(models, LINES, surface=surface) as app, on_port(app) as url:
        await app.service.prepare()
        async with connect(url, "2026-07-28", KEYS[name]) as client:
            result = await client.call_tool("model_unload", {"model": "scripted"})
    assert result.is_error is not may
    assert (models.find("scripted") is None) is may


@pytest.mark.parametrize(("name", "may"), MAY_UNLOAD)
async def test_models_are_deleted_by_keys_for_that_only(name: str, may: bool) -> None:
    models = scripted_models(play(ScriptedTurn("x")))
    async with open_app(models, LINES, surface=Surface(loadable=())) as app:
        await app.service.prepare()
        headers = {**HEADERS, **bearer(name)}
        response = await app.request("DELETE", "/v1/models/scripted", headers)
    assert response.status_code == (200 if may else 403)
    assert (models.find("scripted") is None) is may


def test_keys_have_the_scopes_of_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("\n".join(["# keys", *LINES]), "utf-8")
    path.chmod(0o600)
    keys = make_access("127.0.0.1", read_keys(path)).keys
    assert [key.name for key in keys[1:]] == ["key a", "key b", "key c"]
    assert [key.scopes for key in keys] == [USUAL_SCOPES, {"inference"}, {"tools"}, ALL_SCOPES]
    assert not any(text in repr(keys) for text in KEYS.values())


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (f"a:infer:{KEYS['plain']}", "'infer' is none of admin, inference, tools"),
        (f"a::{KEYS['plain']}", "'' is none of admin, inference, tools"),
        (f"a b:tools:{KEYS['plain']}", "a key's name is up to 64 letters"),
        ("a:tools:short", "a key is 16 or more"),
        ("a:tools:key:0123456789abcdef", "a key is 16 or more letters"),
        ("a:0123456789abcdef", "NAME:SCOPE,SCOPE:KEY"),
    ],
)
def test_a_line_that_is_wrong_is_told_without_its_key(line: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as caught:
        make_access("127.0.0.1", [line])
    assert line.rpartition(":")[2] not in str(caught.value)


async def test_a_response_calls_tool_servers_only_with_a_key_for_that() -> None:
    tools = ScriptedToolset([(make_spec("files__read", server="files", read_only=True), echo)])
    call = ToolCall("c1", "files__read", {"path": "a"})
    records: list[JsonObject] = []
    files = {"type": "mcp", "server_label": "files", "require_approval": "never"}
    body = json.dumps({"model": "scripted", "input": "read", "tools": [files]}).encode()
    found = {}
    for name in ("talks", "calls", "rules"):
        models = scripted_models(play(ScriptedTurn(calls=(call,)), ScriptedTurn("done")))
        agent = agent_over(tools, "files")
        async with open_app(models, LINES, agent=agent, record=records.append) as app:
            response = await app.request("POST", "/v1/responses", {**HEADERS, **bearer(name)}, body)
        found[name] = (response.status_code, len(models.model.asked))
    assert found == {"talks": (403, 0), "calls": (403, 0), "rules": (200, 2)}
    taken = [(one["principal"], one["prompt_tokens"], one["completion_tokens"]) for one in records]
    assert taken == [("key a", None, None), ("key b", None, None), ("key c", 20, 10)]
