"""`zonda chat`: a conversation in the terminal, with tools where servers are configured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mcp_servers.cli.options import ConfigFile, PolicyFile
from runtime.config import load_config
from runtime.telemetry import configure_logging

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal
    from rich.console import Console

    from mcp_servers.cli.session import Session
    from runtime.chat.messages import Message
    from runtime.request import SamplingParams

PROMPT = "> "


def chat(
    *,
    model: Annotated[
        str | None, typer.Option(help="Name or path of the model; see `zonda models`.")
    ] = None,
    mcp_config: Annotated[
        Path | None, typer.Option(help="File of MCP servers (`mcpServers`) to use tools of.")
    ] = None,
    policy: PolicyFile = None,
    config_file: ConfigFile = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens per turn.")] = 512,
    temperature: Annotated[
        float, typer.Option(min=0, max=2, help="0 takes the likeliest token.")
    ] = 0.0,
) -> None:
    """Talk with a model; Ctrl-C stops an answer, /new starts over, /exit leaves.

    @server:uri adds what a tool server has there, /server:prompt name=value begins with its prompt.
    """
    config = load_config(config_file=config_file, model=model, policy_file=policy)
    configure_logging()
    from anyio.from_thread import start_blocking_portal

    from mcp_servers.cli.console import ensure_model, open_console
    from mcp_servers.cli.session import open_session
    from mcp_servers.cli.tool_servers import find_servers, open_pins, open_store, open_tokens
    from runtime.request import SamplingParams

    console = open_console()
    ensure_model(config.model, config.cache_dir, console)
    sampling = SamplingParams(max_tokens=max_tokens, temperature=temperature)
    servers, pins, store = find_servers(mcp_config), open_pins(config), open_store(config)
    opened = open_session(config, servers, pins, store=store, tokens=open_tokens(config))
    # The loop runs in a thread of its own: the main thread reads lines, and Ctrl-C reaches
    # whichever of the two it belongs to.
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(opened) as session,
    ):
        Conversation(session, console, sampling, system).talk(portal, read_line)


class Conversation:
    """The messages so far; a turn that fails or is interrupted leaves them as they were."""

    def __init__(
        self, session: Session, console: Console, sampling: SamplingParams, system: str | None
    ) -> None:
        from runtime.chat.messages import Message

        self._session = session
        self._console = console
        self._sampling = sampling
        self._first: tuple[Message, ...] = () if system is None else (Message("system", system),)
        self._messages: tuple[Message, ...] = self._first

    def talk(self, portal: BlockingPortal, read: Callable[[], str | None]) -> None:
        """Let the model answer each line until `read` returns None."""
        commands = "/tools, /new, /exit"
        if self._session.states():
            commands += ", /server:prompt, @server:uri"
        self._console.print(f"{self._session.model_name}: {commands}; Ctrl-C stops.")
        while (line := read()) not in {None, "/exit", "/quit"}:
            if line == "/new":
                self._messages = self._first
            elif line == "/tools":
                portal.call(self._show_tools)
            elif line:
                self._answer(portal, line)

    def _answer(self, portal: BlockingPortal, line: str) -> None:
        answer = portal.start_task_soon(self._turn, line)
        try:
            answer.result()
        except KeyboardInterrupt:
            answer.cancel()
            self._console.print("\n[stopped]", style="dim")

    async def _show_tools(self) -> None:
        from mcp_servers.cli.console import tools_table

        specs = await self._session.toolset.list_tools()
        self._console.print(tools_table(specs) if specs else "no tools; see `zonda mcp add`")

    async def _turn(self, line: str) -> None:
        from mcp_servers.cli.asking import terminal_asker
        from mcp_servers.cli.console import AgentPrinter, conclude, terminal_approver
        from mcp_servers.cli.session import watch, with_mentions
        from runtime.agent.loop import Agent
        from runtime.chat.messages import Message
        from tools.errors import ZondaError

        session, console = self._session, self._console
        printer = AgentPrinter(console, await session.toolset.list_tools())
        approver, ask = terminal_approver(console), terminal_asker(console)
        agent = Agent(
            session.model,
            session.toolset,
            session.policy,
            approver=approver,
            ask=ask,
            audit=session.audit,
        )
        try:
            messages = (
                *self._messages,
                *await with_mentions(session, [Message("user", line)], ask),
            )
            end = await watch(
                agent.run(messages, sampling=self._sampling, conversation="chat"), printer.show
            )
            conclude(console, end, printer.turn_seconds)
        except ZondaError as exc:
            console.print(str(exc), style="red")
        else:
            self._messages = end.messages


def read_line() -> str | None:
    """Read a line; None at the end of the input or on Ctrl-C."""
    import readline  # noqa: F401  gives `input` its line editing and history

    try:
        return input(PROMPT).strip()
    except (EOFError, KeyboardInterrupt):
        return None
