"""Tests of guesses: which are made, and that they change no token."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from runtime.engine.engine import Engine
from runtime.engine.sequence import Sequence
from runtime.engine.speculative import Draft, Speculator
from runtime.request import GenerateRequest, SamplingParams
from tests.engine.test_engine import (
    PAGE_SIZE,
    Collected,
    FixedConstraint,
    drain,
    expected,
    generate,
    make_engine,
    request,
    usage_of,
)
from tests.engine.test_scheduler import TimedRunner, check_invariants
from tests.helpers.constrained_tokens import HastyPace
from tests.helpers.page_runner import END, VOCAB_SIZE, LetterDecoder, PageRunner, next_token

EASY = 0.01
"""A price at which every guess is worth while."""


def propose(token_ids: list[int], price: float = EASY, room: int = 4) -> list[int]:
    draft = Speculator({END}).propose(token_ids, None, price=price, room=room)
    return [] if draft is None else draft.token_ids


@pytest.mark.parametrize(
    ("token_ids", "guessed"),
    [
        ([7], []),
        ([7, 7], []),
        ([1, 2, 3, 4], []),
        ([1, 2, 3, 4, 5, 6, 9, 1, 2], [3, 4, 5, 6]),
        ([1, 2, 3, 9, 1, 2, 4, 5, 6, 7, 8, 1, 2], [4, 5, 6, 7]),  # as it went on last
        ([8, 1, 2, 8, 1, 2], [8, 1, 2, 8]),  # over its own end
        ([7, 7, 7], [7, 7, 7, 7]),
        ([1, 2, END, 3, 9, 1, 2], []),
        ([1, 2, 3, END, 9, 1, 2], [3]),
    ],
)
def test_what_followed_two_tokens_is_guessed_to_follow_them_again(
    token_ids: list[int], guessed: list[int]
) -> None:
    before = list(token_ids)
    assert propose(token_ids) == guessed
    assert token_ids == before


def test_what_was_predicted_is_guessed_where_it_is_begun() -> None:
    speculator = Speculator({END}, [1, 2, 3, 4, 5])
    assert speculator.propose([9, 8], None, price=EASY, room=9) is None
    draft = speculator.propose([9, 8, 2, 3], None, price=EASY, room=9)
    assert draft is not None
    assert draft.token_ids == [4, 5]
    assert speculator.propose([9, 8, 2, 3, 4, 5], None, price=EASY, room=9) is None


def test_right_prediction_saves_steps_and_no_prediction_changes_a_token() -> None:
    prompt, passes = [1, 2, 3], []
    wanted = expected(prompt, 40)
    for predicted in ([], wanted, wanted[::-1], [END, *wanted, END]):
        (result,) = generate(
            guessing_engine(), request(*prompt, max_tokens=40, predicted_ids=tuple(predicted))
        )
        assert result.token_ids == wanted
        passes.append(usage_of(result).forward_passes)
    assert passes[1] < 0.5 * passes[0]
    assert passes[3] < 0.5 * passes[0]


def test_longer_matches_are_likelier_guesses() -> None:
    two, four = [1, 2, 3, 9, 1, 2], [5, 6, 1, 2, 3, 9, 5, 6, 1, 2]
    assert propose(two, price=0.2)[:1] == propose(four, price=0.2)[:1] == [3]
    assert propose(two, price=0.4) == []
    assert propose(four, price=0.5) == [3]  # two of them in a row are less likely
    assert len(propose(four, price=0.4, room=0)) == 0


def test_guesses_that_come_true_are_followed_further_and_others_less() -> None:
    speculator, said = Speculator({END}), [1, 2, 3, 4] * 4
    lengths = []
    for index in range(8):
        draft = speculator.propose(said, None, price=0.4, room=8)
        lengths.append(0 if draft is None else len(draft.token_ids))
        said.append(1 + index % 4)
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]
    for token_id in range(10, 26):
        speculator.propose(said, None, price=0.4, room=8)
        said += [token_id, 1, 2, 3, 4]
    assert speculator.propose(said, None, price=0.4, room=8) is None


@dataclass
class SpelledConstraint(FixedConstraint):
    """Says of two tokens which is the likelier one."""

    def guess(self) -> int | None:
        allowed = self.script[self.at] if self.at < len(self.script) else set()
        return min(allowed) if len(allowed) == 2 else None


def test_grammars_guess_and_what_it_dictates_after_it_are_drafted() -> None:
    constraint = SpelledConstraint([{5, 6}, {7}, {8}, {1, 2, 3}])
    draft = Speculator({END}).propose([4], constraint, price=EASY, room=9)
    assert draft == Draft([5, 7, 8], [3], [SpelledConstraint(constraint.script, at=3)])
    assert constraint.at == 0
    ends_the_turn = SpelledConstraint([{5, 6}, {END}])
    assert Speculator({END}).propose([4], ends_the_turn, price=EASY, room=9) is None
    does_not_fit = SpelledConstraint([{5, 6}, {7}, {8}, {1, 2}, {3}, {1, 2, 3}])
    draft = Speculator({END}).propose([4], does_not_fit, price=EASY, room=3)
    assert draft is not None
    assert draft.ends == [3]


def test_illegal_guess_is_not_drafted() -> None:
    repeats = [1, 2, 3, 9, 1, 2]
    legal, illegal = (SpelledConstraint([{3, 4, 5}, {one, 7, 8}]) for one in (9, 6))
    for constraint, wanted in ((legal, [3, 9]), (illegal, [3])):
        draft = Speculator({END}).propose(repeats, constraint, price=EASY, room=9)
        assert draft is not None
        assert draft.token_ids == wanted


def test_draws_that_depend_on_others_or_are_told_with_scores_are_not_guessed() -> None:
    for sampling in (
        SamplingParams(repetition_penalty=1.1),
        SamplingParams(presence_penalty=0.1),
        SamplingParams(top_logprobs=0),
    ):
        one = GenerateRequest((7,) * 9, sampling)
        sequence = Sequence(0, one, None, LetterDecoder(), seed=1, max_tokens=9)
        sequence.guess(EASY, 9, {END})
        assert sequence.draft is None
    unforkable = FixedConstraint([{1, 2, 3}] * 9)
    one = GenerateRequest((7,) * 9, SamplingParams())
    sequence = Sequence(0, one, unforkable, LetterDecoder(), seed=1, max_tokens=9)
    sequence.guess(EASY, 9, {END})
    assert sequence.draft is None


def guessing_engine(
    num_pages: int = 1000,
    *,
    max_draft_tokens: int = 16,
    max_step_tokens: int = 64,
    max_sequences: int = 64,
    context_length: int = 10_000,
) -> Engine:
    """Makes the likelier guesses, whatever they cost."""
    engine = make_engine(
        num_pages,
        max_sequences=max_sequences,
        max_step_tokens=max_step_tokens,
        max_draft_tokens=max_draft_tokens,
        context_length=context_length,
    )
    engine.scheduler._pace = HastyPace(engine.limits.max_step_s)
    return engine


def test_tokens_are_the_same_and_take_fewer_steps() -> None:
    rng = random.Random(2)
    prompts = [[rng.randrange(1, VOCAB_SIZE) for _ in range(n)] for n in range(1, 33)]
    requests = [request(*prompt, max_tokens=60) for prompt in prompts]
    wanted = [expected(prompt, 60) for prompt in prompts]
    alone = [generate(guessing_engine(), one)[0] for one in requests]
    passes = sum(usage_of(result).forward_passes for result in alone)
    assert passes < 0.9 * sum(map(len, wanted))
    for engine in (
        guessing_engine(),
        guessing_engine(max_draft_tokens=1),
        guessing_engine(max_step_tokens=7),
        guessing_engine(40),
        guessing_engine(max_sequences=1),
    ):
        results = generate(engine, *requests)
        assert [result.token_ids for result in results] == wanted
        check_invariants(engine)
        tally = engine.state().tally
        assert 0 < tally.accepted_tokens < tally.drafted_tokens
    small = guessing_engine(24)
    generate(small, *requests)
    assert small.scheduler.num_preemptions > 0


def test_guesses_are_made_where_they_are_cheap() -> None:
    prompt, passes = [1, 2, 3], []
    for token_s in (1e-6, 10.0):
        clock = [0.0]
        runner = TimedRunner(100, clock, token_s=token_s)
        engine = make_engine(runner=runner, clock=clock, max_draft_tokens=16)
        (result,) = generate(engine, request(*prompt, max_tokens=90))
        assert result.token_ids == expected(prompt, 90)
        passes.append(usage_of(result).forward_passes)
    assert passes[0] < 0.7 * passes[1]


@pytest.mark.parametrize("num_guessed", range(1, 12))
def test_what_is_dictated_after_a_guess_is_computed_within_the_context_only(
    num_guessed: int,
) -> None:
    script = [{5, 6}] * num_guessed + [{7}] * 60
    for context_length in range(num_guessed + 3, 40):
        engine = guessing_engine(context_length=context_length)
        runner = engine._runner
        assert isinstance(runner, PageRunner)
        sequence_id = engine.add(request(1, 2, 3, max_tokens=60), SpelledConstraint(script))
        results: dict[int, Collected] = {}
        drain(engine, results)
        assert len(results[sequence_id].token_ids) == context_length - 3
        assert runner.last_position < context_length


def test_next_turn_finds_no_page_of_a_wrong_guess() -> None:
    engine = guessing_engine(max_sequences=1)
    prompt = [1, 2, 3]
    for _ in range(8):
        (result,) = generate(engine, request(*prompt, max_tokens=9))
        assert result.token_ids == expected(prompt, 9)
        prompt += [*result.token_ids[:7], *prompt[:3]]
        num_full = (len(prompt) - 1) // PAGE_SIZE
        (again,) = generate(engine, request(*prompt, max_tokens=1))
        assert again.token_ids == expected(prompt, 1)
        assert usage_of(again).cached_tokens <= num_full * PAGE_SIZE


@pytest.mark.parametrize("seed", range(8))
def test_constrained_tokens_are_the_same_with_guesses(seed: int) -> None:
    rng = random.Random(seed)
    script = [set(rng.sample(range(1, VOCAB_SIZE), rng.choice([1, 2, 2, 40]))) for _ in range(40)]
    results: list[Collected] = []
    for constraint in (FixedConstraint(script, max_forced=3), SpelledConstraint(script)):
        engine = guessing_engine()
        sequence_id = engine.add(request(1, 2, 3, max_tokens=35), constraint)
        found: dict[int, Collected] = {}
        drain(engine, found)
        results.append(found[sequence_id])
        check_invariants(engine)
    free, guessed = results
    assert guessed.token_ids == free.token_ids
    assert usage_of(guessed).forced_tokens == usage_of(free).forced_tokens
    assert usage_of(guessed).forward_passes < usage_of(free).forward_passes
    said = [1, 2, 3]
    for allowed in script[:35]:
        said.append(next_token(said, [one in allowed for one in range(VOCAB_SIZE)]))
    assert guessed.token_ids == said[3:]
