"""Tests of the log of every tool call."""

from __future__ import annotations

import json
import logging
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from runtime.agent.approval import PendingCall
from runtime.agent.audit import AuditLog, CallRecord
from runtime.agent.limits import Limits
from runtime.agent.loop import Agent
from runtime.agent.policy import Policy
from runtime.chat.messages import Message, ToolCall
from runtime.telemetry import NUM_OLD_LOGS
from tests.helpers.scripted_chat_model import ScriptedChatModel, ScriptedTurn, play
from tests.helpers.scripted_tools import ScriptedToolset, echo, fail, make_spec
from tools.mcp_client.config import ToolPolicy
from tools.spec import JsonObject, ToolResult

RECORD = CallRecord(
    tool="fs__read",
    server="fs",
    arguments={"path": "/a", "n": 1},
    decision="allow",
    reason="is on the allow list (x)",
    approved_by="policy",
    seconds=0.1234567,
    outcome="ok",
    result=ToolResult.from_text("sécret"),
)
ENTRY = {
    "run": "run-1",
    "principal": "me",
    "server": "fs",
    "tool": "fs__read",
    "arguments_sha256": "c01067089205bed7c7ba8abcabb6ad2b355cd5c9a62e2bb1d9a8767858bc7fea",
    "arguments_bytes": 19,
    "verdict": "allow",
    "reason": "is on the allow list (x)",
    "approved_by": "policy",
    "seconds": 0.123457,
    "outcome": "ok",
    "result_bytes": 7,
}
PROMPT = (Message("user", "go"),)


def read(path: Path) -> list[dict[str, Any]]:
    """The entries without their times."""
    entries = [json.loads(line) for line in path.read_text("ascii").splitlines()]
    for entry in entries:
        assert entry.pop("time").endswith("+00:00")
    return entries


def test_a_line_says_all_but_what_was_in_the_call(tmp_path: Path) -> None:
    path = tmp_path / "state" / "audit.jsonl"
    AuditLog(path).write("run-1", "me", RECORD)
    other_order = replace(RECORD, arguments={"n": 1, "path": "/a"})
    AuditLog(path).write("run-1", "me", other_order)
    assert read(path) == [ENTRY, ENTRY]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_contents_are_kept_when_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    AuditLog(path, keeps_contents=True).write("run-1", "me", RECORD)
    assert read(path) == [ENTRY | {"arguments": RECORD.arguments, "result": "sécret"}]


def test_long_files_are_put_away_and_the_oldest_go(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path, max_bytes=1000)
    for number in range(40):
        log.write(str(number), "", RECORD)
    files = [path, *(Path(f"{path}.{age}") for age in range(1, NUM_OLD_LOGS + 1))]
    assert sorted(tmp_path.iterdir()) == sorted([*files, Path(f"{path}.lock")])
    assert all(file.stat().st_size <= 1000 for file in files)
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    kept = [entry["run"] for file in reversed(files) for entry in read(file)]
    assert kept == [str(number) for number in range(40 - len(kept), 40)]
    assert len(kept) > 4


