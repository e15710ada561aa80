"""What commands print: agent events, tools, usage, download progress, questions.

Text of models, tools and servers is untrusted: it is printed as text, never as markup, and
without the control characters that drive a terminal.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import assert_never

import anyio
import anyio.from_thread
import anyio.lowlevel
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from runtime.agent.approval import PendingCall
from runtime.agent.events import (
    AgentEnd,
    AgentEvent,
    StepFinished,
    StepStarted,
    StoppedBy,
    ToolCallFinished,
    ToolCallStarted,
)
from runtime.agent.limits import clip
from runtime.chat.messages import TextDelta
from runtime.request import Usage
from runtime.sources import pull_model, resolve_model
from tools.spec import JsonObject, ToolSpec
from tools.validation import first_problem

MAX_SHOWN_CHARS = 400
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def open_console(*, stderr: bool = False) -> Console:
    """Return a console that prints what it is given: nothing is read as markup or coloured."""
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def plain(text: str) -> str:
    """Make what a model or a tool wrote harmless to a terminal."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


class AgentPrinter:
    """Prints an agent's events as they come, and adds up what its turns cost.

    With `stream_text` the model's text is printed as it is decoded; otherwise only its
    calls and their results are.
    """

    def __init__(
        self, console: Console, specs: Sequence[ToolSpec], *, stream_text: bool = True
    ) -> None:
        self.turn_seconds = 0.0
        self._console = console
        self._specs = {spec.name: spec for spec in specs}
        self._stream_text = stream_text
        self._is_mid_line = False

    def show(self, event: AgentEvent) -> None:
        match event:
            case TextDelta():
                if self._stream_text and event.text:
                    self._console.print(plain(event.text), end="", soft_wrap=True)
                    self._is_mid_line = not event.text.endswith("\n")
            case StepStarted():
                pass
            case StepFinished():
                self.turn_seconds += event.seconds
                self._end_line()
            case ToolCallStarted():
                self._end_line()
                self._console.print(self._call_line(event))
            case ToolCallFinished():
                self._console.print(_result_line(event))
            case AgentEnd():
                self._end_line()
            case _:
                assert_never(event)

    def _end_line(self) -> None:
        if self._is_mid_line:
            self._console.print()
            self._is_mid_line = False

    def _call_line(self, event: ToolCallStarted) -> Text:
        call = event.call
        line = Text.assemble(
            ("  → ", "bold cyan"), (plain(call.name), "bold"), " ", _shown(_compact(call.arguments))
        )
        if (spec := self._specs.get(call.name)) is None:
            return line
        problem = first_problem(spec.input_schema, call.arguments)
        if problem is None:
            return line.append("  valid", "green")
        return line.append(f"  invalid: {plain(problem)}", "red")


def _result_line(event: ToolCallFinished) -> Text:
    mark, style = ("  ✗ ", "bold red") if event.result.is_error else ("  ← ", "bold cyan")
    line = Text.assemble((mark, style), _shown(event.result.text))
    if event.approved_by is not None:
        line.append(f"  {event.seconds * 1000:.0f} ms", "dim")
    return line


def _shown(text: str) -> str:
    return plain(clip(text, MAX_SHOWN_CHARS)).replace("\n", "\n    ")


def _compact(value: JsonObject) -> str:
    return json.dumps(value, ensure_ascii=False)


def tools_table(specs: Sequence[ToolSpec]) -> Table:
    """List tools with their parameters and the first sentence of their descriptions."""
    table = Table.grid(padding=(0, 2))
    for spec in specs:
        parameters = ", ".join(spec.input_schema.get("properties", {}))
        sentence = spec.description.strip().partition("\n")[0].partition(". ")[0]
        signature = Text.assemble("  ", (plain(spec.name), "bold"), f"({plain(parameters)})")
        table.add_row(signature, Text(plain(sentence)[:100], "dim"))
    return table


def usage_text(usage: Usage, seconds: float) -> str:
    """Say what a run cost; `seconds` are those of its turns, so the rate includes prefill."""
    num_tokens = usage.completion_tokens
    rate = num_tokens / max(seconds, 1e-6)
    text = f"{num_tokens} tokens in {seconds:.1f} s ({rate:.0f} tokens/s, prompt included)"
    if usage.forced_tokens:
        text += f", {usage.forced_tokens} of them forced by the grammar"
    return text


_STOP_NOTES: Mapping[StoppedBy, str] = {
    "steps": "the run used all its steps",
    "calls": "the run used all its calls, or repeated one too often",
    "time": "the run's time was over",
    "tokens": "cut off: the run's tokens were used up (see --max-tokens)",
    "denied": "the calls were refused",
    "error": "too many calls in a row failed",
    "cancelled": "the turn was cancelled",
}


def conclude(console: Console, end: AgentEnd, seconds: float) -> None:
    """Print what a run cost and what cut it short.

    Raises:
        ZondaError: the model failed.
    """
    if end.error is not None:
        raise end.error
    text = usage_text(end.usage, seconds)
    if (note := _STOP_NOTES.get(end.stopped_by)) is not None:
        text += f"; {note}"
    console.print(f"[{text}]", style="dim", soft_wrap=True)


def ensure_model(name: str, cache_dir: Path, console: Console) -> Path:
    """Return the model's file; fetch it with a progress bar when it is not there.

    Raises:
        UnknownModelError: no model has that name, and no file is there.
        DownloadError: it could not be fetched.
    """
    if (path := resolve_model(name, cache_dir)) is not None:
        return path
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), console=console) as progress:
        task = progress.add_task(f"fetching {name}", total=None)

        def report(done_bytes: int, total_bytes: int) -> None:
            progress.update(task, completed=done_bytes, total=total_bytes or None)

        return pull_model(name, cache_dir, report)


class TerminalApprover:
    """Asks the person at the terminal which tools may be called, one after the other."""

    def __init__(self, console: Console) -> None:
        self._console = console

    async def __call__(self, calls: Sequence[PendingCall]) -> list[bool]:
        return [await self._ask(call) for call in calls]

    async def _ask(self, call: PendingCall) -> bool:
        line = Text.assemble(
            ("  ? ", "bold yellow"), (plain(call.tool.name), "bold"), f" {call.reason}. "
        )
        line.append("Call it with ").append(plain(_compact(call.arguments)))
        line.append(" [y/N] ", "bold")
        self._console.print(line, end="")
        return (await read_line()).strip().lower() in {"y", "yes"}


def terminal_approver(console: Console) -> TerminalApprover | None:
    """Return an approver, or None when nobody sits at a terminal."""
    return TerminalApprover(console) if sys.stdin.isatty() else None


async def read_line() -> str:
    """Read a line of standard input; an interrupt leaves the reading thread behind.

    Worker threads would make the process wait for it at exit; this one is a daemon.
    """
    lines: list[str] = []
    is_read = anyio.Event()
    token = anyio.lowlevel.current_token()

    def read() -> None:
        lines.append(sys.stdin.readline())
        anyio.from_thread.run_sync(is_read.set, token=token)

    threading.Thread(target=read, daemon=True).start()
    await is_read.wait()
    return lines[0]
