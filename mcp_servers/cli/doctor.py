"""`zonda doctor`: looks at what Zonda needs, starts each tool server once, says what to do."""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mcp_servers.cli.hosts import ENTRY, HOSTS, Host, host_file
from mcp_servers.cli.options import ConfigFile, PolicyFile
from runtime.config import Config, load_settings, process_environment
from runtime.errors import BackendError
from runtime.telemetry import configure_logging
from tools.errors import ConfigurationError, ZondaError

if TYPE_CHECKING:
    from runtime.agent.budget import ToolReport
    from runtime.chat.messages import Message
    from runtime.chat.support import ToolSupport
    from runtime.weights import Checkpoint
    from tools.mcp_client.config import ServerConfig
    from tools.mcp_client.pins import Pins
    from tools.mcp_client.server import ServerState
    from tools.mcp_client.token_store import TokenStore
    from tools.spec import ToolSpec

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, what was found, and what to do about it; no advice where it is well."""

    name: str
    status: Literal["ok", "warning", "failed"]
    found: str
    advice: str = ""


def doctor(
    *,
    mcp_config: Annotated[
        Path | None, typer.Option(help="File of more MCP servers; each is started once.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Name or path of the model to look at.")] = None,
    policy: PolicyFile = None,
    config_file: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check configuration, machine, model, hosts and tool servers; status 1 if one failed."""
    configure_logging(level=logging.CRITICAL, stderr_level=logging.CRITICAL)
    checks: list[Check] = []
    for check in _checks(mcp_config, config_file, {"model": model, "policy_file": policy}):
        checks.append(check)
        if not as_json:
            typer.echo(_line(check))
    is_well = all(check.status != "failed" for check in checks)
    if as_json:
        typer.echo(json.dumps({"ok": is_well, "checks": [asdict(check) for check in checks]}))
    if not is_well:
        raise typer.Exit(1)


def _line(check: Check) -> str:
    advice = f"\n{'':9}-> {check.advice}" if check.advice else ""
    return f"{check.status:<8} {check.name}: {check.found}{advice}"


def _checks(
    mcp_config: Path | None, config_file: Path | None, flags: Mapping[str, Any]
) -> Iterator[Check]:
    yield _machine()
    config: Config | None = None
    try:
        settings = load_settings(config_file=config_file, **flags)
    except ConfigurationError as exc:
        yield Check("configuration", "failed", str(exc), "mend the value that the message names")
    else:
        config = settings.config
        source = str(settings.path) if settings.is_read else f"no file at {settings.path}"
        found = f"model {config.model}, device {config.device}; {source}"
        yield Check("configuration", "ok", found)
        yield from (_folder("cache", config.cache_dir), _folder("state", config.state_dir))
        yield from _model(config)
    for host in HOSTS.values():
        yield from _host(host)
    yield from _servers(mcp_config, config)


def _machine() -> Check:
    from runtime.kernels.cpu.native import supported_variants

    where = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    found = f"{where}, {os.cpu_count()} cores"
    try:
        variants = supported_variants()
    except BackendError as exc:
        return Check("machine", "failed", f"{found}; {exc}", "install Zonda again")
    found += f", kernels for {', '.join(variants)}"
    if variants == ["scalar"]:
        return Check("machine", "warning", found, "without vector instructions models run slowly")
    return Check("machine", "ok", found)


def _folder(name: str, path: Path) -> Check:
    """Tell whether files can be made in a folder, which is made on first use."""
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        advice = f"make it writable or set ZONDA_{name.upper()}_DIR"
        return Check(f"{name} folder", "failed", f"{path} cannot be written", advice)
    free = shutil.disk_usage(there).free / _GIB
    return Check(f"{name} folder", "ok", f"{path}, {free:.1f} GiB free")