def test_many_writers_lose_no_line(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with ThreadPoolExecutor(8) as pool:
        for number in range(64):
            pool.submit(AuditLog(path, max_bytes=9000).write, str(number), "", RECORD)
    found = [
        entry["run"]
        for file in tmp_path.glob("audit.jsonl*")
        if file.suffix != ".lock"
        for entry in read(file)
    ]
    assert sorted(map(int, found)) == list(range(64))


def test_hostile_names_stay_on_their_line(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    AuditLog(path).write("r", "", replace(RECORD, tool="a\n\x1b[31m\ud800" + "x" * 999))
    assert [len(entry["tool"]) for entry in read(path)] == [200]


def test_what_cannot_be_written_is_told_and_fails_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "runtime.agent.audit")
    (tmp_path / "file").write_text("")
    AuditLog(tmp_path / "file" / "audit.jsonl").write("run-1", "", RECORD)
    assert caplog.records[0].getMessage().startswith("run=run-1: a call is missing in ")


@pytest.mark.anyio
async def test_every_call_of_a_run_is_recorded_whatever_becomes_of_it(tmp_path: Path) -> None:
    async def approve(calls: Sequence[PendingCall]) -> list[bool]:
        return [call.tool.name == "fs__yes" for call in calls]

    made = [
        (make_spec("ok", read_only=True), echo),
        (make_spec("fails"), fail),
        (make_spec("fs__no", server="fs", destructive=True), echo),
        (make_spec("fs__yes", server="fs", destructive=True), echo),
        (make_spec("fs__never", server="fs"), echo),
    ]
    names = ("ok", "fails", "fs__no", "ghost", "fs__never", "fs__yes", "ok", "ok", "ok")
    turns = [
        ScriptedTurn(calls=(ToolCall(str(at), name, {"secret": 1}),))
        for at, name in enumerate(names)
    ]
    path = tmp_path / "audit.jsonl"
    agent = Agent(
        ScriptedChatModel(play(*turns)),
        ScriptedToolset(made),
        Policy({"fs": ToolPolicy(deny=("never",))}),
        Limits(max_errors=9),
        approve,
        AuditLog(path),
    )
    with anyio.fail_after(5):
        async for _ in agent.run(PROMPT, run_id="run-1", principal="me"):
            pass
    entries = read(path)
    assert {(entry["run"], entry["principal"]) for entry in entries} == {("run-1", "me")}
    assert "secret" not in path.read_text("ascii")
    keys = ("tool", "server", "verdict", "approved_by", "outcome", "reason")
    function, marked = "is a function of this program", "is marked destructive"
    unknown = (None, None, None, "refused", "no such tool can be called")
    assert [tuple(entry[key] for key in keys) for entry in entries] == [
        ("ok", None, "allow", "policy", "ok", function),
        ("fails", None, "allow", "policy", "error", function),
        ("fs__no", "fs", "ask", None, "denied", f"the user declined; it {marked}"),
        ("ghost", *unknown),
        ("fs__never", *unknown),
        ("fs__yes", "fs", "ask", "user", "ok", marked),
        ("ok", None, "allow", "policy", "ok", function),
        ("ok", None, None, None, "refused", "a limit of the run was reached"),
    ]


@pytest.mark.anyio
async def test_call_that_a_cancelled_run_was_asking_about_is_recorded(tmp_path: Path) -> None:
    async def approve(calls: Sequence[PendingCall]) -> list[bool]:
        tasks.cancel_scope.cancel()
        await anyio.sleep_forever()
        raise AssertionError

    path = tmp_path / "audit.jsonl"
    spec = make_spec("fs__wipe", server="fs", destructive=True)
    model = ScriptedChatModel(play(ScriptedTurn(calls=(ToolCall("1", spec.name, {}),))))
    toolset = ScriptedToolset([(spec, echo)])
    agent = Agent(model, toolset, approver=approve, audit=AuditLog(path))
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            async for _ in agent.run(PROMPT):
                pass
    assert [(entry["outcome"], entry["reason"]) for entry in read(path)] == [
        ("refused", "the run ended first")
    ]


@pytest.mark.anyio
async def test_call_that_a_cancelled_run_was_making_is_recorded(tmp_path: Path) -> None:
    is_hanging = anyio.Event()

    async def hang(arguments: JsonObject) -> ToolResult:
        is_hanging.set()
        await anyio.sleep_forever()
        raise AssertionError

    path = tmp_path / "audit.jsonl"
    model = ScriptedChatModel(play(ScriptedTurn(calls=(ToolCall("1", "hang", {}),))))
    agent = Agent(model, ScriptedToolset([(make_spec("hang"), hang)]), audit=AuditLog(path))

    async def go() -> None:
        async for _ in agent.run(PROMPT):
            pass

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(go)
            await is_hanging.wait()
            tasks.cancel_scope.cancel()
    (entry,) = read(path)
    assert (entry["outcome"], entry["result_bytes"]) == ("unknown", None)
    assert entry["run"].startswith("run-")
