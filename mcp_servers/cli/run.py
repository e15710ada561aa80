"""`zonda run`: one prompt, one answer; with tool servers, an agent's answer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mcp_servers.cli.options import ConfigFile, PolicyFile
from mcp_servers.cli.output import Choose, Grammar, Regex, Schema
from runtime.config import Config, load_config
from runtime.telemetry import configure_logging

if TYPE_CHECKING:
    from mcp_servers.cli.output import Form
    from runtime.chat.messages import Message
    from runtime.request import SamplingParams


def run(  # noqa: PLR0913  one parameter an option
    prompt: Annotated[str, typer.Argument(help='What to ask; "-" reads standard input.')],
    *,
    model: Annotated[
        str | None, typer.Option(help="Name or path of the model; see `zonda models`.")
    ] = None,
    mcp_config: Annotated[
        Path | None, typer.Option(help="File of MCP servers (`mcpServers`) to use tools of.")
    ] = None,
    policy: PolicyFile = None,
    config_file: ConfigFile = None,
    schema: Schema = None,
    regex: Regex = None,
    grammar: Grammar = None,
    choose: Choose = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens per turn.")] = 512,
    temperature: Annotated[
        float, typer.Option(min=0, max=2, help="0 takes the likeliest token.")
    ] = 0.0,
    seed: Annotated[int | None, typer.Option(help="Makes drawn answers repeatable.")] = None,
) -> None:
    """Answer one prompt: the answer goes to standard output, all else to standard error."""
    config = load_config(config_file=config_file, model=model, policy_file=policy)
    configure_logging()
    import anyio

    from mcp_servers.cli.console import ensure_model, open_console
    from mcp_servers.cli.output import read_form
    from runtime.chat.messages import Message
    from runtime.request import SamplingParams

    messages = [Message("user", sys.stdin.read() if prompt == "-" else prompt)]
    if system is not None:
        messages.insert(0, Message("system", system))
    form = read_form(schema, regex, grammar, tuple(choose or ()))
    if form is not None:
        messages = form.tell(messages)
    ensure_model(config.model, config.cache_dir, open_console(stderr=True))
    sampling = SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=seed)
    anyio.run(_run, config, mcp_config, messages, sampling, form)


async def _run(
    config: Config,
    mcp_config: Path | None,
    messages: list[Message],
    sampling: SamplingParams,
    form: Form | None,
) -> None:
    """Without tools the answer is printed as it comes, with tools at the end.

    What the prompt mentions of tool servers is read first. An answer without the form that was
    asked for is a failure.
    """
    from mcp_servers.cli.asking import terminal_asker
    from mcp_servers.cli.console import (
        AgentPrinter,
        conclude,
        open_console,
        plain,
        terminal_approver,
    )
    from mcp_servers.cli.session import open_session, watch, with_mentions
    from mcp_servers.cli.tool_servers import find_servers, open_pins, open_store, open_tokens
    from runtime.agent.loop import Agent

    out, err = open_console(), open_console(stderr=True)
    servers, pins, store = find_servers(mcp_config), open_pins(config), open_store(config)
    opened = open_session(config, servers, pins, store=store, tokens=open_tokens(config))
    async with opened as session:
        specs = await session.toolset.list_tools()
        printer = AgentPrinter(err if specs else out, specs, stream_text=not specs)
        approver, ask = terminal_approver(err), terminal_asker(err)
        messages = await with_mentions(session, messages, ask)
        agent = Agent(
            session.model,
            session.toolset,
            session.policy,
            approver=approver,
            ask=ask,
            audit=session.audit,
        )
        output = None if form is None else form.output
        end = await watch(agent.run(messages, output=output, sampling=sampling), printer.show)
        if specs and end.error is None:
            out.print(plain(end.answer), soft_wrap=True)
        conclude(err, end, printer.turn_seconds)
        if form is not None:
            form.check(end)
