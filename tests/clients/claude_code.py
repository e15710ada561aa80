"""Claude Code itself against our Anthropic API, with a scripted model that uses its tools.

`python -m tests.clients.claude_code CLAUDE`, whose argument is its program. It writes and reads
in folders that are gone afterwards, and calls nobody but us.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio

from runtime.chat.messages import ChatEvent, ToolCall, ToolCallDelta
from tests.helpers.model_service import ScriptedModels, ServedModel
from tests.helpers.scripted_chat_model import AskedTurn, ScriptedTurn
from tests.helpers.web_service import on_port, open_app

SAID = "hello from the model"


class Worker(ServedModel):
    """Writes a file, shows it while it looks for a tool, reads what is not there, and is done."""

    folder: Path

    def work(self, asked: AskedTurn) -> ScriptedTurn:
        self.turn = ScriptedTurn(f"It says: {SAID}.")
        results = [message for message in asked.messages if message.role == "tool"]
        file = str(self.folder / "hello.txt")
        if not results:
            call = ToolCall("c1", "Write", {"file_path": file, "content": SAID})
            self.turn = ScriptedTurn("I write it.", (call,), reasoning="A file is wanted.")
        elif len(results) == 1:
            show = ToolCall("c2", "Bash", {"command": f"cat {file}", "description": "Show it"})
            find = ToolCall("c3", "ToolSearch", {"query": "select:WebFetch"})
            self.turn = ScriptedTurn(calls=(show, find))
        elif len(results) == 3:
            self.turn = ScriptedTurn(calls=(ToolCall("c4", "Read", {"file_path": "/nothing"}),))
        return self.turn

    async def stream(self, *args: Any, **options: Any) -> AsyncGenerator[ChatEvent]:
        """As the scripted model, and the arguments of calls in two pieces."""
        async for event in super().stream(*args, **options):
            yield event
            if isinstance(event, ToolCallDelta):
                text = json.dumps(self.turn.calls[event.index].arguments)
                yield ToolCallDelta(event.index, arguments=text[:7])
                yield ToolCallDelta(event.index, arguments=text[7:])


async def check(claude: Path, folder: Path) -> None:
    """Let Claude Code do a piece of work; see what it was told, and what the model was."""
    worker = Worker(lambda asked: worker.work(asked), context_length=65_536)
    worker.folder = folder
    async with open_app(ScriptedModels(worker)) as app, on_port(app) as url:
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "ANTHROPIC_BASE_URL": url.removesuffix("/mcp"),
            "ANTHROPIC_AUTH_TOKEN": "unused",
            "ANTHROPIC_MODEL": "scripted",
            "ANTHROPIC_DEFAULT_HAIKU_MODEL": "scripted",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        }
        command = [str(claude), "-p", "Write hello.", "--output-format", "json"]
        command += ["--allowedTools", "Write,Bash,Read"]
        run = await anyio.run_process(command, cwd=folder, env=environ, check=False, input=b"")
    told = run.stdout.decode() + run.stderr.decode()
    assert run.returncode == 0, told
    result = json.loads(run.stdout.decode().splitlines()[-1])
    assert (result["is_error"], result["num_turns"]) == (False, 5), told
    assert result["result"] == f"It says: {SAID}."
    assert (folder / "hello.txt").read_text("utf-8") == SAID
    last = worker.asked[-1]
    written, shown, found, missing = (one for one in last.messages if one.role == "tool")
    assert (written.name, shown.content, found.name) == ("Write", SAID, "ToolSearch")
    assert json.loads(found.content)["name"] == "WebFetch"
    assert missing.content.startswith("error: File does not exist")
    assert last.admitted == ("WebFetch",)
    systems = {asked.messages[0] for asked in worker.asked}
    assert len(systems) == 1
    assert "x-anthropic-billing-header" not in systems.pop().content
    assert last.messages[2].reasoning == "A file is wanted."


def main(claude: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        anyio.run(check, claude, Path(folder))
    sys.stdout.write("ok: Claude Code works with the tools that it has\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
