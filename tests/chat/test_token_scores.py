"""Log-probabilities of a turn's tokens: those of the visible answer, whole and streamed."""

from __future__ import annotations

import pytest

from runtime.chat.messages import Message, OutputSchema, TextDelta, TurnEnd
from runtime.chat.model import ChatModel
from runtime.request import SamplingParams, TokenScore
from tests.chat.test_repair import saying
from tests.helpers.scripted_engine import ScriptedEngine, say
from tests.helpers.tiny_tokenizer import tiny_tokenizer
from tools.spec import ToolSpec

pytestmark = pytest.mark.anyio

TOKENIZER = tiny_tokenizer("<think>", "</think>")
SCORED = SamplingParams(max_tokens=200, top_logprobs=1)
NOW = ToolSpec("now", "Tells the time.", {"type": "object"})
CALL_NOW = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'


async def turn(
    *said: str, chunk_size: int = 1, **options: object
) -> tuple[list[TextDelta], TurnEnd]:
    engine = ScriptedEngine(
        TOKENIZER, say(*said), score=lambda token_id: -token_id / 100, chunk_size=chunk_size
    )
    model = ChatModel("tiny", TOKENIZER, engine, context_length=4096)
    options = {"sampling": SCORED, **options}
    events = [
        event
        async for event in model.stream([Message("user", "What time is it?")], **options)  # type: ignore[arg-type]  # options by name
    ]
    end = events[-1]
    assert isinstance(end, TurnEnd)
    return [event for event in events if isinstance(event, TextDelta)], end


def text_of(scores: tuple[TokenScore, ...]) -> str:
    return TOKENIZER.decode(score.token_id for score in scores)


@pytest.mark.parametrize("chunk_size", [1, 3, 99])
async def test_scores_are_of_the_tokens_of_the_answer(chunk_size: int) -> None:
    deltas, end = await turn("time and 日本 time", chunk_size=chunk_size)
    assert text_of(end.scores) == end.message.content == "time and 日本 time"
    assert all(score.logprob == -score.token_id / 100 for score in end.scores)
    assert all(score.top == ((score.token_id, score.logprob),) for score in end.scores)
    assert tuple(score for delta in deltas for score in delta.scores) == end.scores


async def test_nothing_is_scored_unasked() -> None:
    deltas, end = await turn("time", sampling=SamplingParams(max_tokens=9))
    assert end.scores == ()
    assert {delta.scores for delta in deltas} == {()}


async def test_a_stop_string_and_what_comes_after_have_no_scores() -> None:
    sampling = SamplingParams(max_tokens=99, top_logprobs=0, stop=("TU",))
    _, end = await turn("xyzTUabc", sampling=sampling)
    assert end.message.content == text_of(end.scores) == "xyz"


async def test_a_call_has_no_scores_but_the_text_before_it_does() -> None:
    _, end = await turn(CALL_NOW, tools=[NOW])
    assert end.message.tool_calls
    assert end.scores == ()
    deltas, end = await turn(f"wait: {CALL_NOW}", tools=[NOW])
    assert text_of(end.scores).strip() == end.message.content.strip() == "wait:"
    assert not any(delta.scores for delta in deltas)  # it might have been mended


async def test_an_answer_that_is_mended_is_scored_as_it_stands() -> None:
    schema = {"type": "object", "properties": {"n": {"not": {"const": 3}}}, "required": ["n"]}
    model, engine = saying('{"n":3}', '{"n":4}')
    events = [
        event
        async for event in model.stream(
            [Message("user", "?")], output=OutputSchema(schema), sampling=SCORED
        )
    ]
    end = events[-1]
    assert isinstance(end, TurnEnd)
    assert len(engine.requests) == 2
    assert end.message.content == '{"n":4}'
    assert model.tokenizer.decode(score.token_id for score in end.scores) == '{"n":4}'
    assert not any(event.scores for event in events if isinstance(event, TextDelta))
