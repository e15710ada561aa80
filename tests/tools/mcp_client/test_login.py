"""Tool servers that want a login: refused, logged in to, renewed, lost again, left."""

from __future__ import annotations

import json
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp.shared.auth import OAuthClientInformationFull

from tests.helpers.authorization_server import (
    AuthorizationServer,
    Browser,
    Protected,
    serve_authority,
    serve_protected,
)
from tests.helpers.http_tool_servers import older_app, serve_app
from tests.helpers.tool_servers import RecordingToolset, scripted_server
from tools.errors import ConfigurationError, ToolServerError
from tools.mcp_client.config import ServerConfig, Timeouts
from tools.mcp_client.login import log_in, log_out
from tools.mcp_client.oauth_config import OAuthConfig
from tools.mcp_client.oauth_flow import target_problem
from tools.mcp_client.token_store import TokenStore
from tools.mcp_client.toolset import McpToolset, open_toolset
from tools.spec import ToolResult
from tools.toolset import CallContext

pytestmark = pytest.mark.anyio
QUICK = Timeouts(connect_s=5, idle_s=5, total_s=10)
NEEDS_LOGIN = "needs login: run `zonda mcp login web`"


@dataclass
class World:
    """An authorization server, a tool server that it protects, and where logins are kept."""

    authority: AuthorizationServer
    server: Protected
    config: ServerConfig
    folder: Path
    browser: Browser

    @property
    def store(self) -> TokenStore:
        return TokenStore(self.folder)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[McpToolset]:
        async with open_toolset({"web": self.config}, tokens=self.store) as toolset:
            yield toolset

    async def log_in(self) -> None:
        await log_in(self.config, self.store, self.browser)

    def file(self) -> Any:
        """What is kept."""
        (path,) = self.folder.iterdir()
        return json.loads(path.read_bytes())


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    with anyio.fail_after(30):
        async with (
            serve_authority() as authority,
            serve_protected(RecordingToolset(["act"]), authority, "read") as server,
        ):
            config = ServerConfig("web", url=server.url, timeouts=QUICK)
            yield World(authority, server, config, tmp_path / "tokens", Browser())


async def act(toolset: McpToolset) -> ToolResult:
    return await toolset.call_tool("web__act", {}, CallContext())


async def test_a_server_that_wants_a_login_is_failed_and_names_the_command(world: World) -> None:
    async with world.opened() as toolset:
        state = await toolset.wait_for("web", "failed")
        result = await act(toolset)
    assert state.reason == NEEDS_LOGIN
    assert result == ToolResult.from_text(
        f"server 'web' is not available: it {NEEDS_LOGIN}", is_error=True
    )
    assert world.authority.requests == []  # nobody was asked for anything


async def test_after_a_login_the_server_is_used_and_nothing_else_learns_of_it(world: World) -> None:
    world.config = replace(world.config, headers={"x-key": "for the server only"})
    async with world.opened() as toolset:
        await toolset.wait_for("web", "failed")
        await world.log_in()
        await toolset.wait_for("web", "ready")
        assert not (await act(toolset)).is_error
    assert [request for request in world.authority.requests if "well-known" not in request] == [
        "POST /register",
        "GET /authorize",
        "POST /token",
    ]
    assert not any("x-key" in head for head in world.authority.heads)
    assert "You are logged in" in world.browser.answers[0]
    asked = world.browser.asked
    assert asked["code_challenge_method"] == "S256"
    assert asked["resource"] == world.config.url
    assert asked["scope"] == "read"
    assert asked["redirect_uri"].startswith("http://127.0.0.1:")


async def test_what_a_login_gives_is_kept_by_resource_and_issuer_for_the_owner_alone(
    world: World,
) -> None:
    await world.log_in()
    (path,) = world.folder.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(world.folder.stat().st_mode) == 0o700
    kept = world.file()
    issuer = world.authority.issuer
    assert (kept["resource"], kept["issuer"]) == (world.config.url, issuer)
    assert [grant["issuer"] for grant in kept["grants"]] == [issuer]
    assert kept["challenge"] is None


