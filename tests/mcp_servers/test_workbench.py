"""The workbench over MCP: both eras in process, and over real pipes."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import pytest
from mcp import Client, StdioServerParameters

from mcp_servers.toolset_server import build_server
from mcp_servers.workbench.server import workbench_toolset
from tools.validation import first_problem, schema_problem

pytestmark = pytest.mark.anyio
CALLS = [
    ("get_time", {"timezone": "Europe/Paris"}),
    ("days_between", {"start": "2026-01-01", "end": "2026-12-25"}),
    ("calculate", {"expression": "(3 + 4) * 6"}),
    ("add_note", {"text": "buy milk"}),
    ("list_notes", {}),
    ("list_files", {}),
    ("read_file", {"path": "a.txt"}),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_text("hello", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_every_tool_is_typed_marked_and_answers_as_its_schema_says(
    root: Path, mode: str
) -> None:
    server = build_server("workbench", workbench_toolset(root))
    with anyio.fail_after(5):
        async with Client(server, mode=mode) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert list(tools) == [name for name, _ in CALLS]
            for name, arguments in CALLS:
                tool = tools[name]
                assert tool.description
                assert tool.output_schema is not None
                assert schema_problem(tool.input_schema) is None
                assert tool.annotations is not None
                assert tool.annotations.read_only_hint is (name != "add_note")
                assert tool.annotations.open_world_hint is False
                result = await client.call_tool(name, arguments)
                assert not result.is_error
                assert first_problem(tool.output_schema, result.structured_content) is None


async def test_the_workbench_serves_over_pipes_and_ends_with_its_input(root: Path) -> None:
    code = f"import anyio, pathlib; from mcp_servers.workbench.server import serve; \
anyio.run(serve, pathlib.Path({str(root)!r}))"
    parameters = StdioServerParameters(
        command=sys.executable, args=["-P", "-c", code], env={"PYTHONPATH": str(Path.cwd())}
    )
    with anyio.fail_after(30):
        async with Client(parameters) as client:
            result = await client.call_tool("calculate", {"expression": "6 * 7"})
            assert result.structured_content == {"result": 42}
            wrong = await client.call_tool("calculate", {})
            assert wrong.is_error
