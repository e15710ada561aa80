"""`zonda demo`: a local model calls a tool of a real MCP server, and what happens is shown.

The path is the one `zonda mcp --mcp-config FILE` takes: a file of tool servers, each its own
process that speaks MCP over stdio, and the agent loop. Nothing here is canned.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from runtime.config import Config, load_config, process_environment
from runtime.telemetry import configure_logging
from tools.spec import JsonObject, ToolSpec

if TYPE_CHECKING:
    from rich.console import Console

    from mcp_servers.cli.session import Session
    from runtime.agent.events import AgentEnd
    from tools.mcp_client.config import ServerConfig

TASK = "Multiply 1234 by 5678 with the calculator, then tell me the product in a sentence."
OFFERED = ("workbench__calculate", "workbench__get_time")
MAX_STEPS = 3
MAX_TURN_TOKENS = 96

HONESTY = (
    "The default model is tiny (135 million parameters): the grammar makes its calls valid, "
    "not wise, and its prose may be wrong."
)
NEXT = (
    ("zonda chat", "talk with the model"),
    ('zonda run "…"', "one prompt, one answer; --mcp-config FILE gives it tools"),
    ("zonda mcp", "serve it to an MCP host: typed answers, valid by construction"),
)


def demo(
    *,
    task: Annotated[str, typer.Option(help="What the model is asked to do.")] = TASK,
    model: Annotated[
        str | None, typer.Option(help="Name or path of the model; see `zonda models`.")
    ] = None,
) -> None:
    """Let a local model solve a small task with a tool of a real MCP server."""
    config = load_config(model=model)
    configure_logging()
    import anyio

    from mcp_servers.cli.console import ensure_model, open_console
    from tools.mcp_client.config import load_servers

    console = open_console()
    console.rule("Zonda: a local model calls a tool of an MCP server", style="cyan")
    path = ensure_model(config.model, config.cache_dir, console)
    with TemporaryDirectory(prefix="zonda-demo-") as folder:
        servers = {"workbench": workbench_entry(Path(folder))}
        mcp_config = Path(folder) / "mcp.json"
        mcp_config.write_text(json.dumps({"mcpServers": servers}), encoding="utf-8")
        loaded = load_servers(mcp_config, process_environment())
        anyio.run(_demo, console, config, loaded, path, task)


def workbench_entry(root: Path) -> JsonObject:
    """Return the entry of an `mcpServers` file that starts the bundled tool server."""
    arguments = ["-P", "-m", "mcp_servers", "workbench", "--root", str(root)]
    return {"command": sys.executable, "args": arguments}


def is_offered(tool: ToolSpec) -> bool:
    """Keep the prompt short: the tiny model reads two tools, not all of the workbench's."""
    return tool.name in OFFERED


async def _demo(
    console: Console,
    config: Config,
    servers: Mapping[str, ServerConfig],
    model_path: Path,
    task: str,
) -> None:
    from mcp_servers.cli.console import AgentPrinter
    from mcp_servers.cli.session import open_session, watch
    from runtime.agent.limits import Limits
    from runtime.agent.loop import Agent
    from runtime.chat.messages import Message, ToolChoice
    from runtime.request import SamplingParams
    from tools.toolset import FilteredToolset

    async with AsyncExitStack() as stack:
        began = time.perf_counter()
        with console.status("loading the model, starting the tool server …"):
            session = await stack.enter_async_context(open_session(config, servers))
            toolset = FilteredToolset(session.toolset, is_offered)
            specs = await toolset.list_tools()
        _show_start(console, session, model_path, specs, time.perf_counter() - began)
        console.print("\nTask", style="bold cyan")
        console.print(f"  {task}", soft_wrap=True)
        console.print("\nCalls", style="bold cyan", end="")
        console.print(" decoded under each tool's JSON Schema", style="dim")
        printer = AgentPrinter(console, specs, stream_text=False)
        agent = Agent(session.model, toolset, session.policy, Limits(max_steps=MAX_STEPS))
        run = agent.run(
            [Message("user", task)],
            tool_choice=ToolChoice("required", parallel=False),
            sampling=SamplingParams(max_tokens=MAX_TURN_TOKENS),
        )
        with console.status("the model is at work …"):
            end = await watch(run, printer.show)
        _show_end(console, end, printer.turn_seconds)


def _show_start(
    console: Console,
    session: Session,
    model_path: Path,
    specs: Sequence[ToolSpec],
    seconds: float,
) -> None:
    """Say which model and which server are at work, and which tools are offered.

    Raises:
        ToolServerError: the tool server did not start.
    """
    from mcp_servers.cli.console import tools_table
    from tools.errors import ToolServerError

    state = session.states()["workbench"]
    if not specs:
        raise ToolServerError(f"the tool server workbench {state.reason or 'offers no tools'}")
    size_mb = model_path.stat().st_size / 1e6
    console.print("\nModel ", style="bold cyan", end="")
    console.print(
        f"{session.model_name}, {size_mb:.0f} MB, on this machine, ready in {seconds:.1f} s"
    )
    console.print("Server", style="bold cyan", end="")
    era = f"MCP {state.protocol_version} over stdio"
    console.print(f" workbench, {era}, a process of its own (pid {state.pid})")
    console.print("Tools offered", style="bold cyan")
    console.print(tools_table(specs))


def _show_end(console: Console, end: AgentEnd, seconds: float) -> None:
    """Print the answer, what it cost, and what to try next."""
    from rich.padding import Padding

    from mcp_servers.cli.console import conclude, plain

    console.print("\nAnswer", style="bold cyan")
    console.print(Padding(plain(end.answer.strip()) or "(none)", (0, 2)))
    console.print()
    conclude(console, end, seconds)
    console.print(HONESTY, style="dim", soft_wrap=True)
    console.print("\nNext", style="bold cyan")
    for command, purpose in NEXT:
        console.print(f"  {command:<24}", style="bold", end="")
        console.print(purpose)
    console.print("  Claude Desktop: Settings, Developer, Edit Config, then add")
    console.print(f"  {json.dumps({'mcpServers': {'zonda': desktop_entry()}})}", soft_wrap=True)


def desktop_entry() -> JsonObject:
    """Return the entry that makes an MCP host start `zonda mcp` of this environment."""
    script = Path(sys.executable).with_name("zonda")
    if script.exists():
        return {"command": str(script), "args": ["mcp"]}
    return {"command": sys.executable, "args": ["-P", "-m", "mcp_servers", "mcp"]}