def _model(config: Config) -> Iterator[Check]:
    from runtime.sources import resolve_model
    from runtime.weights import open_checkpoint

    try:
        path = resolve_model(config.model, config.cache_dir)
        if path is None:
            advice = f"zonda pull {config.model}"
            yield Check("model", "warning", f"{config.model} is not here yet", advice)
            return
        checkpoint = open_checkpoint(path)
    except ZondaError as exc:
        yield Check("model", "failed", str(exc), "zonda models lists what can be had")
        return
    yield Check("model", "ok", f"{config.model} in {path}")
    yield _memory(checkpoint, config)


def _memory(checkpoint: Checkpoint, config: Config) -> Check:
    """Ask the guard that every load asks."""
    from runtime.engine.loading import fit_model
    from runtime.memory import free_memory

    free = free_memory()
    try:
        plan = fit_model(checkpoint, config, on_gpu=False, free_bytes=free)
    except ZondaError as exc:
        return Check("memory", "failed", str(exc), "end other programs or choose a smaller model")
    room = "memory of unknown size" if free is None else f"{free / _GIB:.1f} GiB free"
    found = f"{room}: a context of {plan.context_length} tokens, {plan.kv_bytes >> 20} MiB of KV"
    return Check("memory", "ok", found)


def _host(host: Host) -> Iterator[Check]:
    """Look whether a host that is installed starts us, and whether it can."""
    from tools.mcp_client.jsonc import parse_jsonc

    path = host_file(host, sys.platform, process_environment(), Path.home())
    if not path.is_file():
        return
    name = next(name for name, known in HOSTS.items() if known is host)
    try:
        document = parse_jsonc(path.read_bytes().decode("utf-8", errors="replace"))
    except (ConfigurationError, OSError) as exc:
        yield Check(host.title, "warning", f"{path}, {exc}", "mend the file")
        return
    command = _command(document, host)
    if command is None:
        yield Check(host.title, "ok", f"does not start zonda; zonda connect {name} would")
    elif shutil.which(command) is None:
        found = f"{path} starts {command}, which is not there"
        yield Check(host.title, "warning", found, f"zonda connect {name}")
    else:
        yield Check(host.title, "ok", f"starts {command}")


def _command(document: Any, host: Host) -> str | None:
    for name in (host.section, ENTRY, "command"):
        document = document.get(name) if isinstance(document, dict) else None
    return document if isinstance(document, str) else None


def _servers(mcp_config: Path | None, config: Config | None) -> Iterator[Check]:
    import anyio

    from mcp_servers.cli.tool_servers import find_servers, open_pins, open_tokens

    try:
        servers = find_servers(mcp_config)
    except ConfigurationError as exc:
        yield Check("tool servers", "failed", str(exc), "mend the file or name another")
        return
    if config is not None and config.policy_file is not None:
        yield _policy(config.policy_file, servers)
    pins = None if config is None else open_pins(config)
    tokens = None if config is None else open_tokens(config)
    states, tools = anyio.run(_try_servers, servers, pins, tokens)
    measured = None if config is None else _measure(config, tools)
    support = {} if measured is None else measured.support
    for name, state in states.items():
        yield from _server(name, servers[name], state)
        of_server = [tool.name for tool in tools if tool.server == name]
        yield from _tools(name, {tool: support[tool] for tool in of_server if tool in support})
    if measured is not None:
        yield from _tokens(measured.report, measured.context_length)


def _policy(path: Path, servers: Mapping[str, ServerConfig]) -> Check:
    from runtime.agent.rules import load_policy

    try:
        policy = load_policy(path)
    except ConfigurationError as exc:
        return Check("policy", "failed", str(exc), "mend the line that the message names")
    unknown = policy.unknown_servers(servers)
    found = f"{path}: rules of {', '.join(policy.servers) or 'nothing'}"
    if unknown:
        advice = f"no configured server is named {' or '.join(unknown)}; its rules do nothing"
        return Check("policy", "warning", found, advice)
    return Check("policy", "ok", found)


