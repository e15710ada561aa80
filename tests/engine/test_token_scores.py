"""Log-probabilities of generated tokens on tiny checkpoints, and biases of what is drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from runtime.engine.engine import Engine
from runtime.grammar.constraint import Constraint
from runtime.request import GenerateRequest, SamplingParams, TokenScore
from tests.engine.test_cpu_runner import make_engine as make_cpu_engine
from tests.engine.test_engine import ClosingConstraint, FixedConstraint
from tests.engine.test_torch_runner import make_engine as make_torch_engine
from tests.engine.test_torch_runner import make_runner, prompts
from tests.helpers.logits import forward
from tests.helpers.tiny_gguf import write_tiny_llama
from tools.errors import InvalidRequestError

Scored = tuple[list[int], list[TokenScore]]
Given = tuple[GenerateRequest, Callable[[], Constraint] | None]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


def run(engine: Engine, *given: Given) -> list[Scored]:
    """Tokens and their scores; every chunk has a score for each of its tokens."""
    ids = [engine.add(one, build and build()) for one, build in given]
    found: dict[int, Scored] = {sequence_id: ([], []) for sequence_id in ids}
    begun: set[int] = set()
    while engine.has_work:
        for sequence_id, chunk in engine.step().items():
            request = given[ids.index(sequence_id)][0]
            prompt = 0 if sequence_id in begun else request.num_scored_tokens
            assert len(chunk.scores) == len(chunk.token_ids) + prompt
            begun.add(sequence_id)
            found[sequence_id][0].extend(chunk.token_ids)
            found[sequence_id][1].extend(chunk.scores)
    return [found[sequence_id] for sequence_id in ids]


def forcing() -> Constraint:
    return FixedConstraint([{5}, {6}, {7, 8}, {9}, {10}, {11}, {12, 13}, {14}, set(range(400))])


def closing() -> Constraint:
    return ClosingConstraint(31, [7, 8, 9])


def all_kinds() -> list[Given]:
    """Greedy and drawn, changed in every way, free and under grammars."""
    plain = SamplingParams(max_tokens=40, top_logprobs=3)
    drawn = replace(plain, temperature=0.9, seed=5, top_logprobs=0)
    bent = replace(
        drawn, repetition_penalty=1.3, logit_bias=((17, 4.0), (3, -100.0)), top_logprobs=20
    )
    kinds = [plain, drawn, bent]
    return [
        (GenerateRequest(prompt, kinds[n % 3], num_scored_tokens=n % 2), build)
        for n, prompt in enumerate(prompts(12))
        for build in (None, forcing, closing)
        if len(prompt) > 1
    ]


def test_scores_are_those_of_a_dense_forward_pass(tiny: Path) -> None:
    given = all_kinds()
    for (request, _), (token_ids, scores) in zip(
        given, run(make_torch_engine(tiny), *given), strict=True
    ):
        whole = (*request.token_ids, *token_ids)
        logprobs = forward(make_runner(tiny), whole[:-1]).log_softmax(-1)[-len(scores) :]
        assert [score.token_id for score in scores] == list(whole[-len(scores) :])
        num_top = request.sampling.top_logprobs or 0
        for row, score in zip(logprobs, scores, strict=True):
            assert score.logprob == pytest.approx(float(row[score.token_id]), abs=1e-4)
            values = torch.tensor([logprob for _, logprob in score.top])
            assert torch.allclose(values, row.topk(num_top).values, atol=1e-4)
            ids = [token_id for token_id, _ in score.top]
            assert torch.allclose(row[ids], values, atol=1e-4)


def test_scores_are_bit_equal_however_the_work_is_cut(tiny: Path) -> None:
    given = all_kinds()
    engine = make_cpu_engine(tiny, threads=1)
    alone = [run(engine, one)[0] for one in given]
    preempting = make_cpu_engine(tiny, num_pages=24)
    for other in (make_cpu_engine(tiny), make_cpu_engine(tiny, max_step_tokens=7), preempting):
        assert run(other, *given) == alone
    assert preempting.scheduler.num_preemptions > 0


def test_a_token_scores_alike_generated_and_as_a_prompt(tiny: Path) -> None:
    engine = make_cpu_engine(tiny)
    for request, build in all_kinds():
        token_ids, scores = run(engine, (request, build))[0]
        again = replace(
            request,
            token_ids=(*request.token_ids, *token_ids),
            sampling=replace(request.sampling, max_tokens=0),
            num_scored_tokens=len(scores),
        )
        assert run(engine, (again, None)) == [([], scores)]


def test_reporting_scores_changes_no_token(tiny: Path) -> None:
    engine = make_cpu_engine(tiny)
    for request, build in all_kinds():
        silent = replace(request, sampling=replace(request.sampling, top_logprobs=None))
        sequence_id = engine.add(silent, build and build())
        token_ids: list[int] = []
        while engine.has_work:
            chunks = engine.step()
            token_ids += chunks[sequence_id].token_ids if sequence_id in chunks else ()
        assert token_ids == run(engine, (request, build))[0][0]


def test_a_bias_forces_and_bans_tokens(tiny: Path) -> None:
    for make_engine in (make_cpu_engine, make_torch_engine):
        engine = make_engine(tiny)
        plain = GenerateRequest((1, 2, 3), SamplingParams(max_tokens=8, top_logprobs=0))
        ((token_ids, _),) = run(engine, (plain, None))
        banned = tuple((token_id, -100.0) for token_id in sorted(set(token_ids)))
        for bias, wanted in (((9, 100.0),), {9}), (banned, set(range(501)) - set(token_ids)):
            sampling = replace(plain.sampling, logit_bias=bias)
            ((found, _),) = run(engine, (replace(plain, sampling=sampling), None))
            assert set(found) <= wanted


@pytest.mark.parametrize(
    "fields",
    [{"top_logprobs": 21}, {"top_logprobs": -1}, {"logit_bias": ((1, 101.0),)},
     {"logit_bias": ((-1, 1.0),)}, {"logit_bias": ((1, 1.0), (1, 2.0))}],
)  # fmt: skip
def test_what_is_out_of_range_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match=next(iter(fields))):
        SamplingParams(**fields)


def test_a_bias_of_a_token_that_the_vocabulary_lacks_is_refused(tiny: Path) -> None:
    engine = make_cpu_engine(tiny)
    sampling = SamplingParams(logit_bias=((10**9, 1.0),))
    with pytest.raises(InvalidRequestError, match="logit_bias"):
        engine.check(GenerateRequest((1,), sampling))
