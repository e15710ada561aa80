"""Published tool servers through our client: both protocol eras, side by side."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

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