async def test_an_authorization_server_that_is_away_is_not_a_lost_login(world: World) -> None:
    world.authority.lifetime_s = 5
    await world.log_in()
    world.authority.revoke_all()
    world.authority.is_away = True
    async with world.opened() as toolset:
        state = await toolset.wait_for("web", "failed")
        assert state.reason == (
            f"wants a new token, and {world.authority.issuer} cannot be used: it answered with "
            "HTTP status 503"
        )
        world.authority.is_away = False
        await toolset.wait_for("web", "ready")
        assert not (await act(toolset)).is_error
    assert len(world.browser.visited) == 1


async def test_a_login_whose_port_is_taken_registers_another(world: World) -> None:
    await world.log_in()
    port = int(world.browser.asked["redirect_uri"].rsplit(":", 1)[1].partition("/")[0])
    with socket.create_server(("127.0.0.1", port)):
        await world.log_in()
    assert world.authority.requests.count("POST /register") == 2


async def test_a_second_login_is_of_the_client_that_was_registered(world: World) -> None:
    await world.log_in()
    await world.log_in()
    assert world.authority.requests.count("POST /register") == 1
    assert world.authority.requests.count("POST /token") == 2


async def test_an_old_token_is_renewed_before_it_is_refused(world: World) -> None:
    world.authority.lifetime_s = 5  # renewed some seconds before: old as soon as it comes
    await world.log_in()
    world.server.heads.clear()
    async with world.opened() as toolset:
        assert not (await act(toolset)).is_error
    tokens = {head["authorization"] for head in world.server.heads}
    assert len(tokens) > 1
    assert len(world.browser.visited) == 1
    kept = world.file()["grants"][0]["tokens"]
    assert f"Bearer {kept['access_token']}" in tokens
    assert kept["scope"] == "read"


async def test_a_token_that_is_refused_is_renewed_within_the_call(world: World) -> None:
    await world.log_in()
    async with world.opened() as toolset:
        assert not (await act(toolset)).is_error
        world.authority.revoke_all()
        assert not (await act(toolset)).is_error
        assert toolset.states()["web"].status == "ready"
    assert len(world.browser.visited) == 1


async def test_calls_that_are_refused_together_renew_the_token_once(world: World) -> None:
    await world.log_in()
    async with world.opened() as toolset:
        await toolset.wait_for("web", "ready")
        world.authority.revoke_all()
        results: list[ToolResult] = []

        async def call() -> None:
            results.append(await act(toolset))

        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(call)
    assert [result.is_error for result in results] == [False] * 8
    assert world.authority.requests.count("POST /token") == 2


async def test_a_login_that_ends_while_serving_is_told_by_the_call_and_the_state(
    world: World,
) -> None:
    await world.log_in()
    async with world.opened() as toolset:
        assert not (await act(toolset)).is_error
        world.authority.revoke_all(refresh=True)
        result = await act(toolset)
        state = await toolset.wait_for("web", "failed")
        assert result == ToolResult.from_text(
            f"server 'web' refused the call of web__act: it {NEEDS_LOGIN}", is_error=True
        )
        assert state.reason == NEEDS_LOGIN
        await world.log_in()
        await toolset.wait_for("web", "ready")
        assert not (await act(toolset)).is_error


async def test_a_token_that_another_process_renewed_is_taken_from_the_store(world: World) -> None:
    await world.log_in()
    async with world.opened() as toolset:
        await toolset.wait_for("web", "ready")
        world.authority.revoke_all(refresh=True)
        await world.log_in()  # as another process would
        num_tokens = world.authority.requests.count("POST /token")
        assert not (await act(toolset)).is_error
    assert world.authority.requests.count("POST /token") == num_tokens


