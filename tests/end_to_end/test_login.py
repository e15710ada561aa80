"""`zonda mcp login` as a process: a browser of the person's, kept tokens, a call, a logout."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import pytest

from tests.helpers.authorization_server import serve_authority, serve_protected
from tests.helpers.tool_servers import RecordingToolset

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
