"""Random tools and turns in every wire format: written, accepted by the grammar, read back.

The events must be the same at every cut, and the calls the ones that were written.
Run as `python -m tests.fuzz.turns`; a finding prints how to repeat it.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import logging
import random
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from runtime.chat.messages import ReasoningDelta, TextDelta, ToolCall, ToolCallDelta, ToolChoice
from runtime.chat.parser import MarkedText, ParserEvent, TurnParser
from runtime.chat.wire_formats.families import WIRE_FORMATS
from runtime.chat.wire_formats.format import (
    BoundFormat,
    Reasoning,
    Thinking,
    bind,
)
from runtime.chat.wire_formats.grammar import TurnShape, turn_grammar
from runtime.chat.wire_formats.openai import HARMONY
from runtime.chat.wire_formats.render import write_calls
from runtime.grammar.compile import compile_grammar
from runtime.tokenizer.tokenizer import Tokenizer
from tests.fuzz.schemas import draw_arguments, draw_text, draw_tool
from tests.helpers.tiny_tokenizer import tiny_tokenizer
from tests.helpers.vocabularies import accepts, vocabulary_of
from tools.spec import JsonObject, ToolSpec

logger = logging.getLogger("fuzz")

NUM_RANDOM_SPLITS = 4
THINK = Reasoning("<think>", "</think>")


@functools.cache
def tokenizers() -> tuple[Tokenizer, Tokenizer]:
    """One with the markers as tokens, one without."""
    markers = dict.fromkeys(marker for wire in WIRE_FORMATS for marker in wire.markers)
    return tiny_tokenizer(*markers, THINK.opens, THINK.closes), tiny_tokenizer()


@functools.cache
def vocabulary(index: int) -> object:
    return vocabulary_of(tokenizers()[index])


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn as it is said, and what it says."""

    bound: BoundFormat
    tools: tuple[ToolSpec, ...]
    thinking: Thinking
    token_ids: list[int]
    reasoning: str
    text: str
    calls: tuple[ToolCall, ...]
    vocabulary_index: int


def draw_turn(rng: random.Random) -> Turn:
    wire = rng.choice(WIRE_FORMATS)
    index = 0 if wire is HARMONY else rng.randrange(2)
    tokenizer = tokenizers()[index]
    reasoning = wire.reasoning or THINK
    texts = (*wire.markers, reasoning.opens, reasoning.closes)
    ids = {text: tokenizer.special_ids[text] for text in texts if text in tokenizer.special_ids}
    bound = bind(replace(wire, reasoning=reasoning), ids)
    assert bound.wire.reasoning is not None
    tools = tuple(draw_tool(rng, at) for at in range(rng.randrange(1, 5)))
    most = 3 if wire.between_calls is not None else 1
    drawn = rng.choices(tools, k=rng.randrange(most + 1))
    arguments = [draw_arguments(rng, tool, wire.arguments) for tool in drawn]
    calls = tuple(
        ToolCall(f"{at:09}", tool.name, one)
        for at, (tool, one) in enumerate(zip(drawn, arguments, strict=True))
        if one is not None
    )
    banned = [wire.trigger, reasoning.opens, reasoning.closes]
    text = draw_text(rng, banned).strip("\n")
    thought = draw_text(rng, banned).strip("\n")
    pieces: list[tuple[str, bool]] = []  # text, and whether its markers are tokens
    if thought:
        pieces += [
            (reasoning.opens, True),
            (f"\n{thought}\n", False),
            (f"{reasoning.closes}", True),
        ]
        pieces += [("\n\n", False)] if wire.reasoning is None else []
    if calls:
        if text:
            pieces += [(wire.lead_opens, True), (text, False), (wire.lead_closes, True)]
        written = write_calls(wire, calls, hide="\ue000{}\ue001".format)
        for at, piece in enumerate(re.split("[\ue000\ue001]", written)):
            pieces.append((piece, at % 2 == 0))
    else:
        pieces += [(wire.answer_opens, True), (text, False)]
    token_ids = [
        token_id
        for piece, is_special in pieces
        for token_id in tokenizer.encode(piece, parse_special=is_special)
    ]
    thinking = Thinking(bound.wire.reasoning)
    return Turn(bound, tools, thinking, token_ids, thought, text, calls, index)


