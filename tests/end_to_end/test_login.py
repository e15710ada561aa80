"""Logins of whole processes: `zonda mcp login` and its browser, `zonda serve` and its tokens."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import anyio
import pytest

from tests.helpers.authorization_server import (
    AuthorizationServer,
    serve_authority,
    serve_protected,
)
from tests.helpers.http_process import HttpServerProcess
from tests.helpers.tool_servers import RecordingToolset
from tests.helpers.web_service import connect

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

BROWSER = """
import sys, urllib.request
print(urllib.request.urlopen(sys.argv[1], timeout=10).status)
"""


async def zonda(environ: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    """Return the exit status, standard output and standard error."""
    command = [sys.executable, "-m", "mcp_servers", *arguments]
    done = await anyio.run_process(command, env=environ, check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


async def test_a_person_logs_in_uses_the_server_and_logs_out(
    environ: dict[str, str], tmp_path: Path
) -> None:
    script = tmp_path / "browser.py"
    script.write_text(BROWSER, encoding="utf-8")
    own = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    environ |= {**own, "BROWSER": f"{sys.executable} {script} %s"}
    with anyio.fail_after(120):
        async with (
            serve_authority() as authority,
            serve_protected(RecordingToolset(["act"]), authority, "read") as server,
        ):
            await zonda(environ, "mcp", "add", "web", server.url)
            needs = "web needs login: run `zonda mcp login web`\n"
            assert (await zonda(environ, "mcp", "test", "web"))[:2] == (1, needs)
            assert "GET /authorize" not in authority.requests

            status, out, err = await zonda(environ, "mcp", "login", "web")
            assert (status, err) == (0, "")
            first, *rest = out.splitlines()
            assert first.startswith(f"Log in at: {authority.issuer}authorize?")
            assert rest[-2:] == [f"Logged in at web through {authority.issuer}.", "Granted: read"]

            status, out, err = await zonda(environ, "tools", "call", "web", "act", '{"a": 1}')
            assert (status, out, err) == (0, '{"a":1}\n', "")

            for told in ("Logged out of web.\n", "There is no login at web.\n"):
                assert await zonda(environ, "mcp", "logout", "web") == (0, told, "")
            assert (await zonda(environ, "mcp", "test", "web"))[:2] == (1, needs)


async def test_a_login_that_is_refused_is_one_line(environ: dict[str, str], tmp_path: Path) -> None:
    environ |= {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    await zonda(environ, "mcp", "add", "local", "run-me")
    status, out, err = await zonda(environ, "mcp", "login", "local")
    assert (status, out) == (2, "")
    assert err == (
        "zonda: server 'local' cannot be logged in to: it is a command that Zonda runs; only a "
        "URL has a login\n"
    )


async def test_zonda_serve_takes_the_tokens_that_its_settings_name(
    environ: dict[str, str], tiny_model: Path, tmp_path: Path
) -> None:
    authority, resource = AuthorizationServer("https://login.example/"), "https://zonda.example/mcp"
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps(authority.key_set), encoding="utf-8")
    environ |= {
        "ZONDA_OAUTH_ISSUER": authority.issuer,
        "ZONDA_OAUTH_RESOURCE": resource,
        "ZONDA_OAUTH_SCOPES": "use",
        "ZONDA_OAUTH_KEYS": str(keys),
    }
    with HttpServerProcess("--model", str(tiny_model), environ=environ) as server:
        metadata = server.get("/.well-known/oauth-protected-resource/mcp")
        assert metadata.json()["authorization_servers"] == [authority.issuer]
        refused = server.get("/health")
        told = refused.headers["www-authenticate"]
        assert (refused.status_code, "oauth-protected-resource/mcp" in told) == (401, True)
        tokens = {scope: authority.sign(aud=resource, scope=scope) for scope in ("use", "other")}
        found = {
            scope: server.get("/health", {"authorization": f"Bearer {token}"}).status_code
            for scope, token in tokens.items()
        }
        assert found == {"use": 200, "other": 403}
        async with connect(server.url, "2026-07-28", tokens["use"]) as client:
            said = await client.call_tool("generate", {"prompt": "Hello", "max_tokens": 4})
        server.stop()
        assert server.wait() == 0
    assert not said.is_error
    assert not any(token in "".join(server.log) for token in tokens.values())