async def test_rights_that_are_missing_are_asked_for_at_the_next_login(world: World) -> None:
    await world.log_in()
    async with world.opened() as toolset:
        assert not (await act(toolset)).is_error
        world.server.scopes = ["write"]
        result = await act(toolset)
        assert result.text == (
            "server 'web' refused the call of web__act: it needs a login with more rights: run "
            "`zonda mcp login web`"
        )
        await world.log_in()
        await toolset.wait_for("web", "ready")
        assert not (await act(toolset)).is_error
    assert world.authority.asked_scopes == [["read"], ["read", "write"]]


async def test_scopes_of_the_entry_are_asked_for_as_well(world: World) -> None:
    oauth = OAuthConfig(scopes=("more", "read"))
    await log_in(replace(world.config, oauth=oauth), world.store, world.browser)
    assert world.authority.asked_scopes == [["read", "more"]]


async def test_a_refused_login_says_so_and_keeps_nothing(world: World) -> None:
    world.authority.refusal = "access_denied"
    with pytest.raises(ToolServerError) as caught:
        await world.log_in()
    assert str(caught.value) == ("the login at server 'web' failed: it was refused: access_denied")
    assert "The login failed" in world.browser.answers[0]
    assert not world.folder.exists()


async def test_a_login_that_nobody_makes_ends(world: World) -> None:
    async def ignore(url: str) -> None:
        pass

    with pytest.raises(ToolServerError, match=r"nobody logged in within 0\.3 s"):
        await log_in(world.config, world.store, ignore, within_s=0.3)


async def test_an_issuer_that_the_entry_does_not_name_gets_nobody_sent_to(world: World) -> None:
    oauth = OAuthConfig(issuer="https://login.example.org")
    with pytest.raises(ToolServerError, match=r"not to 'https://login\.example\.org'"):
        await log_in(replace(world.config, oauth=oauth), world.store, world.browser)
    assert world.browser.visited == []


async def test_tokens_of_another_client_are_not_used(world: World) -> None:
    await world.log_in()
    world.config = replace(world.config, oauth=OAuthConfig(client_id="by-hand"))
    async with world.opened() as toolset:
        assert (await toolset.wait_for("web", "ready", "failed")).reason == NEEDS_LOGIN


async def test_a_logout_is_told_to_the_issuer_and_forgotten_here(world: World) -> None:
    await world.log_in()
    assert await log_out(world.config, world.store)
    assert world.authority.requests[-1] == "POST /revoke"
    assert list(world.folder.iterdir()) == []
    assert not await log_out(world.config, world.store)


async def test_a_key_in_the_entry_is_used_alone(world: World) -> None:
    await world.log_in()
    world.config = replace(world.config, headers={"Authorization": "Bearer mine"})
    world.server.heads.clear()
    async with world.opened() as toolset:
        state = await toolset.wait_for("web", "failed")
    assert {head["authorization"] for head in world.server.heads} == {"Bearer mine"}
    assert state.reason == (
        f"answered with HTTP status 401 at {world.config.url}; check the entry's `headers`"
    )
    with pytest.raises(ConfigurationError, match="nobody logs in to it"):
        await world.log_in()


async def test_a_server_without_a_login_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="only a URL has a login"):
        await log_in(scripted_server("local"), TokenStore(tmp_path), Browser())


def own_client(world: World, **changes: Any) -> ServerConfig:
    """An entry whose client needs nobody, and is known to the authorization server."""
    world.authority.clients["robot"] = OAuthClientInformationFull(
        client_id="robot", client_secret="s3cret"
    )
    oauth = OAuthConfig(
        grant="client_credentials",
        client_id="robot",
        client_secret="s3cret",
        issuer=world.authority.issuer,
        scopes=("more",),
    )
    return replace(world.config, oauth=replace(oauth, **changes))


