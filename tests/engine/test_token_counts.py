"""Tests of what penalties apply to."""

from __future__ import annotations

from runtime.engine.token_counts import TokenCounts


def test_generated_tokens_are_counted_and_the_prompts_are_not() -> None:
    counts = TokenCounts([5, 3, 5], max_tokens=4)
    assert (counts.token_ids.tolist(), counts.counts.tolist()) == ([5, 3], [0, 0])
    counts.add([9, 5])
    counts.add([9])
    assert (counts.token_ids.tolist(), counts.counts.tolist()) == ([5, 3, 9], [1, 0, 2])
    assert len(counts) == 3


def test_without_a_prompt_only_the_text_counts() -> None:
    counts = TokenCounts((), max_tokens=2)
    counts.add([7, 8])
    assert (counts.token_ids.tolist(), counts.counts.tolist()) == ([7, 8], [1, 1])
