"""Published tool servers through our client: both protocol eras, side by side."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from runtime.config import process_environment
from tools.mcp_client.config import ServerConfig, load_servers
from tools.mcp_client.toolset import open_toolset
from tools.spec import ToolResult
from tools.toolset import CallContext
from tools.validation import first_problem, schema_problem

pytestmark = [pytest.mark.anyio, pytest.mark.real]
CONTEXT = CallContext()
ROOT = Path(__file__).parents[2]
SEARCHED = f"{Path(sys.executable).parent}:{ROOT / '.venv/node/node_modules/.bin'}"


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    return tmp_path / "mcp.json"


def server(config_file: Path, name: str, command: str, *args: str) -> ServerConfig:
    """Configure a published server by way of a file, as an operator would."""
    environ = dict(process_environment())
    environ["PATH"] = f"{SEARCHED}:{environ['PATH']}"
    path = shutil.which(command, path=environ["PATH"])
    assert path is not None, f"{command} is not installed: `make test` installs it"
    arguments = ", ".join(f'"{argument}"' for argument in args)
    config_file.write_text(
        f'{{"mcpServers": {{"{name}": {{"command": "{path}", "args": [{arguments}]}}}}}}',
        encoding="utf-8",
    )
    return load_servers(config_file, environ)[name]


def every_server(folder: Path) -> dict[str, Any]:
    """The reference servers over one folder, and one that does not start with today's SDK."""
    environment = Path(sys.executable).parent.parent
    node = environment / "node" / "node_modules" / ".bin"
    sqlite = environment / "sqlite"

    def from_npm(name: str, *arguments: str) -> dict[str, Any]:
        script = (node / f"mcp-server-{name}").resolve()
        return {"command": str(node / "node"), "args": [str(script), *arguments]}

    def from_pypi(name: str, *arguments: str) -> dict[str, Any]:
        command = environment / "bin" / f"mcp-server-{name}"
        return {"command": str(command), "args": list(arguments)}

    return {
        "everything": from_npm("everything", "stdio"),
        "files": from_npm("filesystem", str(folder)),
        "memory": {**from_npm("memory"), "env": {"MEMORY_FILE_PATH": str(folder / "memory.json")}},
        "thinking": from_npm("sequential-thinking"),
        "time": from_pypi("time", "--local-timezone", "UTC"),
        "fetch": from_pypi("fetch"),
        "git": from_pypi("git", "--repository", str(folder)),
        "sqlite": {
            "command": str(sqlite / "bin" / "mcp-server-sqlite"),
            "args": ["--db-path", str(folder / "data.db")],
            "env": {"PYTHONPATH": str(sqlite)},
        },
    }


ADA = {"name": "Ada", "entityType": "person", "observations": ["counts"]}
THOUGHT = {"thought": "So.", "nextThoughtNeeded": False, "thoughtNumber": 1, "totalThoughts": 1}