def check_turn(turn: Turn, rng: random.Random, *, every_split: bool) -> None:
    """Raise AssertionError where grammar, writer and parser disagree."""
    source = turn_grammar(turn.bound, turn.tools, TurnShape(ToolChoice(), thinking=turn.thinking))
    assert source is not None
    compiled = compile_grammar(source, vocabulary(turn.vocabulary_index))  # type: ignore[arg-type] # functools.cache hides it
    assert accepts(compiled.constraint(), turn.token_ids), "the grammar refuses what was written"
    whole, parser = events_of(turn, [turn.token_ids])
    assert (parser.reasoning, parser.text) == (turn.reasoning, turn.text)
    assert not parser.is_cut
    found = [(call.name, call.arguments) for call in parser.calls]
    assert found == [(call.name, call.arguments) for call in turn.calls]
    assert arguments_of(whole) == [call.arguments for call in turn.calls]
    for pieces in splits(turn.token_ids, rng, every_split=every_split):
        assert events_of(turn, pieces)[0] == whole, f"cut into {[len(one) for one in pieces]}"


def arguments_of(events: Sequence[ParserEvent]) -> list[JsonObject]:
    """What a client puts together from the deltas."""
    written: dict[int, str] = {}
    for event in events:
        if isinstance(event, ToolCallDelta):
            written[event.index] = written.get(event.index, "") + event.arguments
    return [json.loads(text) for text in written.values()]


def splits(
    token_ids: list[int], rng: random.Random, *, every_split: bool
) -> Iterator[list[list[int]]]:
    yield [[token_id] for token_id in token_ids]
    if every_split:
        for at in range(len(token_ids) + 1):
            yield [token_ids[:at], token_ids[at:]]
    for _ in range(NUM_RANDOM_SPLITS):
        cuts = sorted(rng.choices(range(len(token_ids) + 1), k=5))
        yield [token_ids[a:b] for a, b in itertools.pairwise([0, *cuts, len(token_ids)])]


def events_of(turn: Turn, pieces: list[list[int]]) -> tuple[list[ParserEvent], TurnParser]:
    parser = TurnParser(turn.bound, turn.tools, thinking=turn.thinking, make_call_id=lambda: "id")
    marked = MarkedText(turn.bound.ids, tokenizers()[turn.vocabulary_index])
    events = [event for piece in pieces for event in parser.push(marked.push(piece))]
    return joined([*events, *parser.finish()]), parser


def joined(events: list[ParserEvent]) -> list[ParserEvent]:
    """Merge neighbouring deltas of the same thing."""
    merged: list[ParserEvent] = []
    for event in events:
        last = merged[-1] if merged else None
        if isinstance(event, TextDelta) and isinstance(last, TextDelta):
            merged[-1] = TextDelta(last.text + event.text)
        elif isinstance(event, ReasoningDelta) and isinstance(last, ReasoningDelta):
            merged[-1] = ReasoningDelta(last.text + event.text)
        elif (
            isinstance(event, ToolCallDelta)
            and isinstance(last, ToolCallDelta)
            and event.name is None
            and last.name is None
        ):
            merged[-1] = ToolCallDelta(last.index, None, last.arguments + event.arguments)
        else:
            merged.append(event)
    return merged


def check(number: int, seed: int = 0, *, every_split: bool = False) -> None:
    rng = random.Random(seed << 40 | number)
    check_turn(draw_turn(rng), rng, every_split=every_split)


def main() -> int:
    """Parse the arguments, run, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.turns", description=__doc__)
    parser.add_argument("--executions", type=int, default=10_000)
    parser.add_argument("--every-split", type=int, default=300, help="so many at every cut")
    parser.add_argument("--first", type=int, default=0, help="number of the first execution")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for number in range(options.first, options.first + options.executions):
        try:
            check(number, options.seed, every_split=number - options.first < options.every_split)
        except Exception:
            logger.exception("finding; repeat: --seed %d --first %d", options.seed, number)
            return 1
    logger.info("no finding in %d turns", options.executions)
    return 0


if __name__ == "__main__":
    sys.exit(main())
