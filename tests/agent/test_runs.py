"""Tests of runs that outlive the request that started them."""

from __future__ import annotations

import random
from contextlib import nullcontext

import anyio
import anyio.lowlevel
import pytest

from runtime.agent.runs import MAX_QUESTIONS, Progress, Run, Runs
from runtime.errors import CapacityError, UnknownRunError
from tools.questions import Answer, Question

pytestmark = pytest.mark.anyio


async def forever(run: Run) -> None:
    await anyio.sleep_forever()


async def number(run: Run) -> int:
    return 7


async def test_result_can_be_waited_for_and_read_again() -> None:
    with anyio.fail_after(5):
        async with Runs() as runs:
            run = runs.start(number)
            assert await run.wait(5)
            again = runs.get(run.id)
            assert (again.status, again.result, again.error) == ("done", 7, None)


async def test_bounded_wait_ends_before_the_run() -> None:
    with anyio.fail_after(5):
        async with Runs() as runs:
            run = runs.start(forever)
            assert not await run.wait(0)
            assert run.status == "running"


async def test_progress_only_grows_and_wakes_who_waits() -> None:
    more = anyio.Event()

    async def work(run: Run) -> None:
        run.report(2, 10, "two")
        await more.wait()
        run.report(1, 10, "one")

    with anyio.fail_after(5):
        async with Runs() as runs:
            run = runs.start(work)
            await run.changed()
            assert run.progress == Progress(2, 10, "two")
            more.set()
            await run.changed()
            assert run.progress == Progress(2, 10, "one")
            await run.wait(5)
            await run.changed()


async def test_failure_belongs_to_its_run() -> None:
    async def work(run: Run) -> None:
        raise ValueError("broken")

    with anyio.fail_after(5):
        async with Runs() as runs:
            other = runs.start(forever)
            run = runs.start(work)
            await run.wait(5)
            assert (run.status, repr(run.error)) == ("failed", "ValueError('broken')")
            assert other.status == "running"


async def test_cancelled_run_unwinds_before_it_says_so() -> None:
    is_unwound = False

    async def work(run: Run) -> None:
        nonlocal is_unwound
        try:
            await anyio.sleep_forever()
        finally:
            is_unwound = True

    with anyio.fail_after(5):
        async with Runs() as runs:
            run = runs.start(work)
            await anyio.lowlevel.checkpoint()
            run.cancel()
            await run.wait(5)
            assert (run.status, is_unwound) == ("cancelled", True)


async def test_run_cancelled_before_it_began_is_cancelled() -> None:
    with anyio.fail_after(5):
        async with Runs() as runs:
            run = runs.start(forever)
            run.cancel()
            await run.wait(5)
            assert run.status == "cancelled"


async def test_leaving_the_context_cancels_what_runs() -> None:
    with anyio.fail_after(5):
        async with Runs() as runs:
            run = runs.start(forever)
            done = runs.start(number)
            await done.wait(5)
    assert (run.status, done.status) == ("cancelled", "done")


async def test_result_expires() -> None:
    with anyio.fail_after(5):
        async with Runs(expiry_s=0) as runs:
            run = runs.start(number)
            while len(runs):
                await anyio.lowlevel.checkpoint()
            with pytest.raises(UnknownRunError):
                runs.get(run.id)


async def test_unknown_id_is_an_error_like_an_expired_one() -> None:
    async with Runs() as runs:
        with pytest.raises(UnknownRunError):
            runs.get("guess")


async def test_ids_are_long_and_differ() -> None:
    async with Runs() as runs:
        ids = {runs.start(number).id for _ in range(50)}
    assert len(ids) == 50
    assert {len(run_id) for run_id in ids} == {24}


async def test_full_house_forgets_finished_runs_and_refuses_when_all_run() -> None:
    with anyio.fail_after(5):
        async with Runs(max_runs=2) as runs:
            first = runs.start(number)
            await first.wait(5)
            runs.start(forever)
            runs.start(forever)
            with pytest.raises(UnknownRunError):
                runs.get(first.id)
            with pytest.raises(CapacityError):
                runs.start(number)


async def test_run_of_another_principal_is_as_unknown_as_none() -> None:
    with anyio.fail_after(5):
        async with Runs() as runs:
            run = runs.start(forever, "ada")
            assert runs.get(run.id, "ada") is run
            messages = []
            for run_id, principal in ((run.id, "bob"), (run.id, ""), ("none", "ada")):
                with pytest.raises(UnknownRunError) as caught:
                    runs.get(run_id, principal)
                messages.append(str(caught.value))
            assert len(set(messages)) == 1


async def test_principal_with_most_results_makes_room() -> None:
    with anyio.fail_after(5):
        async with Runs(max_runs=4) as runs:
            kept = runs.start(number, "bob")
            others = [runs.start(number, "ada") for _ in range(3)]
            for run in (kept, *others):
                await run.wait(5)
            runs.start(number, "eve")
            assert runs.get(kept.id, "bob") is kept
            with pytest.raises(UnknownRunError):
                runs.get(others[0].id, "ada")