@pytest.fixture
def one_configuration(tmp_path: Path, config_file: Path) -> Path:
    """A file of all these servers, beside a repository with one text that they work on."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "a.txt").write_text("hello", "utf-8")
    config_file.write_text(json.dumps({"mcpServers": every_server(tmp_path)}), "utf-8")
    return config_file


async def test_all_reference_servers_work_in_one_configuration_beside_one_that_crashes(
    tmp_path: Path, one_configuration: Path
) -> None:
    servers = load_servers(one_configuration, process_environment())
    calls: list[tuple[str, dict[str, Any], str]] = [
        ("everything__get-sum", {"a": 2, "b": 3}, "The sum of 2 and 3 is 5."),
        ("files__read_text_file", {"path": str(tmp_path / "a.txt")}, '{"content":"hello"}'),
        ("memory__create_entities", {"entities": [ADA]}, '"name":"Ada"'),
        ("memory__open_nodes", {"names": ["Ada"]}, '"observations":["counts"]'),
        ("thinking__sequentialthinking", THOUGHT, '"thoughtHistoryLength":1'),
        ("time__get_current_time", {"timezone": "UTC"}, '"timezone":"UTC"'),
        ("git__git_status", {"repo_path": str(tmp_path)}, "No commits yet"),
    ]
    with anyio.fail_after(45):
        async with open_toolset(servers) as toolset:
            tools = {tool.name: tool for tool in await toolset.list_tools()}
            crashed = await toolset.wait_for("sqlite", "failed")
            for name, arguments, text in calls:
                assert first_problem(tools[name].input_schema, arguments) is None
                result = await toolset.call_tool(name, arguments, CONTEXT)
                assert not result.is_error, result.text
                assert text in result.text
            refused = await toolset.call_tool("fetch__fetch", {"url": "http://127.0.0.1/"}, CONTEXT)
            missing = await toolset.call_tool("sqlite__read_query", {"query": "select 1"}, CONTEXT)
            states = toolset.states()
    assert refused.is_error
    assert "is not a public address" in refused.text
    assert missing.is_error
    assert missing.text.startswith("server 'sqlite' is not available: it exited with status 1; ")
    assert "'Server' object has no attribute 'list_resources'" in (crashed.reason or "")
    assert {name: state.protocol_version for name, state in states.items()} == {
        **dict.fromkeys(("everything", "files", "memory", "thinking"), "2025-11-25"),
        **dict.fromkeys(("time", "fetch", "git"), "2026-07-28"),
        "sqlite": None,
    }
    assert [tool.name for tool in tools.values() if schema_problem(tool.input_schema)] == []
    assert {tool.server for tool in tools.values()} == set(states) - {"sqlite"}


async def test_the_time_server_answers_on_the_modern_era(config_file: Path) -> None:
    config = server(config_file, "time", "mcp-server-time", "--local-timezone", "UTC")
    with anyio.fail_after(30):
        async with open_toolset({"time": config}) as toolset:
            tools = await toolset.list_tools()
            assert [tool.name for tool in tools] == [
                "time__convert_time",
                "time__get_current_time",
            ]
            assert toolset.states()["time"].protocol_version == "2026-07-28"
            arguments = {
                "source_timezone": "UTC",
                "time": "12:00",
                "target_timezone": "Asia/Tokyo",
            }
            result = await toolset.call_tool("time__convert_time", arguments, CONTEXT)
            assert not result.is_error
            assert "21:00:00+09:00" in result.text
            wrong = await toolset.call_tool("time__get_current_time", {"timezone": "X"}, CONTEXT)
            assert wrong.is_error


async def test_the_everything_server_answers_on_the_handshake_era(config_file: Path) -> None:
    config = server(config_file, "all", "mcp-server-everything", "stdio")
    reports: list[float] = []

    async def report(done: float, total: float | None, message: str | None) -> None:
        reports.append(done)

    with anyio.fail_after(30):
        async with open_toolset({"all": config}) as toolset:
            tools = {tool.name: tool for tool in await toolset.list_tools()}
            assert toolset.states()["all"].protocol_version == "2025-11-25"
            assert [t.name for t in tools.values() if schema_problem(t.input_schema)] == []
            echo = await toolset.call_tool("all__echo", {"message": "hi"}, CONTEXT)
            assert echo == ToolResult.from_text("Echo: hi")
            weather = await toolset.call_tool(
                "all__get-structured-content", {"location": "Chicago"}, CONTEXT
            )
            schema = tools["all__get-structured-content"].output_schema
            assert schema is not None
            assert first_problem(schema, weather.structured) is None
            image = await toolset.call_tool("all__get-tiny-image", {}, CONTEXT)
            assert "[image image/png" in image.text
            await toolset.call_tool(
                "all__trigger-long-running-operation",
                {"duration": 0.5, "steps": 5},
                CallContext(report),
            )
    assert reports == sorted(reports) != []