async def test_a_client_of_the_entry_needs_no_person(world: World) -> None:
    world.config = own_client(world)
    async with world.opened() as toolset:
        assert not (await act(toolset)).is_error
        world.authority.revoke_all()
        assert not (await act(toolset)).is_error
    assert world.authority.asked_scopes == [["read", "more"]] * 2
    assert "GET /authorize" not in world.authority.requests


async def test_a_client_of_the_entry_is_given_one_token_for_many_calls(world: World) -> None:
    world.config = own_client(world)
    async with world.opened() as toolset:
        await toolset.wait_for("web", "ready")
        world.authority.revoke_all()
        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(act, toolset)
    assert world.authority.requests.count("POST /token") == 2


async def test_a_client_of_the_entry_gets_more_rights_within_the_call(world: World) -> None:
    world.config = own_client(world)
    async with world.opened() as toolset:
        assert not (await act(toolset)).is_error
        world.server.scopes = ["write"]
        assert not (await act(toolset)).is_error
    assert world.authority.asked_scopes[-1] == ["more", "write"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"client_secret": "wrong"}, "was refused a token: Token exchange failed (401)"),
        ({"issuer": "https://other.example"}, "issuer mismatch"),
        ({"private_key": "no key"}, "`private_key` cannot sign by ES256"),
    ],
)
async def test_a_client_that_gets_no_token_says_why(
    world: World, changes: dict[str, str], reason: str
) -> None:
    world.config = own_client(world, **changes)
    async with world.opened() as toolset:
        state = await toolset.wait_for("web", "failed", "ready")
    assert state.reason is not None
    assert reason in state.reason


@pytest.mark.parametrize("is_sse", [True, False])
async def test_the_older_transport_is_logged_in_to_as_well(world: World, is_sse: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/sse"
        app = Protected(older_app(RecordingToolset(["act"])), url, world.authority, ["read"])
        world.config = ServerConfig("web", url=url, is_sse=is_sse, timeouts=QUICK)
        async with serve_app(app, listener), world.opened() as toolset:
            assert (await toolset.wait_for("web", "failed")).reason == NEEDS_LOGIN
            await world.log_in()
            await toolset.wait_for("web", "ready")
            assert not (await act(toolset)).is_error
            world.authority.revoke_all(refresh=True)
            assert NEEDS_LOGIN in (await act(toolset)).text


@pytest.mark.parametrize(
    ("server", "target", "problem"),
    [
        ("https://a.example/mcp", "https://login.example/token", None),
        ("https://a.example/mcp", "https://a.example/token", None),
        ("http://a.example/mcp", "http://a.example/token", None),
        ("http://127.0.0.1:1/mcp", "http://localhost:2/token", None),
        ("http://10.0.0.1/mcp", "http://192.168.0.1/token", None),
        ("https://a.example/mcp", "https://10.9.9.9/token", None),
        ("https://a.example/mcp", "http://login.example/token", "not https"),
        ("http://127.0.0.1:1/mcp", "http://login.example/token", "not https"),
        ("http://127.0.0.1:1/mcp", "ftp://127.0.0.1/token", "inside"),
        ("https://a.example/mcp", "https://127.0.0.1/token", "inside"),
        ("https://a.example/mcp", "http://localhost:8080/", "inside"),
        ("https://a.example/mcp", "https://x.localhost/", "inside"),
        ("https://a.example/mcp", "https://169.254.169.254/latest", "inside"),
        ("https://a.example/mcp", "https://[::1]/token", "inside"),
        ("https://a.example/mcp", "https://[fd00::1]/token", "inside"),
        ("https://a.example/mcp", "https://10.1.2.3/token", "inside"),
    ],
)
def test_a_server_cannot_send_us_where_it_cannot_go(
    server: str, target: str, problem: str | None
) -> None:
    told = target_problem([httpx2.URL(server), httpx2.URL("https://10.9.9.9/")], httpx2.URL(target))
    assert told is None if problem is None else told is not None and problem in told
