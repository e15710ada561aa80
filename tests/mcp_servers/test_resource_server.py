"""Tokens of an authorization server: which count, where its keys come from, who calls with them."""

from __future__ import annotations

import base64
import hmac
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mcp_servers.resource_server import (
    InvalidTokenError,
    ResourceServer,
    ResourceSettings,
    make_resource_server,
)
from runtime.config import Config, load_config
from tests.helpers.authorization_server import (
    AuthorizationServer,
    Browser,
    serve_authority,
)
from tests.helpers.http_tool_servers import serve_app
from tests.helpers.model_service import scripted_models
from tests.helpers.scripted_chat_model import ScriptedTurn, play
from tests.helpers.web_service import open_app
from tools.errors import ConfigurationError, UnavailableError
from tools.mcp_client.config import ServerConfig, Timeouts
from tools.mcp_client.login import log_in
from tools.mcp_client.token_store import TokenStore
from tools.mcp_client.toolset import open_toolset
from tools.toolset import CallContext

pytestmark = pytest.mark.anyio

RESOURCE = "https://zonda.example/mcp"
AUTHORITY = AuthorizationServer("https://login.example/")
FOREIGN = AuthorizationServer("https://login.example/")


@pytest.fixture
def server(tmp_path: Path) -> ResourceServer:
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps(AUTHORITY.key_set), "utf-8")
    settings = ResourceSettings(AUTHORITY.issuer, RESOURCE, ("use", "more"), str(keys))
    return ResourceServer(settings)


