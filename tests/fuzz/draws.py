"""Random legal tokens under the grammar of every wire format, read by its parser.

The parser follows whatever is legal to the end of the turn; a call is valid, or refused with a
reason, and of a tool that is decoded strictly none is refused.
Run as `python -m tests.fuzz.draws`; a finding prints how to repeat it.
"""

from __future__ import annotations

import argparse
import functools
import logging
import random
import sys
from collections import Counter
from dataclasses import dataclass, field, replace

import jsonschema

from runtime.chat.grammars import Grammars, TurnGrammar
from runtime.chat.messages import ReasoningDelta, TextDelta, ToolCallDelta, ToolChoice
from runtime.chat.parser import MarkedText, ParserEvent, TurnParser, load_arguments
from runtime.chat.turn import check_arguments
from runtime.chat.wire_formats.families import WIRE_FORMATS
from runtime.chat.wire_formats.format import BoundFormat, Thinking, bind
from runtime.chat.wire_formats.grammar import TurnShape
from runtime.chat.wire_formats.openai import HARMONY
from runtime.errors import UnsupportedSchemaError
from tests.fuzz.schemas import draw_tool
from tests.fuzz.turns import THINK, tokenizers
from tests.helpers.vocabularies import allowed_ids
from tools.spec import ToolSpec

logger = logging.getLogger("fuzz")

MAX_TOKENS = 160
CHOICES = (ToolChoice(), ToolChoice("required"), ToolChoice("required", parallel=False))
CLOSING = frozenset('"}]>\n,')
"""How texts begin that often end something: drawn more often, or few values would end."""


@functools.cache
def grammars(name: str, index: int) -> tuple[BoundFormat, Grammars]:
    """A format in one of the vocabularies of `tokenizers`."""
    wire = next(one for one in WIRE_FORMATS if one.name == name)
    tokenizer = tokenizers()[index]
    reasoning = wire.reasoning or THINK
    texts = (*wire.markers, reasoning.opens, reasoning.closes)
    ids = {text: tokenizer.special_ids[text] for text in texts if text in tokenizer.special_ids}
    bound = bind(replace(wire, reasoning=reasoning), ids)
    return bound, Grammars(bound, tokenizer, tokenizer.eos_id)


@dataclass
class Drawn:
    """A turn as it was drawn, and what the parser made of it."""

    parser: TurnParser
    events: list[ParserEvent] = field(default_factory=list)
    is_over: bool = False


def check(number: int, seed: int = 0) -> Counter[str]:
    """Draw a turn and raise AssertionError where the parser does not follow; say what came."""
    rng = random.Random(seed << 40 | number)
    wire = rng.choice(WIRE_FORMATS)
    index = 0 if wire is HARMONY else rng.randrange(2)
    bound, compiler = grammars(wire.name, index)
    tools = tuple(draw_tool(rng, at, uncarried=0.15) for at in range(rng.randrange(1, 4)))
    supports = compiler.support_of(tools)
    tools = tuple(tool for tool in tools if supports[tool.name].level != "refused")
    seen = Counter({f"{one.level} tools": 1 for one in supports.values()})
    assert bound.wire.reasoning is not None
    thinking = rng.choice((None, Thinking(bound.wire.reasoning, is_open=rng.random() < 0.5)))
    choice = rng.choice(CHOICES) if tools else CHOICES[0]
    try:
        grammar = compiler.compile(tools, TurnShape(choice, thinking=thinking))
    except UnsupportedSchemaError as exc:
        raise AssertionError(f"{wire.name}: what is supported cannot be compiled") from exc
    if grammar is None:
        return seen
    drawn = draw(rng, bound, index, tools, grammar, thinking)
    check_drawn(drawn, tools, grammar, choice)
    seen[wire.name] += len(drawn.parser.calls)
    seen["calls"] += len(drawn.parser.calls)
    seen["rejected"] += drawn.parser.rejected is not None
    seen["over"] += drawn.is_over
    return seen


def draw(
    rng: random.Random,
    bound: BoundFormat,
    index: int,
    tools: tuple[ToolSpec, ...],
    grammar: TurnGrammar,
    thinking: Thinking | None,
) -> Drawn:
    tokenizer = tokenizers()[index]
    text = MarkedText(bound.ids, tokenizer)
    parser = TurnParser(bound, tools, thinking=thinking, held=grammar.held, check=check_arguments)
    drawn = Drawn(parser)
    constraint = grammar.constraint(MAX_TOKENS)
    num_taken = 0
    while num_taken <= MAX_TOKENS:
        allowed = sorted(allowed_ids(constraint, tokenizer.vocab_size))
        closing = [one for one in allowed if tokenizer.decode([one])[:1] in CLOSING]
        markers = [one for one in allowed if one in bound.ids.values()]
        chosen = [rng.choice(rng.choice([allowed, closing or allowed, markers or allowed]))]
        if run := constraint.forced():
            chosen = run
        count = constraint.advance(chosen)
        if count == 0:
            chosen = constraint.forced()
            count = constraint.advance(chosen)
        if count == 0:
            has_budget = num_taken < MAX_TOKENS and constraint.is_guaranteed
            assert not has_budget or constraint.state == "accepting", "nothing can be said"
            break
        num_taken += count
        said = [one for one in chosen[:count] if one not in tokenizer.stop_ids]
        drawn.events += parser.push(text.push(said))
        drawn.is_over = constraint.state == "done"
        if drawn.is_over or parser.rejected is not None:
            break
    drawn.events += parser.push(text.flush()) + parser.finish()
    return drawn


def check_drawn(
    drawn: Drawn, tools: tuple[ToolSpec, ...], grammar: TurnGrammar, choice: ToolChoice
) -> None:
    parser = drawn.parser
    by_name = {tool.name: tool for tool in tools}
    for call in parser.calls:
        jsonschema.validate(call.arguments, by_name[call.name].input_schema)
    if parser.rejected is not None:
        assert parser.rejected.call.name in grammar.held, parser.rejected
        assert parser.rejected.problem.message
    elif drawn.is_over:
        assert not parser.is_cut
        assert parser.calls or choice.mode != "required"
    written = [""] * (len(parser.calls) + 1)
    for event in drawn.events:
        if isinstance(event, ToolCallDelta):
            written[event.index] += event.arguments
    told = [load_arguments(text) for text in written[: len(parser.calls)]]
    assert told == [call.arguments for call in parser.calls]
    texts = [event.text for event in drawn.events if isinstance(event, TextDelta)]
    thoughts = [event.text for event in drawn.events if isinstance(event, ReasoningDelta)]
    assert ("".join(texts), "".join(thoughts)) == (parser.text, parser.reasoning)


def main() -> int:
    """Parse the arguments, run, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.draws", description=__doc__)
    parser.add_argument("--executions", type=int, default=2_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first execution")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    seen = Counter[str]()
    for number in range(options.first, options.first + options.executions):
        try:
            seen += check(number, options.seed)
        except Exception:
            logger.exception("finding; repeat: --seed %d --first %d", options.seed, number)
            return 1
    logger.info("no finding in %d turns: %s", options.executions, dict(seen))
    return 0


if __name__ == "__main__":
    sys.exit(main())
