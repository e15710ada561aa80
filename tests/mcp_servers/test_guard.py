"""Nothing gets past the door: every route against keys, hosts, origins and odd paths."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream
from starlette.types import Message, Receive, Scope, Send

from mcp_servers.guard import Guard, make_access, read_keys
from mcp_servers.model_server.completions import client_routes
from mcp_servers.resource_server import ResourceServer, ResourceSettings
from tests.helpers.authorization_server import AuthorizationServer
from tests.helpers.model_service import scripted_models
from tests.helpers.scripted_chat_model import ScriptedTurn, play
from tests.helpers.web_service import HEADERS, ServedApp, on_port, open_app
from tools.errors import ConfigurationError

pytestmark = pytest.mark.anyio

KEY, OTHER = "right-0123456789abcdef", "wrong-0123456789abcdef"
ALLOWED: dict[str, str] = {"authorization": f"Bearer {KEY}"}
ROUTES = ("/mcp", "/health", "/ready", "/metrics", "/v1/models", "/v1/chat/completions")
NO_BACKEND: Any = None
EVERY_ROUTE = sorted(
    {re.sub(r"{[^}]*}", "x", route.path) for route in client_routes(NO_BACKEND, "1")}.union(ROUTES)
)
ODD_PATHS = (
    *("//mcp", "/mcp/", "/mcp//", "/%6dcp", "/%6D%63%70", "/../mcp", "/x/../mcp", "/./mcp"),
    *(
        "/%2e%2e/mcp",
        "/..%2fmcp",
        "/%2fmcp",
        "/mcp%2f",
        "/mcp%00",
        "/mcp;x",
        "/MCP",
        "/mcp?x=/health",
    ),
    *("/health/../mcp", "/health%2f..%2fmcp", "/health/mcp", "/", "", "*", "/nothing"),
    *("//v1/models", "/v1/models/", "/%76%31/models", "/health/../v1/models", "/%2e%2e/v1/models"),
    *("/v1", "/v1/", "/V1/models", "/v1%2fmodels", "/v1/models?key=right-0123456789abcdef"),
    *("/.well-known/oauth-protected-resource", "http://127.0.0.1/mcp", "http://evil.example/mcp"),
)
PROBES: tuple[tuple[dict[str, str | None], int], ...] = (
    # (headers to add or, where None, to leave out; status)
    ({}, 401),
    ({"authorization": f"Bearer {OTHER}"}, 401),
    ({"authorization": f"Bearer {KEY}x"}, 401),
    ({"authorization": f"Bearer {KEY[:-1]}"}, 401),
    ({"authorization": "Bearer"}, 401),
    ({"authorization": "Bearer "}, 401),
    ({"authorization": KEY}, 401),
    ({"authorization": f"Basic {KEY}"}, 401),
    ({"x-api-key": OTHER}, 401),
    ({"x-api-key": ""}, 401),
    ({"x-api-key": f"Bearer {KEY}"}, 401),
    ({"x-api-key": KEY, "authorization": f"Bearer {OTHER}"}, 401),
    ({"cookie": f"authorization=Bearer {KEY}"}, 401),
    ({"x-forwarded-for": "127.0.0.1"}, 401),
    ({**ALLOWED, "host": "evil.example"}, 421),
    ({**ALLOWED, "host": "evil.example:8377"}, 421),
    ({**ALLOWED, "host": "127.0.0.1.evil.example"}, 421),
    ({**ALLOWED, "host": "localhost@evil.example"}, 421),
    ({**ALLOWED, "host": "10.0.0.1"}, 421),
    ({**ALLOWED, "host": "evil.example", "x-forwarded-host": "127.0.0.1"}, 421),
    ({**ALLOWED, "host": ""}, 421),
    ({**ALLOWED, "host": None}, 421),
    ({**ALLOWED, "origin": "http://evil.example"}, 403),
    ({**ALLOWED, "origin": "https://localhost.evil.example"}, 403),
    ({**ALLOWED, "origin": "http://localhost:1@evil.example"}, 403),
    ({**ALLOWED, "origin": "http://0.0.0.0:8377"}, 403),
    ({**ALLOWED, "origin": "null"}, 403),
    ({**ALLOWED, "origin": ""}, 403),
    ({**ALLOWED, "origin": "file://"}, 403),
    ({**ALLOWED, "origin": "localhost"}, 403),
)
CALL = json.dumps(
    {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        },
    }
).encode()


@asynccontextmanager
async def guarded(tokens: ResourceServer | None = None) -> AsyncIterator[ServedApp]:
    models = scripted_models(play(ScriptedTurn("secret")))
    async with open_app(models, [KEY], readiness=lambda: "ready", tokens=tokens) as app:
        yield app


def with_headers(changes: dict[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in {**HEADERS, **changes}.items() if value is not None}


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "TRACE"])
async def test_no_route_and_no_odd_path_lets_a_stranger_in(method: str) -> None:
    paths = (*EVERY_ROUTE, *(path for path in ODD_PATHS if path.startswith("/")))
    assert len(EVERY_ROUTE) > 25
    async with guarded() as app:
        for path, (changes, status) in itertools.product(paths, PROBES):
            response = await app.request(method, path, with_headers(changes), CALL)
            assert response.status_code == status, (method, path, changes)
            assert "mcp-session-id" not in response.headers
            assert "access-control-allow-origin" not in response.headers


async def test_odd_paths_lead_nowhere_with_the_key_unless_they_spell_a_route() -> None:
    found = {}
    async with guarded() as app:
        for path in (*ROUTES, *(path for path in ODD_PATHS if path.startswith("/"))):
            response = await app.request("POST", path, {**HEADERS, **ALLOWED}, CALL)
            if response.status_code != 404:
                found[path] = response.status_code
    same = dict.fromkeys(("/mcp", "/%6dcp", "/%6D%63%70", "/mcp?x=/health"), 200)
    readable = (*ROUTES[1:-1], "/%76%31/models", "/v1/models/", f"/v1/models?key={KEY}")
    named = {"/v1%2fmodels": 405, ROUTES[-1]: 400}
    assert found == {**same, **dict.fromkeys(readable, 405), **named}


async def test_ten_thousand_wrong_keys_open_nothing_and_the_right_one_still_does() -> None:
    choices = random.Random(5)
    statuses: Counter[int] = Counter()

    async def count(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses[message["status"]] += 1

    async def inside(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def nothing() -> Message:
        raise AssertionError("the body is none of the guard's business")

    guard = Guard(inside, make_access("127.0.0.1", [KEY]))
    scope = {"type": "http", "path": "/v1/models"}
    for _ in range(10_000):
        length = choices.randrange(1, len(KEY))
        wrong = "".join(choices.choices(KEY, k=length)) if choices.random() < 0.5 else KEY[:length]
        name = choices.choice((b"authorization", b"x-api-key"))
        value = f"Bearer {wrong}" if name == b"authorization" else wrong
        headers = [(b"host", b"127.0.0.1"), (name, value.encode())]
        await guard({**scope, "headers": headers}, nothing, count)
    assert statuses == {401: 10_000}
    headers = [(b"host", b"127.0.0.1"), (b"x-api-key", KEY.encode())]
    await guard({**scope, "headers": headers}, nothing, count)
    assert statuses == {401: 10_000, 200: 1}


@pytest.mark.parametrize(
    ("names", "status"),
    [
        (("authorization", "x-api-key"), 200),
        (("x-api-key",), 200),
        (("x-api-key", "x-api-key"), 401),
        (("api-key",), 401),
    ],
)
async def test_a_key_is_taken_from_where_clients_put_it(names: list[str], status: int) -> None:
    sent: list[Message] = []

    async def inside(scope: Scope, receive: Receive, send: Send) -> None:
        assert [name for name, _ in scope["headers"]] == [b"host"]
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Message) -> None:
        sent.append(message)

    async def nothing() -> Message:
        raise AssertionError("the body is none of the guard's business")

    values = {"authorization": f"Bearer {KEY}"}
    given = [(name.encode(), values.get(name, KEY).encode()) for name in names]
    scope = {"type": "http", "path": "/v1/models", "headers": [(b"host", b"127.0.0.1"), *given]}
    await Guard(inside, make_access("127.0.0.1", [KEY]))(scope, nothing, send)
    assert sent[0]["status"] == status


AUTHORITY = AuthorizationServer("https://login.example/")
RESOURCE = "https://zonda.example/mcp"
METADATA = "/.well-known/oauth-protected-resource"
GOOD = {"aud": RESOURCE, "scope": "use", "client_id": "c1"}


@pytest.fixture
def tokens(tmp_path: Path) -> ResourceServer:
    (tmp_path / "keys.json").write_text(json.dumps(AUTHORITY.key_set), "utf-8")
    keys = str(tmp_path / "keys.json")
    return ResourceServer(ResourceSettings(AUTHORITY.issuer, RESOURCE, ("use",), keys))


def bearing(**claims: Any) -> dict[str, str | None]:
    return {"authorization": f"Bearer {AUTHORITY.sign(**{**GOOD, **claims})}"}


TOKEN_PROBES: tuple[tuple[dict[str, str | None], int], ...] = (
    *PROBES,
    (bearing(aud="https://zonda.example"), 401),
    (bearing(aud="https://other.example/mcp"), 401),
    (bearing(aud=None), 401),
    (bearing(iss="https://evil.example/"), 401),
    (bearing(exp=1), 401),
    (bearing(scope="other"), 403),
    (bearing(scope=None), 403),
    ({**bearing(), "host": "evil.example"}, 421),
    ({**bearing(), "origin": "http://evil.example"}, 403),
    ({"cookie": f"access_token={AUTHORITY.sign(**GOOD)}"}, 401),
)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
async def test_no_route_lets_a_stranger_in_where_tokens_count_as_well(
    method: str, tokens: ResourceServer
) -> None:
    paths = (*ROUTES, *(path for path in ODD_PATHS if path.startswith("/") and path != METADATA))
    async with guarded(tokens) as app:
        for path, (changes, status) in itertools.product(paths, TOKEN_PROBES):
            response = await app.request(method, path, with_headers(changes), CALL)
            assert response.status_code == status, (method, path, changes)


async def test_a_token_in_the_query_lets_nobody_in(tokens: ResourceServer) -> None:
    async with guarded(tokens) as app:
        path = f"/mcp?access_token={AUTHORITY.sign(**GOOD)}"
        assert (await app.request("POST", path, HEADERS, CALL)).status_code == 401


async def test_a_good_token_or_a_key_lets_in(tokens: ResourceServer) -> None:
    async with guarded(tokens) as app:
        for changes in (bearing(), ALLOWED, {**bearing(), "host": "zonda.example"}):
            response = await app.request("POST", "/mcp", with_headers({**changes}), CALL)
            assert response.status_code == 200, changes


async def test_a_refusal_says_where_tokens_come_from(tokens: ResourceServer) -> None:
    place = f'resource_metadata="https://zonda.example{METADATA}/mcp"'
    async with guarded(tokens) as app:
        told = [
            (await app.request("GET", "/health", with_headers(changes))).headers["www-authenticate"]
            for changes in ({}, bearing(exp=1), bearing(scope="a b"))
        ]
    assert told == [
        f'Bearer scope="use", {place}',
        f'Bearer error="invalid_token", scope="use", {place}',
        f'Bearer error="insufficient_scope", scope="use", {place}',
    ]


async def test_only_where_tokens_come_from_is_told_to_everyone(tokens: ResourceServer) -> None:
    metadata = {
        "resource": RESOURCE,
        "authorization_servers": [AUTHORITY.issuer],
        "bearer_methods_supported": ["header"],
        "resource_name": "Zonda",
        "scopes_supported": ["use"],
    }
    async with guarded(tokens) as app:
        for path in (METADATA, f"{METADATA}/mcp"):
            response = await app.request("GET", path, HEADERS)
            assert (response.status_code, response.json()) == (200, metadata)
            assert (await app.request("POST", path, HEADERS)).status_code == 405
            for changes, status in (
                ({"host": "evil.example"}, 421),
                ({"origin": "http://evil.example"}, 403),
            ):
                response = await app.request("GET", path, {**HEADERS, **changes})
                assert response.status_code == status
        response = await app.request("GET", f"{METADATA}/other", HEADERS)
        assert response.status_code == 401


async def test_callers_are_told_apart_by_issuer_and_subject(tokens: ResourceServer) -> None:
    users = []

    async def app(scope, receive, send):  # type: ignore[no-untyped-def]
        users.append((scope["user"].username, scope["user"].access_token.token))
        assert b"authorization" not in dict(scope["headers"])

    guard = Guard(app, make_access("127.0.0.1", [KEY], tokens=tokens))
    for claims in ({}, {"client_id": "c2"}, {"sub": "bob"}):
        token = AUTHORITY.sign(**{**GOOD, **claims})
        headers = [(b"host", b"127.0.0.1"), (b"authorization", f"Bearer {token}".encode())]
        scope = {"type": "http", "method": "GET", "path": "/mcp", "headers": headers}
        await guard(scope, None, None)  # type: ignore[arg-type]  # neither is needed
    ada, bob = f"{AUTHORITY.issuer} ada", f"{AUTHORITY.issuer} bob"
    assert users == [(ada, ""), (ada, ""), (bob, "")]


async def speak(stream: SocketStream, head: str, body: bytes = b"") -> str:
    """Send bytes as they are; return the status line, "" when it was hung up on."""
    await stream.send(head.encode() + body)
    received = b""
    while b"\r\n" not in received:
        try:
            received += await stream.receive()
        except anyio.EndOfStream:
            return ""
    return received.partition(b"\r\n")[0].decode()


@pytest.mark.parametrize("target", [*ROUTES, *(path for path in ODD_PATHS if path)])
async def test_no_target_on_the_wire_lets_a_stranger_in(target: str) -> None:
    async with guarded() as app, on_port(app) as url:
        port = int(url.rsplit(":", 1)[1].partition("/")[0])
        for header, status in (
            ("Host: 127.0.0.1", "401"),
            (f"Host: evil.example\r\nAuthorization: Bearer {KEY}", "421"),
            (
                f"Host: localhost\r\nOrigin: http://evil.example\r\nAuthorization: Bearer {KEY}",
                "403",
            ),
            (
                f"Host: localhost\r\nAuthorization: Bearer {KEY}\r\nAuthorization: Bearer {KEY}",
                "401",
            ),
        ):
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                head = f"POST {target} HTTP/1.1\r\n{header}\r\nContent-Length: {len(CALL)}\r\n\r\n"
                line = await speak(stream, head, CALL)
                assert line.split()[1] == status, (header, line)


async def test_own_addresses_and_origins_are_let_in_with_the_key() -> None:
    async with guarded() as app:
        for changes in (
            {"host": "localhost:8377"},
            {"host": "LOCALHOST"},
            {"host": "[::1]:8377"},
            {"host": "127.0.0.1", "origin": "http://localhost:3000"},
            {"host": "127.0.0.1", "origin": "https://[::1]"},
            {"authorization": f"bearer {KEY}"},
            {"authorization": None, "x-api-key": KEY},
        ):
            response = await app.request("GET", "/health", with_headers({**ALLOWED, **changes}))
            assert response.status_code == 200, changes


async def test_refusal_of_a_key_asks_for_one() -> None:
    async with guarded() as app:
        missing = await app.request("GET", "/health", HEADERS)
        wrong = await app.request("GET", "/health", {**HEADERS, "authorization": f"Bearer {OTHER}"})
    assert missing.headers["www-authenticate"] == "Bearer"
    assert missing.json()["error"] == {
        "message": "a key is needed: Authorization: Bearer KEY",
        "type": "authentication_error",
        "param": None,
        "code": "invalid_api_key",
    }
    assert wrong.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert OTHER not in wrong.text


async def pass_through(host: str, names: list[str], headers: dict[str, str]) -> int | str:
    """What a server bound to `host` answers: a status, or the authorization it let through."""
    answers: list[int | str] = []

    async def app(scope, receive, send):  # type: ignore[no-untyped-def]
        answers.append(dict(scope["headers"]).get(b"authorization", b"none").decode())

    async def send(message):  # type: ignore[no-untyped-def]
        answers.append(message.get("status", 0))

    async def receive():  # type: ignore[no-untyped-def]
        raise AssertionError("the body is none of the guard's business")

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    guard = Guard(app, make_access(host, [KEY], names))
    await guard({"type": "http", "path": "/mcp", "headers": raw}, receive, send)
    return answers[0]


@pytest.mark.parametrize(
    ("host", "names", "headers", "answer"),
    [
        ("0.0.0.0", [], {"host": "192.168.1.5:8377"}, "none"),
        ("::", [], {"host": "[fe80::1]:8377"}, "none"),
        ("0.0.0.0", [], {"host": "box.example"}, 421),
        ("0.0.0.0", ["Box.example"], {"host": "box.example:80"}, "none"),
        ("box.lan", [], {"host": "box.lan"}, "none"),
        ("127.0.0.1", ["box.example"], {"host": "box.example"}, "none"),
        ("0.0.0.0", [], {"host": "10.0.0.5", "origin": "http://10.0.0.5:8377"}, "none"),
        ("0.0.0.0", [], {"host": "10.0.0.5", "origin": "http://10.0.0.6"}, 403),
    ],
)
async def test_open_server_is_known_by_addresses_and_given_names(
    host: str, names: list[str], headers: dict[str, str], answer: int | str
) -> None:
    assert await pass_through(host, names, {**ALLOWED, **headers}) == answer


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "box.lan", ""])
def test_server_that_others_reach_does_not_start_without_a_key(host: str) -> None:
    with pytest.raises(ConfigurationError, match="so a key is needed: give --api-key-file"):
        make_access(host, [])


def test_server_that_others_reach_starts_with_tokens_alone(tokens: ResourceServer) -> None:
    access = make_access("0.0.0.0", [], tokens=tokens)
    assert (access.keys, access.tokens, access.is_open) == ((), tokens, True)
    assert "zonda.example" in access.hosts


async def test_without_keys_a_token_is_needed(tokens: ResourceServer) -> None:
    models = scripted_models(play(ScriptedTurn("secret")))
    async with open_app(models, readiness=lambda: "ready", tokens=tokens) as app:
        for changes, status in ((ALLOWED, 401), ({}, 401), (bearing(), 200)):
            response = await app.request("GET", "/health", with_headers({**changes}))
            assert response.status_code == status


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    assert make_access(host, []).keys == ()


@pytest.mark.parametrize("key", ["short", "", "has a space in the middle", "ümlaut-0123456789abc"])
def test_key_that_could_be_guessed_or_not_be_sent_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ConfigurationError, match="a key is 16 or more") as caught:
        make_access("127.0.0.1", [key])
    assert not key or key not in str(caught.value)


def test_key_file_has_a_key_a_line_and_comments(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# ada\n{KEY}\n\n  {OTHER}  \n", "utf-8")
    path.chmod(0o600)
    assert read_keys(path) == [KEY, OTHER]
    path.write_text("# none\n", "utf-8")
    with pytest.raises(ConfigurationError, match="holds no key"):
        read_keys(path)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_keys(tmp_path / "nothing")


def test_key_file_that_others_may_read_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys"
    path.write_text(KEY, "utf-8")
    path.chmod(0o644)
    assert read_keys(path) == [KEY]
    assert caplog.messages == [f"other users may read {path}; `chmod 600` it"]


async def test_websocket_is_closed() -> None:
    sent = []

    async def send(message):  # type: ignore[no-untyped-def]
        sent.append(message)

    async with guarded() as app:
        await app.web.asgi({"type": "websocket", "headers": []}, lambda: None, send)  # type: ignore[arg-type,return-value]
    assert sent == [{"type": "websocket.close", "code": 1008}]