def encoded(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def spelled(header: dict[str, Any], tail: str = "") -> str:
    """A token whose header is another one, over the payload of a good one."""
    return f"{encoded(header)}.{AUTHORITY.sign(aud=RESOURCE).split('.')[1]}.{tail}"


def signed_with_the_public_key() -> str:
    """A token whose secret is what everybody knows; the library would not make one."""
    public = jwt.PyJWKSet.from_dict(AUTHORITY.key_set).keys[0].key
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    claims = {"iss": AUTHORITY.issuer, "aud": RESOURCE, "sub": "eve", "exp": 9_999_999_999}
    body = f"{encoded({'alg': 'HS256', 'kid': 'k1'})}.{encoded(claims)}"
    signature = hmac.digest(pem, body.encode(), "sha256")
    return f"{body}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


GOOD = AUTHORITY.sign(aud=RESOURCE)
BAD_TOKENS: tuple[tuple[str, str], ...] = (
    ("", "not one for this server"),
    ("a.b.c", "not one for this server"),
    (GOOD[:-4] + "AAAA", "not one for this server"),
    (GOOD.rsplit(".", 1)[0] + ".", "not one for this server"),
    (GOOD + ".x", "not one for this server"),
    ("x" * 20_000, "too long"),
    (FOREIGN.sign(aud=RESOURCE), "not one for this server"),
    (AUTHORITY.sign(aud=RESOURCE, exp=1), "has expired"),
    (AUTHORITY.sign(aud=RESOURCE, exp=None), "not one for this server"),
    (AUTHORITY.sign(aud=RESOURCE, sub=None), "not one for this server"),
    (AUTHORITY.sign(aud=RESOURCE, sub=7), "not one for this server"),
    (AUTHORITY.sign(aud=RESOURCE, nbf=9_999_999_999), "not one for this server"),
    (AUTHORITY.sign(), "not one for this server"),
    (AUTHORITY.sign(aud=RESOURCE, scope=7), "not one for this server"),
    (AUTHORITY.sign(aud=RESOURCE, exp=float("inf")), "not one for this server"),
    (AUTHORITY.sign(aud="https://zonda.example/mcp/x"), "not one for this server"),
    (AUTHORITY.sign(aud=["https://a.example", "https://b.example"]), "not one for this server"),
    (AUTHORITY.sign(aud=RESOURCE, iss="https://login.example.evil/"), "not one for this server"),
    (spelled({"alg": "none"}), "signed in a way"),
    (spelled({"alg": "None", "typ": "JWT"}), "signed in a way"),
    (spelled({"alg": "HS256", "kid": "k1"}, "AAAA"), "signed in a way"),
    (signed_with_the_public_key(), "signed in a way"),
    (spelled({"alg": "ES256", "kid": "k1", "crit": ["x"]}, "AAAA"), "not one for this"),
    (spelled({"alg": "ES256", "kid": "k2"}, "AAAA"), "not its issuer's"),
    (spelled({"alg": "RS256", "kid": "k1"}, "AAAA"), "not its issuer's"),
    (spelled({"alg": "ES256", "kid": "../../etc"}, "AAAA"), "not its issuer's"),
    (spelled({"alg": "ES256", "kid": "k1", "typ": "oauth-id-jag+jwt"}, "AAAA"), "no access token"),
)


@pytest.mark.parametrize(("token", "problem"), BAD_TOKENS)
async def test_a_token_that_is_not_for_us_is_refused(
    server: ResourceServer, token: str, problem: str
) -> None:
    with pytest.raises(InvalidTokenError, match=problem):
        await server.check(token)


@pytest.mark.parametrize(
    ("claims", "scopes", "missing"),
    [
        ({"scope": "use more else"}, ["use", "more", "else"], []),
        ({"scp": ["use"]}, ["use"], ["more"]),
        ({"scp": "more use"}, ["more", "use"], []),
        ({}, [], ["use", "more"]),
        ({"aud": ["https://a.example", RESOURCE], "scope": "used"}, ["used"], ["use", "more"]),
    ],
)
async def test_who_bears_a_good_token_is_known_by_issuer_and_subject(
    server: ResourceServer, claims: dict[str, Any], scopes: list[str], missing: list[str]
) -> None:
    user = await server.check(AUTHORITY.sign(**{"aud": RESOURCE, "client_id": "c1", **claims}))
    assert user.username == "https://login.example/ ada"
    assert (user.access_token.client_id, user.access_token.subject) == ("c1", "ada")
    assert user.access_token.token == ""
    assert user.scopes == scopes
    assert server.missing_scopes(user) == missing


@asynccontextmanager
async def checking(
    keys: Callable[[AuthorizationServer], str], now: Callable[[], float]
) -> AsyncIterator[tuple[AuthorizationServer, ResourceServer]]:
    """A resource server that fetches the keys of a running authorization server."""
    with anyio.fail_after(10):
        async with serve_authority() as authority:
            settings = ResourceSettings(authority.issuer, RESOURCE, (), keys(authority))
            yield authority, ResourceServer(settings, now)


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.time_s = 10_000.0

    def __call__(self) -> float:
        return self.time_s


async def test_keys_are_fetched_once_and_again_after_an_hour_or_for_a_new_key() -> None:
    clock = Clock()
    async with checking(lambda one: f"{one.issuer}keys", clock) as (authority, server):
        for _ in range(3):
            await server.check(authority.sign(aud=RESOURCE))
        assert authority.requests == ["GET /keys"]
        clock.time_s += 3601
        await server.check(authority.sign(aud=RESOURCE))
        assert len(authority.requests) == 2
        for _ in range(3):  # a key that is unknown makes us ask, and not again at once
            clock.time_s += 11
            with pytest.raises(InvalidTokenError):
                await server.check(spelled({"alg": "ES256", "kid": "new"}, "AAAA"))
        assert len(authority.requests) == 3


async def test_many_callers_at_once_fetch_the_keys_once() -> None:
    async with checking(lambda one: f"{one.issuer}keys", Clock()) as (authority, server):
        token = authority.sign(aud=RESOURCE)
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(server.check, token)
    assert authority.requests == ["GET /keys"]


async def test_an_issuer_that_does_not_say_where_its_keys_are_makes_tokens_unavailable() -> None:
    clock = Clock()
    async with checking(lambda one: "", clock) as (authority, server):  # the SDK's says nothing
        token = authority.sign(aud=RESOURCE)
        for _ in range(3):
            with pytest.raises(UnavailableError, match="keys cannot be had"):
                await server.check(token)
        assert authority.requests == ["GET /.well-known/oauth-authorization-server"]
        clock.time_s += 2
        with pytest.raises(UnavailableError):
            await server.check(token)
        assert len(authority.requests) == 2


async def test_an_issuer_says_where_its_keys_are() -> None:
    async with checking(lambda one: "", Clock()) as (authority, server):
        authority.keys_url = f"{authority.issuer}keys"
        assert (await server.check(authority.sign(aud=RESOURCE))).access_token.subject == "ada"
        assert authority.requests[-1] == "GET /keys"


@pytest.mark.parametrize(
    ("issuer", "keys", "place", "is_let"),
    [
        ("https://login.example/", "", ("login.example", 443), True),
        ("https://login.example/", "", ("localhost", 443), False),
        ("https://login.example/", "", ("169.254.169.254", 80), False),
        ("https://login.example/", "", ("login.example", 6379), False),
        ("https://login.example/", "https://keys.corp:8443/x", ("keys.corp", 8443), True),
        ("http://127.0.0.1:1/", "", ("127.0.0.1", 2), True),
    ],
)
def test_an_issuer_outside_does_not_lead_inside(
    issuer: str, keys: str, place: tuple[str, int], is_let: bool
) -> None:
    assert ResourceServer(ResourceSettings(issuer, RESOURCE, keys=keys))._may_be_inner(*place) == (
        is_let
    )


async def test_keys_that_cannot_be_fetched_anew_go_on_to_count() -> None:
    clock = Clock()
    async with checking(lambda one: f"{one.issuer}keys", clock) as (authority, server):
        token = authority.sign(aud=RESOURCE)
        await server.check(token)
    clock.time_s += 7200
    await server.check(token)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"oauth_issuer": "login.example"}, "oauth_issuer must be https"),
        ({"oauth_issuer": "http://login.example"}, "or on this machine"),
        ({"oauth_issuer": "https://user@login.example"}, "oauth_issuer must be https"),
        ({"oauth_resource": "https://a.example/mcp?x=1"}, "without a query"),
        ({"oauth_resource": "http://a.example/mcp"}, "or on this machine"),
        ({"oauth_keys": "http://login.example/keys"}, "https://… or a file"),
        ({"oauth_keys": "ftp://login.example/keys"}, "https://… or a file"),
        ({"oauth_keys": "/nowhere/keys.json"}, "holds no JWK Set"),
    ],
)
def test_a_wrong_setting_is_told(settings: dict[str, Any], message: str) -> None:
    usual: dict[str, Any] = {"oauth_issuer": "https://login.example/", "oauth_resource": RESOURCE}
    with pytest.raises(ConfigurationError, match=message):
        make_resource_server(load_config({}, **{**usual, **settings}))