def _server(name: str, config: ServerConfig, state: ServerState) -> Iterator[Check]:
    if state.status == "ready":
        found = f"{state.num_tools} tools, protocol {state.protocol_version}"
        yield Check(f"server {name}", "ok", found)
        if held := ", ".join(state.held_tools):
            found = f"disabled, for their definition has changed since it was approved: {held}"
            yield Check(f"definitions of {name}", "warning", found, f"zonda mcp approve {name}")
        return
    reason = state.reason or f"is {state.status}"
    if state.status == "disabled":
        yield Check(f"server {name}", "ok", reason)
        return
    if reason.startswith("needs "):
        advice = f"zonda mcp login {name}"
    elif config.problem is not None or reason.startswith("cannot be started"):
        advice = "mend its entry"
    elif config.url:
        advice = "check that the server runs there and what it logs"
    else:
        advice = f"run {config.command} with its arguments in a terminal and see what it prints"
    yield Check(f"server {name}", "failed", reason, advice)


def _tools(server: str, support: Mapping[str, ToolSupport]) -> Iterator[Check]:
    """Tell how strictly a server's tools are decoded; those below strict one by one."""
    if not support:
        return
    below = {name: tool for name, tool in support.items() if tool.level != "strict"}
    found = f"{len(support) - len(below)} of {len(support)} are decoded strictly"
    yield Check(f"tools of {server}", "ok", found)
    for name, tool in below.items():
        if tool.level == "refused":
            advice = "the model is not offered it: simplify its input schema"
            yield Check(f"tool {name}", "warning", f"refused: {tool.problem}", advice)
        else:
            dropped = ", ".join(tool.dropped) or "nothing left out"
            yield Check(f"tool {name}", "ok", f"{tool.level}: {dropped}")


def _tokens(report: ToolReport, context_length: int) -> Iterator[Check]:
    """Tell what the definitions of tools take of the context."""
    context = f"of a context of {context_length}"
    for server in report.servers:
        found = f"{server.num_tokens} tokens, {server.share:.1%} {context}"
        yield Check(f"definitions' size of {server.server}", "ok", found)
    found = f"{report.num_tokens} tokens, {report.share:.1%} {context}"
    how = "the model searches them" if report.is_searched else "all are listed"
    yield Check("definitions' size", "ok", f"{found}: {how}")


@dataclass(frozen=True, slots=True)
class _Measured:
    """What a model makes of the tools."""

    support: Mapping[str, ToolSupport]
    report: ToolReport
    context_length: int


def _measure(config: Config, tools: Sequence[ToolSpec]) -> _Measured | None:
    """Measure with the model's tokens and none of its weights; None when it is not here."""
    import anyio

    from runtime.agent.budget import report_tools
    from runtime.chat.grammars import Grammars
    from runtime.chat.prompt import PromptBuilder
    from runtime.engine.loading import fit_model
    from runtime.hub import open_files
    from runtime.memory import free_memory
    from runtime.sources import resolve_model

    try:
        path = resolve_model(config.model, config.cache_dir)
        if path is None or not tools:
            return None
        checkpoint, tokenizer = open_files(path, config.cache_dir)
        plan = fit_model(checkpoint, config, on_gpu=False, free_bytes=free_memory())
        prompts = PromptBuilder(tokenizer)
        support = Grammars(prompts.bound, tokenizer, prompts.end_of_turn_id).support_of(tools)

        async def count(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> int:
            return len(prompts.build(messages, tools).token_ids)

        usable = [tool for tool in tools if support[tool.name].level != "refused"]
        report = anyio.run(report_tools, usable, count, plan.context_length)
        return _Measured(support, report, plan.context_length)
    except ZondaError:  # the check of the model says what is wrong with it
        return None


async def _try_servers(
    servers: Mapping[str, ServerConfig], pins: Pins | None, tokens: TokenStore | None
) -> tuple[Mapping[str, ServerState], Sequence[ToolSpec]]:
    """Start every server at once; return where each stands, and the tools of all.

    Every server gets its time.
    """
    from tools.mcp_client.toolset import open_toolset

    async with open_toolset(servers, pins=pins, tokens=tokens) as toolset:
        states = {
            name: await toolset.wait_for(name, "ready", "failed", "disabled") for name in servers
        }
        return states, await toolset.list_tools()
