"""Published tool servers through our client: both protocol eras, side by side."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_servers.cli.session import open_session
from runtime.config import Config, process_environment
from tools.mcp_client.catalogue_store import CatalogueStore
from tools.mcp_client.config import ServerConfig, load_servers
from tools.mcp_client.options import Options, Root, SamplingBudget
from tools.mcp_client.toolset import open_toolset
from tools.questions import Answer, Question
from tools.resources import PromptMessage
from tools.spec import JsonObject, ResourceLink, TextContent, ToolResult
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


async def test_the_everything_server_uses_its_client(
    config_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    asked: list[Question] = []

    async def ask(question: Question) -> Answer:
        asked.append(question)
        return Answer("accept", {"name": "Ann", "email": "ann@example.org"})

    context = CallContext(ask=ask)
    options = Options(
        roots=(Root(tmp_path.as_uri(), "Work"),), sampling=SamplingBudget(max_tokens=8)
    )
    config = replace(server(config_file, "all", "mcp-server-everything", "stdio"), options=options)
    with anyio.fail_after(60):
        ours = Config(model=str(tiny_model), cache_dir=tmp_path, state_dir=tmp_path)
        async with open_session(ours, {"all": config}) as session:

            async def call(tool: str, **arguments: object) -> ToolResult:
                result = await session.toolset.call_tool(f"all__{tool}", arguments, context)
                assert not result.is_error, result.text
                return result

            await session.toolset.list_tools()
            sampled = await call("trigger-sampling-request", prompt="Hi", maxTokens=100)
            assert f'"model": "{tiny_model}"' in sampled.text
            assert '"stopReason": "maxTokens"' in sampled.text  # the budget's 8, not 100
            assert "Ann" in (await call("trigger-elicitation-request")).text
            page = "https://example.org/x"
            assert page in (await call("trigger-url-elicitation", url=page)).text
            assert [question.url for question in asked] == [None, page]
            assert all(one.message.startswith("The tool server 'all' asks: ") for one in asked)
            assert tmp_path.as_uri() in (await call("get-roots-list")).text
            links = (await call("get-resource-links", count=2)).content
            assert [type(part) for part in links] == [TextContent, ResourceLink, ResourceLink]


async def test_resources_and_prompts_of_published_servers_are_read(config_file: Path) -> None:
    configs = {
        "all": server(config_file, "all", "mcp-server-everything", "stdio"),
        "fetch": server(config_file, "fetch", "mcp-server-fetch"),
    }
    with anyio.fail_after(30):
        async with open_toolset(configs) as toolset:
            found = await toolset.list_resources("all", CONTEXT)
            assert {one.is_template for one in found} == {True, False}
            uri = next(one.uri for one in found if one.uri.endswith("features.md"))
            await toolset.list_tools()
            read = await toolset.call_tool("all__read_resource", {"uri": uri}, CONTEXT)
            assert read.text.startswith("# Everything Server - Features")
            assert await toolset.get_prompt("all", "args-prompt", {"city": "Rome"}, CONTEXT) == [
                PromptMessage("user", TextContent("What's weather in Rome?"))
            ]
            [prompt] = await toolset.list_prompts("fetch", CONTEXT)
            assert (prompt.name, [one.name for one in prompt.arguments]) == ("fetch", ["url"])
            assert await toolset.list_resources("fetch", CONTEXT) == []


async def test_published_servers_are_offered_before_they_are_started(
    config_file: Path, tmp_path: Path
) -> None:
    store = CatalogueStore(tmp_path / "catalogues")
    configs = {
        "all": server(config_file, "all", "mcp-server-everything", "stdio"),
        "time": server(config_file, "time", "mcp-server-time", "--local-timezone", "UTC"),
    }
    with anyio.fail_after(30):
        async with open_toolset(configs, store=store) as toolset:
            listed = await toolset.list_tools()
        async with open_toolset(configs, store=store) as toolset:
            assert await toolset.list_tools() == listed
            now = await toolset.call_tool("time__get_current_time", {"timezone": "UTC"}, CONTEXT)
            assert not now.is_error
            assert {name: state.is_started for name, state in toolset.states().items()} == {
                "all": False,
                "time": True,
            }


async def test_all_published_servers_are_used_from_one_configuration(tmp_path: Path) -> None:
    work = tmp_path / "work"
    (work / ".git").mkdir(parents=True)
    entries = {
        "everything": {"command": "mcp-server-everything", "args": ["stdio"]},
        "files": {"command": "mcp-server-filesystem", "args": [str(work)]},
        "memory": {
            "command": "mcp-server-memory",
            "env": {"MEMORY_FILE_PATH": str(tmp_path / "memory.json")},
        },
        "thinking": {"command": "mcp-server-sequential-thinking"},
        "time": {"command": "mcp-server-time", "args": ["--local-timezone", "UTC"]},
        "fetch": {"command": "mcp-server-fetch"},
        "git": {"command": "mcp-server-git"},
        "broken": {"command": "mcp-server-time", "args": ["--no-such-option"]},
    }
    path = tmp_path / "mcp.json"
    path.write_text(json.dumps({"mcpServers": entries}), encoding="utf-8")
    environ = dict(process_environment())
    environ["PATH"] = f"{SEARCHED}:{environ['PATH']}"
    thought = {"thought": "x", "nextThoughtNeeded": False, "thoughtNumber": 1, "totalThoughts": 1}
    ann = {"name": "Ann", "entityType": "person", "observations": ["likes tea"]}
    calls: dict[str, tuple[str, JsonObject, str]] = {
        "everything": ("get-sum", {"a": 2, "b": 3}, "5"),
        "files": ("write_file", {"path": str(work / "a"), "content": "x"}, "Successfully wrote"),
        "memory": ("create_entities", {"entities": [ann]}, "likes tea"),
        "thinking": ("sequentialthinking", thought, "thoughtHistoryLength"),
        "time": ("get_current_time", {"timezone": "UTC"}, "UTC"),
        "fetch": ("fetch", {"url": "http://127.0.0.1:9/"}, ""),
        "git": ("git_status", {"repo_path": str(work)}, ""),
    }
    with anyio.fail_after(50):
        async with open_toolset(load_servers(path, environ)) as toolset:
            await toolset.wait_for("broken", "failed")
            await toolset.list_tools()
            told: dict[str, bool] = {}
            for server, (tool, arguments, expected) in calls.items():
                result = await toolset.call_tool(f"{server}__{tool}", arguments, CONTEXT)
                assert expected in result.text
                told[server] = result.is_error
            states = toolset.states()
            gone = await toolset.call_tool("broken__get_current_time", {}, CONTEXT)
    eras = {name: state.protocol_version for name, state in states.items()}
    assert eras == {
        **dict.fromkeys(["everything", "files", "memory", "thinking"], "2025-11-25"),
        **dict.fromkeys(["time", "fetch", "git"], "2026-07-28"),
        "broken": None,
    }
    # A private address and a folder that is no repository are refused by their servers.
    assert [server for server, is_error in told.items() if is_error] == ["fetch", "git"]
    assert "server 'broken' is not available: it exited with status 2" in gone.text