def test_tokens_do_not_count_unless_an_issuer_is_set() -> None:
    assert make_resource_server(Config()) is None
    with pytest.raises(ConfigurationError, match="oauth_resource must be the URL of /mcp"):
        load_config({}, oauth_issuer="https://login.example/")


def test_a_file_that_holds_no_keys_is_told(tmp_path: Path) -> None:
    for text in ("", "[]", "{}", '{"keys": []}', '{"keys": [{"kty": "oct"}]}'):
        (tmp_path / "keys.json").write_text(text, "utf-8")
        settings = ResourceSettings(
            "https://login.example/", RESOURCE, keys=str(tmp_path / "keys.json")
        )
        with pytest.raises(ConfigurationError, match="holds no JWK Set"):
            ResourceServer(settings)


async def test_our_client_logs_in_at_our_server(tmp_path: Path) -> None:
    models = scripted_models(play(ScriptedTurn("hello")))
    store, browser = TokenStore(tmp_path / "tokens"), Browser()
    async with serve_authority() as authority:
        authority.keys_url = f"{authority.issuer}keys"
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
            tokens = ResourceServer(ResourceSettings(authority.issuer, url, ("use",)))
            config = ServerConfig("zonda", url=url, timeouts=Timeouts(5, 5, 10))
            async with (
                open_app(models, tokens=tokens) as app,
                serve_app(app.web.asgi, listener),
                open_toolset({"zonda": config}, tokens=store) as toolset,
            ):
                state = await toolset.wait_for("zonda", "failed")
                assert state.reason == "needs login: run `zonda mcp login zonda`"
                await log_in(config, store, browser)
                await toolset.wait_for("zonda", "ready")
                arguments = {"prompt": "Say hello."}
                result = await toolset.call_tool("zonda__generate", arguments, CallContext())
                app.web.end_streams()
    assert not result.is_error
    assert result.structured is not None
    assert result.structured["text"] == "hello"
    assert authority.asked_scopes == [["use"]]
