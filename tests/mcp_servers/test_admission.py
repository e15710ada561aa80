"""Tests of who may run, who waits and who is refused."""

from __future__ import annotations

import random
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mcp_servers.model_server.admission import (
    FIRST_GUESS_S,
    Admission,
    AdmissionLimits,
    Allowance,
    Ticket,
)
from mcp_servers.model_server.service import open_service
from runtime.errors import CapacityError
from tests.helpers.model_service import scripted_models
from tests.helpers.scripted_chat_model import ScriptedTurn
from tools.errors import InvalidRequestError, UnavailableError
from tools.toolset import CallContext

pytestmark = pytest.mark.anyio

LIMITS = AdmissionLimits(max_running=2, max_waiting=3, max_running_each=2, max_waiting_each=2)


def test_full_queue_of_a_caller_is_refused_and_another_caller_still_gets_in() -> None:
    admission = Admission(LIMITS)
    for _ in range(4):
        admission.enter("a")
    message = r"^2 your calls are running and 2 wait, as many as may; try again in 3 s$"
    with pytest.raises(CapacityError, match=message):
        admission.enter("a")
    admission.enter("b")
    message = r"^2 calls are running and 3 wait, as many as may; try again in 3 s$"
    with pytest.raises(CapacityError, match=message):
        admission.enter("b")
    assert (admission.num_running, admission.num_waiting) == (2, 3)


def test_freed_place_goes_to_the_caller_with_fewest_running_then_to_who_came_first() -> None:
    admission = Admission(LIMITS)
    first, second, third, other = [admission.enter(name) for name in "aaab"]
    admission.leave(first)
    assert (third.started_at, other.started_at is None) == (None, False)
    admission.leave(second)
    assert third.started_at is not None


def test_hint_follows_how_long_runs_take() -> None:
    times = iter([0.0, 105.0, 105.0, 105.0, 105.0])
    admission = Admission(AdmissionLimits(max_running=1, max_waiting=1), lambda: next(times))
    admission.leave(admission.enter("a"))
    admission.enter("a")
    admission.enter("a")
    with pytest.raises(CapacityError, match="try again in 25 s"):  # 5 s and a fifth of 100 s
        admission.enter("a")


def test_an_allowance_counts_what_the_caller_and_all_others_have() -> None:
    admission = Admission(LIMITS)
    assert admission.allowance("a") == Allowance(4, 4, 0)
    for _ in range(3):
        admission.enter("a")
    assert admission.allowance("a") == Allowance(4, 1, 2 * FIRST_GUESS_S)
    assert admission.allowance("b") == Allowance(4, 2, 0)
    admission.enter("b")
    admission.enter("b")
    assert admission.allowance("a").remaining == admission.allowance("c").remaining == 0


def test_a_check_refuses_whom_the_queue_would_and_takes_no_place() -> None:
    choices = random.Random(3)
    admission = Admission(LIMITS)
    inside: list[Ticket] = []
    for _ in range(300):
        caller = choices.choice("abc")
        if inside and choices.random() < 0.4:
            admission.leave(inside.pop(choices.randrange(len(inside))))
        seen = (admission.num_running, admission.num_waiting)
        refused: list[str] = []
        try:
            admission.check(caller)
        except CapacityError as exc:
            refused.append(str(exc))
        assert (admission.num_running, admission.num_waiting) == seen
        try:
            inside.append(admission.enter(caller))
        except CapacityError as exc:
            refused.append(str(exc))
            assert refused[0] == refused[1]
        else:
            assert refused == []
    admission.close()
    with pytest.raises(UnavailableError, match="shutting down"):
        admission.check("a")


async def test_who_cannot_wait_any_longer_is_told_when_to_come_back_and_leaves_the_queue() -> None:
    admission = Admission(LIMITS)
    for _ in range(2):
        admission.enter("a")
    message = r"^no place was free within 0.01 s, as long as you wait; try again in 3 s$"
    with admission.enter("a") as ticket, pytest.raises(CapacityError, match=message):
        await admission.turn(ticket, 0.01)
    assert admission.num_waiting == 0


