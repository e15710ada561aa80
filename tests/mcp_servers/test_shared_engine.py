"""Tests of the engine process's sessions: one set of models, nothing else in common."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

from mcp_servers.model_server.admission import AdmissionLimits
from mcp_servers.model_server.host_log import HostLogHandler
from mcp_servers.model_server.service import AgentSetup
from mcp_servers.sharing.wire import Hello
from runtime.agent.policy import Policy
from tests.helpers.engine_hosts import greeting, open_engine
from tests.helpers.model_service import ScriptedModels, scripted_models
from tests.helpers.scripted_chat_model import ScriptedTurn, play
from tests.helpers.tool_servers import RecordingToolset
from tools.errors import ConfigurationError
from tools.sampling import Sampler
from tools.toolset import Toolset

pytestmark = pytest.mark.anyio


@pytest.fixture
def host_logs() -> Iterator[None]:
    handler, root = HostLogHandler(), logging.getLogger()
    root.addHandler(handler)
    for package in ("mcp_servers", "tools"):
        logging.getLogger(package).setLevel(logging.DEBUG)
    yield
    root.removeHandler(handler)


def hanging_models() -> ScriptedModels:
    """Models whose turns never end when they are asked to "wait"."""
    return scripted_models(
        lambda asked: ScriptedTurn("done", hangs=asked.messages[-1].content == "wait")
    )


async def test_hosts_share_the_models_and_nothing_of_their_runs() -> None:
    models = hanging_models()
    async with open_engine(models) as engine, engine.connect() as first, engine.connect() as second:
        for host in (first, second):
            await host.open()
            assert (await host.call("generate", prompt="Hello"))["structuredContent"]["text"]
        handle = await first.call("generate", prompt="wait", wait_seconds=0)
        run_id = handle["structuredContent"]["run_id"]
        unknown = await second.call("run_result", run_id=run_id, wait_seconds=0)
        cancelled = await second.call("run_result", run_id=run_id, cancel=True)
        known = await first.call("run_result", run_id=run_id, wait_seconds=0)
    assert models.num_opened == 1
    assert unknown["isError"]
    assert unknown["content"][0]["text"].startswith("no run has this id")
    assert cancelled == unknown
    assert known["structuredContent"] == {"status": "running", "run_id": run_id}


async def test_a_host_that_comes_later_finds_the_models_loaded() -> None:
    models = scripted_models(play(ScriptedTurn("hello")))
    async with open_engine(models) as engine, engine.connect() as one:
        await one.open()
        await one.call("generate", prompt="?")
        async with engine.connect() as other:
            await other.open()
            read = await other.ask("resources/read", {"uri": "runtime://status"})
    status = json.loads(read["contents"][0]["text"])
    assert [model["name"] for model in status["models"]] == ["scripted"]


async def test_host_that_leaves_ends_its_own_runs_only() -> None:
    models = hanging_models()
    async with open_engine(models) as engine, engine.connect() as stays:
        await stays.open()
        handle = await stays.call("generate", prompt="wait", wait_seconds=0)
        async with engine.connect() as leaves:
            await leaves.open()
            await leaves.call("generate", prompt="wait", wait_seconds=0)
            while models.model.num_open < 2:
                await anyio.lowlevel.checkpoint()
        assert models.model.num_open == 1
        assert engine.idle_s == 7
        run_id = handle["structuredContent"]["run_id"]
        result = await stays.call("run_result", run_id=run_id, wait_seconds=0)
    assert result["structuredContent"]["status"] == "running"
    assert models.model.num_open == 0


async def test_load_goes_on_when_the_host_that_asked_first_has_left() -> None:
    models = hanging_models()
    models.loaded = anyio.Event()
    async with open_engine(models) as engine:
        async with engine.connect() as first:
            await first.open()
            await first.call("generate", prompt="a", wait_seconds=0)
        async with engine.connect() as second:
            await second.open()
            models.loaded.set()
            done = await second.call("generate", prompt="b")
    assert done["structuredContent"]["status"] == "done"


async def test_what_a_load_does_is_told_to_every_host_that_waits() -> None:
    models = hanging_models()
    models.loaded = anyio.Event()
    call = {"name": "generate", "arguments": {"prompt": "a"}, "_meta": {"progressToken": "t"}}
    request = {"jsonrpc": "2.0", "id": "c", "method": "tools/call", "params": call}
    told = []
    async with (
        open_engine(models) as engine,
        engine.connect() as first,
        engine.connect() as second,
    ):
        for host in (first, second):
            await host.open()
            await host.send(json.dumps(request).encode())
        for host in (first, second):
            while (message := await host.next())["params"]["message"] != "loading scripted":
                pass
            told.append(message["params"]["progressToken"])
        models.loaded.set()
        for host in (first, second):
            while "id" not in (message := await host.next()):
                pass
            told.append(message["result"]["structuredContent"]["status"])
    assert told == ["t", "t", "done", "done"]


async def test_each_host_has_its_own_tool_servers() -> None:
    opened: list[str] = []

    def make_agent(hello: Hello) -> AgentSetup | None:
        name = hello.environ["NAME"]

        @asynccontextmanager
        async def open_toolset(*, sampler: Sampler) -> AsyncIterator[Toolset]:
            opened.append(f"{name} opened")
            try:
                yield RecordingToolset([f"{name}__tool"])
            finally:
                opened.append(f"{name} closed")

        return AgentSetup([name], open_toolset, Policy())

    models = scripted_models(play(ScriptedTurn("done")))
    async with open_engine(models, make_agent) as engine:
        async with (
            engine.connect(greeting(environ={"NAME": "a"})) as first,
            engine.connect(greeting(environ={"NAME": "b"})) as second,
        ):
            tools = []
            for host in (first, second):
                await host.open()
                listed = (await host.ask("tools/list", {}))["tools"]
                agent_run = next(tool for tool in listed if tool["name"] == "agent_run")
                tools.append(agent_run["inputSchema"]["properties"]["servers"]["items"]["enum"])
                await host.call("agent_run", task="x")
        asked = [turn.tools for turn in models.model.asked]
    assert tools == [["a"], ["b"]]
    assert asked == [("a__tool",), ("b__tool",)]
    assert sorted(opened) == ["a closed", "a opened", "b closed", "b opened"]


async def test_hosts_take_turns_when_places_are_few() -> None:
    models = hanging_models()
    limits = AdmissionLimits(max_running=2, max_running_each=1)
    async with (
        open_engine(models, limits=limits) as engine,
        engine.connect() as greedy,
        engine.connect() as modest,
    ):
        for host in (greedy, modest):
            await host.open()
        for _ in range(3):
            await greedy.call("generate", prompt="wait", wait_seconds=0)
        done = await modest.call("generate", prompt="Hello")
    assert done["structuredContent"]["status"] == "done"


@pytest.mark.usefixtures("host_logs")
async def test_what_a_session_logs_reaches_its_own_host_only() -> None:
    def make_agent(hello: Hello) -> AgentSetup | None:
        name = hello.environ["NAME"]

        @asynccontextmanager
        async def open_toolset(*, sampler: Sampler) -> AsyncIterator[Toolset]:
            logging.getLogger("tools.of").warning("servers of %s", name)
            logging.getLogger("tools.of").debug("a detail")
            yield RecordingToolset([])

        return AgentSetup([name], open_toolset, Policy())

    models = scripted_models(play(ScriptedTurn("done")))
    async with (
        open_engine(models, make_agent) as engine,
        engine.connect(greeting(environ={"NAME": "a"})) as first,
        engine.connect(greeting(environ={"NAME": "b"})) as second,
    ):
        for host in (first, second):
            await host.open()
            await host.call("agent_run", task="x")
            while not any(kind == "log" for kind, _ in host.private):
                await host.ask("ping", {})
    for host, name in ((first, "a"), (second, "b")):
        records = [value for kind, value in host.private if kind == "log"]
        assert records[0] == ["tools.of", logging.WARNING, f"servers of {name}"]
        others = [text for _, _, text in records if "servers of" in text]
        assert others == [f"servers of {name}"]
        assert all(level >= logging.INFO for _, level, _ in records)


REFUSED = [
    (greeting(digest="of others"), "Zonda was changed since this host started it; restart"),
    (b"GET / HTTP/1.1", "the first line is no greeting of a Zonda relay"),
    (greeting(environ={"WRONG": "1"}), "no file of tool servers"),
]


@pytest.mark.parametrize(("hello", "text"), REFUSED)
async def test_relay_that_cannot_be_served_is_told_why(hello: Hello | bytes, text: str) -> None:
    def make_agent(hello: Hello) -> AgentSetup | None:
        if "WRONG" in hello.environ:
            raise ConfigurationError("no file of tool servers")
        return None

    models = scripted_models(play(ScriptedTurn("done")))
    async with open_engine(models, make_agent) as engine:
        async with engine.connect(hello) as refused:
            assert await refused.next() is None
        async with engine.connect() as host:
            await host.open()
    [(kind, value)] = refused.private
    assert kind == "refused"
    assert value.startswith(text)


async def test_line_that_is_no_message_is_answered_and_the_session_goes_on() -> None:
    models = scripted_models(play(ScriptedTurn("done")))
    async with open_engine(models) as engine, engine.connect() as host:
        await host.open()
        await host.send(b'{"jsonrpc":"2.0","id":9,"method":5}')
        answer = await host.next()
        pong = await host.ask("ping", {})
    error = {"code": -32600, "message": "the line is not a JSON-RPC 2.0 message"}
    assert answer == {"jsonrpc": "2.0", "id": 9, "error": error}
    assert pong == {}


async def test_peer_that_sends_a_line_without_end_is_dropped_alone() -> None:
    models = scripted_models(play(ScriptedTurn("done")))
    async with open_engine(models) as engine, engine.connect() as host:
        await host.open()
        async with engine.connect() as hostile:
            await hostile.open()
            with pytest.raises(anyio.BrokenResourceError):
                await hostile.send(b"x" * 50 * 1024 * 1024)
        pong = await host.ask("ping", {})
    assert pong == {}
