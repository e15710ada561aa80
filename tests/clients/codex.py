"""Codex itself against our Responses API, with a scripted model that uses its tools.

`python -m tests.clients.codex CODEX`, whose argument is its program. It writes and reads in
folders that are gone afterwards, and calls nobody but us.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import anyio

from runtime.chat.messages import ToolCall
from tests.helpers.model_service import ScriptedModels, ServedModel
from tests.helpers.scripted_chat_model import AskedTurn, ScriptedTurn
from tests.helpers.web_service import on_port, open_app

SAID = "hello from the model"
CONFIG = """
model = "scripted"
model_provider = "zonda"

[model_providers.zonda]
name = "Zonda"
base_url = "{url}"
wire_api = "responses"
"""


def work(asked: AskedTurn) -> ScriptedTurn:
    """Write a file, show it while reading what is not there, and be done."""
    results = [message for message in asked.messages if message.role == "tool"]
    if not results:
        call = ToolCall("c1", "exec_command", {"cmd": f"echo '{SAID}' > hello.txt"})
        return ScriptedTurn("I write it.", (call,), reasoning="A file is wanted.")
    if len(results) == 1:
        show = ToolCall("c2", "exec_command", {"cmd": "cat hello.txt"})
        miss = ToolCall("c3", "exec_command", {"cmd": "cat /nothing"})
        return ScriptedTurn(calls=(show, miss))
    return ScriptedTurn(f"It says: {SAID}.")


async def check(codex: Path, folder: Path) -> None:
    """Let Codex do a piece of work; see what it was told, and what the model was."""
    model = ServedModel(work, context_length=65_536)
    home = folder / "codex"
    home.mkdir()
    async with open_app(ScriptedModels(model), within_s=100) as app, on_port(app) as url:
        config = CONFIG.format(url=url.removesuffix("mcp") + "v1")
        (home / "config.toml").write_text(config, encoding="utf-8")
        environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "CODEX_HOME": str(home)}
        command = [str(codex), "exec", "--json", "--skip-git-repo-check"]
        command += ["--sandbox", "danger-full-access", "Write hello."]
        run = await anyio.run_process(command, cwd=folder, env=environ, check=False, input=b"")
    told = run.stdout.decode() + run.stderr.decode()
    assert run.returncode == 0, told
    items = [one["item"] for one in map(json.loads, run.stdout.splitlines()) if "item" in one]
    texts = _ended(items, "agent_message")
    assert [one["text"] for one in texts] == ["I write it.", f"It says: {SAID}."], told
    statuses = [one["exit_code"] for one in _ended(items, "command_execution")]
    assert sorted(statuses) == [0, 0, 1], told
    assert (folder / "hello.txt").read_text("utf-8") == f"{SAID}\n"
    last = model.asked[-1]
    _, shown, missing = (one.content for one in last.messages if one.role == "tool")
    assert SAID in shown
    assert "No such file" in missing
    assert len({asked.messages[0] for asked in model.asked}) == 1
    (thought,) = {one.reasoning for one in last.messages if one.reasoning}
    assert thought == "A file is wanted."


def _ended(items: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [one for one in items if one["type"] == kind and one.get("status") != "in_progress"]


def main(codex: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        anyio.run(check, codex, Path(folder))
    sys.stdout.write("ok: Codex works with the tools that it has\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
