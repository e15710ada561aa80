"""`zonda connect`: the hosts' files in their places, changed in one member and back."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import anyio
import pytest
from mcp import Client, StdioServerParameters

from mcp_servers.cli import app
from mcp_servers.cli.hosts import HOSTS, host_entry, host_file, own_command
from tools.errors import ConfigurationError

HOME = Path("/home/me")
ENVIRON = {"APPDATA": "C:/Users/me/AppData/Roaming"}


def connect(*arguments: str) -> None:
    app(["connect", *arguments], prog_name="zonda", standalone_mode=False)


@pytest.mark.parametrize(
    ("host", "platform", "path"),
    [
        ("claude-desktop", "linux", "/home/me/.config/Claude/claude_desktop_config.json"),
        (
            "claude-desktop",
            "darwin",
            "/home/me/Library/Application Support/Claude/claude_desktop_config.json",
        ),
        (
            "claude-desktop",
            "win32",
            "C:/Users/me/AppData/Roaming/Claude/claude_desktop_config.json",
        ),
        ("claude-code", "linux", "/home/me/.claude.json"),
        ("cursor", "darwin", "/home/me/.cursor/mcp.json"),
        ("vscode", "linux", "/home/me/.config/Code/User/mcp.json"),
        ("vscode", "darwin", "/home/me/Library/Application Support/Code/User/mcp.json"),
        ("vscode", "win32", "C:/Users/me/AppData/Roaming/Code/User/mcp.json"),
    ],
)
def test_each_host_keeps_its_file_where_we_look(host: str, platform: str, path: str) -> None:
    assert host_file(HOSTS[host], platform, ENVIRON, HOME) == Path(path)


def test_a_folder_that_was_moved_is_followed() -> None:
    environ = {"XDG_CONFIG_HOME": "/cfg", "CLAUDE_CONFIG_DIR": "/claude"}
    assert host_file(HOSTS["vscode"], "linux", environ, HOME) == Path("/cfg/Code/User/mcp.json")
    assert host_file(HOSTS["claude-code"], "linux", environ, HOME) == Path("/claude/.claude.json")


def test_a_windows_host_starts_us_through_wsl() -> None:
    file = Path("/mnt/c/Users/me/AppData/Roaming/Claude/claude_desktop_config.json")
    entry = host_entry(HOSTS["claude-desktop"], file, ("/z", "mcp"), {"WSL_DISTRO_NAME": "Ubuntu"})
    args = ["-d", "Ubuntu", "--exec", "/z", "mcp"]
    assert entry == {"command": "wsl.exe", "args": args}


@pytest.mark.parametrize("host", HOSTS)
def test_a_file_is_changed_in_one_member_and_back(
    host: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    section = HOSTS[host].section
    before = f'{{\n  // mine\n  "{section}": {{\n    "a": {{"command": "b"}},\n  }}\n}}\n'
    file = tmp_path / "mcp.json"
    file.write_text(before, encoding="utf-8")
    file.chmod(0o600)
    given = (host, "--file", str(file), "--model", "m")

    connect(*given, "--dry-run")
    shown = capsys.readouterr().out
    assert file.read_text(encoding="utf-8") == before
    assert [line for line in shown.splitlines() if line.startswith("-")] == [f"--- {file}"]
    assert '+    "zonda": {' in shown.splitlines()

    connect(*given)
    written = file.read_text(encoding="utf-8")
    assert "// mine" in written
    assert file.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "mcp.json.before-zonda").read_text(encoding="utf-8") == before
    capsys.readouterr()
    connect(*given)
    assert capsys.readouterr().out == f"{file} stays as it is: zonda is in it.\n"

    connect(*given, "--undo")
    assert file.read_text(encoding="utf-8") == before
    assert (tmp_path / "mcp.json.before-zonda").read_text(encoding="utf-8") == written


def test_a_missing_file_is_made_with_its_folder_and_paths_are_made_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.gguf").touch()
    file = tmp_path / "new" / "mcp.json"
    given = ("--model", "m.gguf", "--mcp-config", "servers.json", "--config", "zonda.toml")
    connect("vscode", "--file", str(file), *given)
    command, *arguments = own_command()
    paths = [str(tmp_path / part) if "." in part else part for part in given]
    entry = {"type": "stdio", "command": command, "args": [*arguments, "mcp", *paths]}
    assert json.loads(file.read_text(encoding="utf-8")) == {"servers": {"zonda": entry}}
    assert list(file.parent.iterdir()) == [file]


def test_a_file_that_we_do_not_understand_stays_untouched(tmp_path: Path) -> None:
    file = tmp_path / "mcp.json"
    file.write_text('{"mcpServers": oops}', encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        connect("cursor", "--file", str(file))
    assert str(caught.value) == (
        f"{file}, line 1, column 16: not JSON: Expecting value; nothing was changed"
    )
    assert list(tmp_path.iterdir()) == [file]


def test_an_unknown_host_is_told_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'cursor'"):
        connect("curser")


@pytest.mark.slow
@pytest.mark.anyio
async def test_the_official_client_starts_us_from_the_written_file(tmp_path: Path) -> None:
    file = tmp_path / "mcp.json"
    connect("cursor", "--file", str(file), "--model", str(tmp_path / "none.gguf"))
    entry = json.loads(file.read_text(encoding="utf-8"))["mcpServers"]["zonda"]
    state = {"ZONDA_STATE_DIR": str(tmp_path), "ZONDA_ENGINE_IDLE_S": "0"}
    entry["env"] = {**state, "PATH": str(Path(sys.executable).parent)}
    with anyio.fail_after(20):
        async with Client(StdioServerParameters(**entry)) as client:
            names = {tool.name for tool in (await client.list_tools()).tools}
    assert names == {"generate", "extract", "choose", "generate_batch", "embed", "run_result"}
