"""What every `AsyncEngine` does; each function checks one promise of the seam.

An engine under test has a tiny vocabulary and at least 256 tokens of context.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any, cast

import anyio
import numpy as np
import pytest

from runtime.engine.async_engine import AsyncEngine
from runtime.errors import CapacityError, PromptTooLongError
from runtime.grammar.compile import GrammarSource, compile_grammar
from runtime.grammar.constraint import Constraint, ConstraintState
from runtime.request import GenerateRequest, SamplingParams, TokenChunk
from runtime.tokenizer.tokenizer import Tokenizer
from tests.helpers.vocabularies import vocabulary_of
from tools.errors import InvalidRequestError

Check = Callable[[AsyncEngine, Tokenizer], Coroutine[Any, Any, None]]


async def collect(
    engine: AsyncEngine, request: GenerateRequest, constraint: Constraint | None = None
) -> list[TokenChunk]:
    with anyio.fail_after(20):
        return [chunk async for chunk in engine.generate(request, constraint)]


def request_of(tokenizer: Tokenizer, text: str = "time", **sampling: Any) -> GenerateRequest:
    return GenerateRequest(tuple(tokenizer.encode(text)), SamplingParams(**sampling))


def constraint_of(tokenizer: Tokenizer, lark: str) -> Constraint:
    return compile_grammar(GrammarSource("lark", lark), vocabulary_of(tokenizer)).constraint()


async def only_the_last_chunk_has_a_reason_and_each_has_its_usage(
    engine: AsyncEngine, tokenizer: Tokenizer
) -> None:
    request = request_of(tokenizer, max_tokens=8)
    *chunks, last = await collect(engine, request)
    assert all(chunk.finish_reason is None for chunk in chunks)
    token_ids: list[int] = []
    for chunk in [*chunks, last]:
        token_ids += chunk.token_ids
        assert chunk.usage is not None
        assert chunk.usage.completion_tokens == len(token_ids)
    assert last.finish_reason in {"stop", "length"}
    assert last.usage is not None
    assert last.usage.prompt_tokens == len(request.token_ids)
    assert last.usage.completion_tokens == len(token_ids) <= 8


async def texts_join_to_the_decoded_tokens(engine: AsyncEngine, tokenizer: Tokenizer) -> None:
    chunks = await collect(engine, request_of(tokenizer, max_tokens=24))
    token_ids = [token_id for chunk in chunks for token_id in chunk.token_ids]
    assert "".join(chunk.text for chunk in chunks) == tokenizer.decode(token_ids)


async def max_tokens_ends_with_length(engine: AsyncEngine, tokenizer: Tokenizer) -> None:
    constraint = constraint_of(tokenizer, 'start: "abcdefghij"')
    chunks = await collect(engine, request_of(tokenizer, max_tokens=3), constraint)
    assert sum(len(chunk.token_ids) for chunk in chunks) == 3
    assert chunks[-1].finish_reason == "length"
    assert "".join(chunk.text for chunk in chunks) == "abc"


async def output_that_is_whole_at_the_limit_was_not_cut(
    engine: AsyncEngine, tokenizer: Tokenizer
) -> None:
    for lark, reason in (('start: "abc"', "stop"), ('start: "abc" "d"?', "length")):
        constraint = constraint_of(tokenizer, lark)
        chunks = await collect(engine, request_of(tokenizer, max_tokens=3), constraint)
        assert "".join(chunk.text for chunk in chunks) == "abc"
        assert chunks[-1].finish_reason == reason


async def constraint_shapes_the_output_and_forces_tokens(
    engine: AsyncEngine, tokenizer: Tokenizer
) -> None:
    constraint = constraint_of(tokenizer, 'start: "abcdefghij"')
    chunks = await collect(engine, request_of(tokenizer, max_tokens=64), constraint)
    assert "".join(chunk.text for chunk in chunks) == "abcdefghij"
    assert chunks[-1].finish_reason == "stop"
    assert chunks[-1].token_ids[-1] in tokenizer.stop_ids
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.forced_tokens > 0
    assert usage.forward_passes < usage.completion_tokens


async def stop_string_is_cut_off(engine: AsyncEngine, tokenizer: Tokenizer) -> None:
    constraint = constraint_of(tokenizer, 'start: "abcdefghij"')
    chunks = await collect(engine, request_of(tokenizer, max_tokens=64, stop=("def",)), constraint)
    assert "".join(chunk.text for chunk in chunks) == "abc"
    assert chunks[-1].finish_reason == "stop"


async def scored_prompt_tokens_get_one_logprob_each(
    engine: AsyncEngine, tokenizer: Tokenizer
) -> None:
    request = GenerateRequest(
        tuple(tokenizer.encode("time and time")), SamplingParams(max_tokens=0), num_scored_tokens=2
    )
    chunks = await collect(engine, request)
    logprobs = [value for chunk in chunks for value in chunk.logprobs]
    assert len(logprobs) == 2
    assert all(value <= 0 for value in logprobs)
    assert not any(chunk.token_ids for chunk in chunks)
    assert chunks[-1].finish_reason == "length"


async def failed_constraint_ends_its_own_sequence(
    engine: AsyncEngine, tokenizer: Tokenizer
) -> None:
    chunks = await collect(engine, request_of(tokenizer, max_tokens=8), _FailedConstraint())
    assert chunks[-1].finish_reason == "error"
    assert chunks[-1].error
    chunks = await collect(engine, request_of(tokenizer, max_tokens=2))
    assert chunks[-1].finish_reason in {"stop", "length"}


async def closing_early_leaves_the_engine_usable(engine: AsyncEngine, tokenizer: Tokenizer) -> None:
    constraint = constraint_of(tokenizer, 'start: "a" /[a-z]{100}/')
    stream = cast("Any", engine.generate(request_of(tokenizer, max_tokens=99), constraint))
    with anyio.fail_after(20):
        async with aclosing(stream):
            await anext(stream)
    chunks = await collect(engine, request_of(tokenizer, max_tokens=2))
    assert chunks[-1].finish_reason in {"stop", "length"}


async def too_long_a_prompt_is_refused(engine: AsyncEngine, tokenizer: Tokenizer) -> None:
    request = GenerateRequest((5,) * 100_000, SamplingParams(max_tokens=1))
    with pytest.raises(PromptTooLongError):
        await collect(engine, request)


async def a_computed_prefix_is_read_held_and_let_go(
    engine: AsyncEngine, tokenizer: Tokenizer
) -> None:
    prefix = tokenizer.encode("time and the weather in a city ") * 4
    with anyio.fail_after(20):
        assert await engine.read_prefix(prefix) is None
        assert not await engine.hold_prefix("kept", prefix)
        await collect(engine, GenerateRequest((*prefix, 5), SamplingParams(max_tokens=0)))
        pages = await engine.read_prefix(prefix)
        assert pages is not None
        assert len(pages) == len(prefix) // 16
        assert await engine.hold_prefix("kept", prefix)
        assert await engine.hold_prefix("kept", prefix, pages)
        again = await engine.read_prefix(prefix)
        assert again is not None
        assert (again == pages).all()
        assert not await engine.hold_prefix("kept", [*prefix, *prefix])
        assert await engine.hold_prefix("kept", ())
        assert await engine.read_prefix([]) is None


async def texts_get_vectors_of_length_one(engine: AsyncEngine, tokenizer: Tokenizer) -> None:
    texts = [tokenizer.encode(text) for text in ("name", "the weather in a city", "name")]
    vectors = await engine.embed(texts)
    assert vectors.dtype == np.float32
    assert (vectors.ndim, len(vectors)) == (2, 3)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    assert (vectors[0] == vectors[2]).all()
    assert (vectors[0] != vectors[1]).any()
    with pytest.raises(InvalidRequestError):
        await engine.embed([texts[0], []])
    with pytest.raises(PromptTooLongError):
        await engine.embed([[5] * 5000])


async def closed_engine_refuses(engine: AsyncEngine, tokenizer: Tokenizer) -> None:
    await engine.aclose()
    with pytest.raises(CapacityError):
        await collect(engine, request_of(tokenizer))
    with pytest.raises(CapacityError):
        await engine.hold_prefix("kept", ())
    with pytest.raises(CapacityError):
        await engine.read_prefix(())
    with pytest.raises(CapacityError):
        await engine.embed([[5]])


CHECKS: tuple[Check, ...] = (
    only_the_last_chunk_has_a_reason_and_each_has_its_usage,
    texts_join_to_the_decoded_tokens,
    max_tokens_ends_with_length,
    output_that_is_whole_at_the_limit_was_not_cut,
    constraint_shapes_the_output_and_forces_tokens,
    stop_string_is_cut_off,
    scored_prompt_tokens_get_one_logprob_each,
    failed_constraint_ends_its_own_sequence,
    closing_early_leaves_the_engine_usable,
    too_long_a_prompt_is_refused,
    a_computed_prefix_is_read_held_and_let_go,
    texts_get_vectors_of_length_one,
    closed_engine_refuses,
)


class _FailedConstraint:
    """A constraint whose matcher has given up."""

    state: ConstraintState = "failed"

    def fill(self, token_bitmask: Any, row: int) -> None:
        token_bitmask[row] = 0

    def advance(self, token_ids: Any) -> int:
        return 0

    def forced(self) -> list[int]:
        return []

    def rollback(self, num_tokens: int) -> None:
        raise AssertionError("nothing was taken")

    def fork(self) -> Constraint:
        return cast("Constraint", self)