async def test_closed_admission_refuses_and_is_emptied_by_the_last_who_leaves() -> None:
    admission = Admission(LIMITS)
    tickets = [admission.enter("a") for _ in range(3)]
    admission.close()
    with pytest.raises(UnavailableError, match="shutting down"):
        admission.enter("a")
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(admission.emptied)
            for ticket in tickets:
                await ticket.turn()
                admission.leave(ticket)


@pytest.mark.parametrize("seed", range(20))
def test_random_callers_keep_the_rules(seed: int) -> None:
    choices = random.Random(seed)
    limits = AdmissionLimits(max_running=3, max_waiting=4, max_running_each=2, max_waiting_each=3)
    admission = Admission(limits)
    inside: list[Ticket] = []
    for _ in range(200):
        if inside and choices.random() < 0.45:
            admission.leave(inside.pop(choices.randrange(len(inside))))
        else:
            try:
                inside.append(admission.enter(choices.choice("abc")))
            except CapacityError:
                assert admission.num_waiting >= 3
        running = [one.caller for one in inside if one.started_at is not None]
        waiting = [one.caller for one in inside if one.started_at is None]
        assert (len(running), len(waiting)) == (admission.num_running, admission.num_waiting)
        assert len(running) <= 3
        assert len(waiting) <= 4
        for caller in "abc":
            assert running.count(caller) <= 2
            assert waiting.count(caller) <= 3
            if caller in waiting:
                assert len(running) == 3 or running.count(caller) == 2


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("generate", {"prompt": "a" * 9000}),
        ("generate", {"system": "a" * 9000, "prompt": "a"}),
        ("extract", {"instructions": "a", "input": "a" * 9000, "schema": {"type": "null"}}),
        ("choose", {"question": "a" * 9000, "options": ["a", "b"]}),
    ],
)
async def test_what_is_too_long_is_refused_before_it_waits(
    name: str, arguments: dict[str, Any]
) -> None:
    models = scripted_models(lambda asked: ScriptedTurn(hangs=True))
    limits = AdmissionLimits(max_running=1, max_waiting=1)
    with anyio.fail_after(5):
        async with open_service(["scripted"], models.opened, None, limits) as service:
            hangs = {"prompt": "a", "wait_seconds": 0}
            await service.call_tool("generate", hangs, CallContext())
            while not models.model.num_open:
                await anyio.lowlevel.checkpoint()
            with pytest.raises(
                InvalidRequestError, match=r"90\d\d tokens, but the context has 8192"
            ):
                await service.call_tool(name, arguments, CallContext())
            assert service.num_waiting == 0
    assert len(models.model.asked) == 1


async def test_waiting_run_says_so_and_a_cancelled_one_gives_its_place_back() -> None:
    models = scripted_models(lambda asked: ScriptedTurn(hangs=asked.messages[-1].content == "a"))
    limits = AdmissionLimits(max_running=1, max_waiting=1)
    told: list[str | None] = []
    is_told = anyio.Event()

    async def report(done: float, total: float | None, message: str | None) -> None:
        told.append(message)
        is_told.set()

    with anyio.fail_after(5):
        async with open_service(["scripted"], models.opened, None, limits) as service:
            handle = {"prompt": "a", "wait_seconds": 0}
            first = await service.call_tool("generate", handle, CallContext())
            assert first.structured is not None
            async with anyio.create_task_group() as group:
                group.start_soon(
                    service.call_tool, "generate", {"prompt": "b"}, CallContext(report)
                )
                await is_told.wait()
                with pytest.raises(CapacityError, match="try again in"):
                    await service.call_tool("generate", handle, CallContext())
                cancel = {"run_id": first.structured["run_id"], "cancel": True}
                await service.call_tool("run_result", cancel, CallContext())
    assert told[0] == "waiting for other calls to end"
    assert models.model.asked[-1].messages[-1].content == "b"
    assert models.model.num_open == 0