SURE = Question("Sure?", {"type": "object"})
YES = Answer("accept", {"sure": True})


async def test_run_asks_and_goes_on_with_the_answer() -> None:
    async def work(run: Run) -> list[Answer]:
        return [await run.ask(SURE), await run.ask(SURE)]

    with anyio.fail_after(5):
        async with Runs() as runs:
            run = runs.start(work)
            keys = []
            for answer in (YES, Answer("decline")):
                await run.changed()
                ((key, question),) = run.questions.items()
                assert question == SURE
                keys.append(key)
                run.answer("another key", YES)
                run.answer(keys[0], answer)  # the first question is answered once
                run.answer(key, answer)
            await run.wait(5)
    assert run.result == [YES, Answer("decline")]
    assert run.questions == {}
    assert len(set(keys)) == 2


async def test_questions_of_one_run_may_be_open_at_once() -> None:
    async def work(run: Run) -> dict[str, Answer]:
        answers = {}

        async def ask(key: str) -> None:
            answers[key] = await run.ask(SURE, key)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, "a")
            tasks.start_soon(ask, "b")
        return answers

    with anyio.fail_after(5):
        async with Runs() as runs:
            run = runs.start(work)
            while len(run.questions) < 2:
                await run.changed()
            run.answer("b", YES)
            assert list(run.questions) == ["a"]
            run.answer("a", Answer("cancel"))
            await run.wait(5)
    assert run.result == {"b": YES, "a": Answer("cancel")}


async def test_run_that_asks_in_a_loop_reaches_nobody_any_more() -> None:
    async def work(run: Run) -> list[Answer]:
        return [await run.ask(SURE) for _ in range(MAX_QUESTIONS + 1)]

    with anyio.fail_after(5):
        async with Runs() as runs:
            run = runs.start(work)
            while not run.is_finished:
                for key in run.questions:
                    run.answer(key, YES)
                await run.changed()
    assert run.result == [YES] * MAX_QUESTIONS + [Answer("cancel")]


async def test_cancelled_run_has_no_open_question() -> None:
    async def work(run: Run) -> Answer:
        return await run.ask(SURE)

    with anyio.fail_after(5):
        async with Runs() as runs:
            run = runs.start(work)
            await run.changed()
            run.cancel()
            await run.wait(5)
    assert (run.status, run.questions) == ("cancelled", {})


@pytest.mark.parametrize(
    ("is_handed_out", "is_attended", "status"),
    [(False, False, "cancelled"), (True, False, "done"), (False, True, "done")],
)
async def test_question_that_nobody_answers_ends_a_run_that_nobody_wants(
    is_handed_out: bool, is_attended: bool, status: str
) -> None:
    async def work(run: Run) -> Answer:
        return await run.ask(SURE)

    with anyio.fail_after(5):
        async with Runs(answer_within_s=0) as runs:
            run = runs.start(work)
            run.is_handed_out = is_handed_out
            with run.attended() if is_attended else nullcontext():
                await run.wait(5)
    assert (run.status, run.result) == (status, Answer("cancel") if status == "done" else None)


async def _random_work(run: Run, choices: random.Random) -> int:
    for step in range(choices.randrange(4)):
        run.report(step)
        await anyio.lowlevel.checkpoint()
        if choices.random() < 0.2:
            await run.ask(SURE)
    if choices.random() < 0.2:
        raise ValueError
    if choices.random() < 0.2:
        await anyio.sleep_forever()
    return 7


@pytest.mark.parametrize("seed", range(20))
async def test_random_runs_keep_the_rules(seed: int) -> None:
    choices = random.Random(seed)
    started: list[Run] = []
    with anyio.fail_after(5):
        async with Runs(max_runs=4, expiry_s=choices.choice([0.0, 3600.0])) as runs:
            for _ in range(60):
                action = choices.choice(["start", "start", "cancel", "discard", "answer"])
                if action == "start":
                    try:
                        started.append(runs.start(lambda run: _random_work(run, choices)))
                    except CapacityError:
                        assert sum(not run.is_finished for run in started) == 4
                elif started and action == "cancel":
                    choices.choice(started).cancel()
                elif started and action == "answer":
                    run = choices.choice(started)
                    for key in run.questions:
                        run.answer(key, YES)
                elif action == "discard" and (done := [run for run in started if run.is_finished]):
                    runs.discard(choices.choice(done))
                await anyio.lowlevel.checkpoint()
                assert len(runs) <= 4
                for run in started:
                    assert (run.status == "failed") == (run.error is not None)
                    assert (run.status == "done") == (run.result == 7)
                    assert not (run.is_finished and run.questions)
    assert all(run.is_finished for run in started)
