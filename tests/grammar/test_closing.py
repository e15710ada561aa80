"""Tests of constraints that leave room for an end, driven as the engine drives them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import jsonschema
import numpy as np
import pytest

from runtime.grammar.closing import BudgetedConstraint
from runtime.grammar.compile import (
    CompiledGrammar,
    GrammarSource,
    compile_grammar,
    from_json_schema,
)
from runtime.grammar.constraint import Constraint
from runtime.grammar.end_finder import EndFinder
from runtime.grammar.lengths import longest_chars
from tests.helpers.tiny_tokenizer import tiny_tokenizer
from tests.helpers.vocabularies import allowed_ids, vocabulary_of

TOKENIZER = tiny_tokenizer("<quote>")
VOCABULARY = vocabulary_of(TOKENIZER)
FINDER = EndFinder(VOCABULARY, ("\n</p>\n",))

Choose = Callable[[list[int]], int]


def closed(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        "additionalProperties": False,
    }


def list_of(items: dict[str, Any], **bounds: int) -> dict[str, Any]:
    return {"type": "array", "items": items, **bounds}


def recursive(node: dict[str, Any]) -> dict[str, Any]:
    return {"$ref": "#/$defs/node", "$defs": {"node": node}}


NODE = {"$ref": "#/$defs/node"}
COSTLY = closed(
    {f"field_{i}": list_of({"type": "string", "minLength": 3}, minItems=2) for i in (1, 2, 3)}
)
SCHEMAS: dict[str, dict[str, Any]] = {
    "text": {"type": "string"},
    "anything": {},
    "long text": {"type": "string", "minLength": 30},
    "text of one length": {"type": "string", "minLength": 20, "maxLength": 20},
    "number": {"type": "number", "exclusiveMinimum": 0},
    "enum": {"enum": ["celsius degrees of the year", "kelvin", "a b c d e f"]},
    "weather": closed(
        {
            "city": {"type": "string", "minLength": 1},
            "unit": {"enum": ["celsius", "fahrenheit"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
        }
    ),
    "order": closed(
        {
            "id": {"type": "string", "format": "uuid"},
            "mail": {"type": "string", "format": "email"},
            "sku": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
            "rows": list_of(closed({"n": {"type": "integer"}}), minItems=2),
        }
    ),
    "tree": recursive(closed({"v": {"type": "integer"}, "kids": list_of(NODE)})),
    "costly way": recursive(
        closed({"aa_long": NODE, "b": NODE, "mid": {"type": "boolean"}, "zz": NODE}, ["mid"])
    ),
    "lists of lists": {"type": "array", "items": {"$ref": "#"}},
    "pattern with an end": {"type": "string", "pattern": "^[a-z]+;x$"},
    "pattern with a loop": {"type": "string", "pattern": "^(ab)+c{3}$"},
    "map": {"type": "object", "additionalProperties": {"type": "string"}, "minProperties": 1},
    "any of": {
        "anyOf": [closed({"k": {"const": "x"}, "deep": COSTLY}), closed({"k": {"const": "y"}})]
    },
    "costly option": closed({"small": {"type": "string"}, "option": list_of(COSTLY)}, ["small"]),
}
LARK = {
    "text or call": 'start: TEXT | lead "{" /[0-9]{3}/ "}"\nlead[suffix="<call>"]: TEXT\n'
    "TEXT: /(?s:.*)/ & ~/(?s:.*)<call>(?s:.*)/",
    "raw text": 'start: "<p>" raw "done"\nraw[suffix="\\n</p>\\n"]: /(?s:.*)/',
    "special token": f'start: "<p>" /(?s:.*)/ <[{TOKENIZER.special_ids["<quote>"]}]> "x"',
}
SOURCES = {name: from_json_schema(schema) for name, schema in SCHEMAS.items()}
SOURCES |= {name: GrammarSource("lark", text) for name, text in LARK.items()}
GRAMMARS = {name: compile_grammar(source, VOCABULARY) for name, source in SOURCES.items()}


def budgeted(grammar: CompiledGrammar, max_tokens: int) -> BudgetedConstraint:
    name = next((name for name, one in GRAMMARS.items() if one is grammar), "")
    schema = SCHEMAS.get(name)
    longest = longest_chars(schema) if isinstance(schema, dict) else 0
    end = FINDER.get_end(grammar)
    return BudgetedConstraint(grammar.constraint(), max_tokens, FINDER, end, longest=longest)


def take(constraint: Constraint, text: str) -> None:
    token_ids = TOKENIZER.encode(text)
    assert constraint.advance(token_ids) == len(token_ids)


def generate(constraint: BudgetedConstraint, choose: Choose) -> list[int]:
    """Draw as the engine does; return the tokens without the end of the turn."""
    output: list[int] = []

    def force() -> bool:
        run = constraint.forced()[: constraint.num_left]
        assert constraint.advance(run) == len(run)
        output.extend(run)
        return bool(run)

    force()
    while constraint.num_left and constraint.state != "done":
        assert len(constraint.end) <= constraint.num_left
        token_id = choose(sorted(allowed_ids(constraint, VOCABULARY.vocab_size)))
        if constraint.advance([token_id]):
            output.append(token_id)
        elif not force():
            break
        force()
    return [token_id for token_id in output if token_id not in VOCABULARY.stop_ids]


def at_random(seed: int) -> Choose:
    return random.Random(seed).choice


def most_opening(_: int) -> Choose:
    """Open as much as one token can, else say as much as one token can."""

    def score(token_id: int) -> tuple[bool, int, int]:
        text = VOCABULARY.texts.get(token_id)
        return bool(text), sum(text.count(sign) for sign in b'{[,"'), len(text)

    return lambda token_ids: max(token_ids, key=score)


def never_closing(seed: int) -> Choose:
    draw = random.Random(seed)

    def choose(token_ids: list[int]) -> int:
        texts = {token_id: VOCABULARY.texts.get(token_id) for token_id in token_ids}
        going_on = [at for at, text in texts.items() if text and not set(b'"}]') & set(text)]
        return draw.choice(going_on or token_ids)

    return choose


@pytest.mark.parametrize("policy", [at_random, most_opening, never_closing])
@pytest.mark.parametrize("name", GRAMMARS)
def test_outputs_are_complete_at_every_limit(name: str, policy: Callable[[int], Choose]) -> None:
    grammar = GRAMMARS[name]
    end = FINDER.get_end(grammar)
    assert end is not None
    for max_tokens in [*range(len(end), len(end) + 20), *range(len(end) + 20, len(end) + 150, 26)]:
        output = generate(budgeted(grammar, max_tokens), policy(max_tokens))
        assert len(output) <= max_tokens
        check = grammar.constraint()
        taken = check.advance(output)
        assert (taken, check.state) == (len(output), "accepting")
        if name in SCHEMAS:
            text = b"".join(VOCABULARY.texts.get(token_id) for token_id in output)
            jsonschema.validate(json.loads(text), SCHEMAS[name])


@pytest.mark.parametrize("name", ["long text", "tree", "lists of lists", "map", "raw text"])
def test_the_same_walks_end_half_way_when_nothing_is_guaranteed(name: str) -> None:
    grammar = GRAMMARS[name]
    constraint = BudgetedConstraint(grammar.constraint(), 60, FINDER, None)
    output = generate(constraint, never_closing(1))
    assert not constraint.is_guaranteed
    assert (len(output), constraint.state) == (60, "open")


def test_a_limit_below_the_shortest_end_is_not_guaranteed() -> None:
    grammar = GRAMMARS["weather"]
    end = FINDER.get_end(grammar)
    assert end is not None
    assert [budgeted(grammar, len(end) - less).is_guaranteed for less in (0, 1)] == [True, False]


def test_what_opens_more_than_fits_is_refused_and_an_end_dictated() -> None:
    schema = closed({"small": {"type": "string"}, "option": COSTLY}, ["small"])
    grammar = compile_grammar(from_json_schema(schema), VOCABULARY)
    refused: list[int] = []
    for max_tokens in range(12, 100):
        constraint = budgeted(grammar, max_tokens)
        take(constraint, '{"small":"a"')
        if constraint.advance(TOKENIZER.encode(",")) == 1:
            assert len(constraint.end) <= constraint.num_left
            continue
        refused.append(max_tokens)
        assert (constraint.state, constraint.forced()) == ("open", TOKENIZER.encode("}"))
        take(constraint, "}")
        assert constraint.state == "accepting"
    # Everything up to the tokens of the costly property is too little for its comma.
    assert refused == list(range(12, refused[-1] + 1))
    assert len(TOKENIZER.encode('{"small":"a","option":{"')) + 3 * 9 < refused[-1] < 90


def test_nothing_is_dictated_where_the_output_is_complete_and_more_does_not_fit() -> None:
    grammar = GRAMMARS["text or call"]
    opened = len(TOKENIZER.encode("hi <call>"))
    constraint = budgeted(grammar, opened + len("{123"))
    take(constraint, "hi <call")
    assert constraint.advance(TOKENIZER.encode(">")) == 0
    assert (constraint.state, constraint.forced()) == ("accepting", [])
    take(budgeted(grammar, opened + len("{123}")), "hi <call>")


def test_what_the_search_cannot_close_may_be_said_far_from_the_limit_only() -> None:
    # The raw text ends with a marker that nobody names to the finder.
    raw = 'start: TEXT | lead raw "done"\nlead[suffix="<call>"]: TEXT\n'
    raw += 'TEXT: /(?s:.*)/ & ~/(?s:.*)<call>(?s:.*)/\nraw[suffix="</secret>"]: /(?s:.*)/'
    grammar = compile_grammar(GrammarSource("lark", raw), VOCABULARY)
    near, far = budgeted(grammar, 60), budgeted(grammar, 400)
    take(near, "hi <call")
    assert near.advance(TOKENIZER.encode(">")) == 0
    assert (near.state, near.forced(), near.is_guaranteed) == ("accepting", [], True)
    take(far, "hi <call>" + "any " * 60)
    assert (far.state, far.is_guaranteed) == ("open", False)
    take(far, "</secret>d")
    take(far, "one")
    assert far.state == "accepting"


def test_rollback_gives_tokens_back_and_forks_count_for_themselves() -> None:
    constraint = budgeted(GRAMMARS["text"], 12)
    opening = TOKENIZER.encode('"abc')
    assert constraint.advance(opening) == 4
    seen = (constraint.num_left, constraint.end)
    fork = constraint.fork()
    filler = TOKENIZER.encode("hhhhhhhhhhhh")
    assert fork.advance(filler) == 7
    assert (constraint.num_left, constraint.end) == seen
    assert fork.forced() == TOKENIZER.encode('"')
    fork.rollback(7)
    assert (fork.num_left, fork.end) == seen
    assert fork.forced() == []
    assert fork.advance(filler) == 7
    fork.rollback(11)
    assert (fork.num_left, fork.advance(opening)) == (12, 4)


def test_random_walks_with_rollback_keep_an_end_that_fits() -> None:
    grammar = GRAMMARS["tree"]
    for seed in range(15):
        draw = random.Random(seed)
        constraint = budgeted(grammar, 40)
        for _ in range(60):
            taken = 40 - constraint.num_left
            if taken and draw.random() < 0.2:
                constraint.rollback(draw.randrange(1, taken + 1))
            elif constraint.num_left and constraint.state != "done":
                allowed = sorted(allowed_ids(constraint, VOCABULARY.vocab_size))
                constraint.advance([draw.choice(allowed)]) or constraint.advance(
                    constraint.forced()
                )
            check = constraint.fork()
            assert len(constraint.end) <= constraint.num_left
            assert check.advance(constraint.end) == len(constraint.end)
            assert check.state in {"accepting", "done"}


def test_end_token_counts_nothing_and_is_forced_where_nothing_else_may_follow() -> None:
    grammar = GRAMMARS["enum"]
    end = FINDER.get_end(grammar)
    assert end is not None
    for num_over in (0, 1):
        constraint = budgeted(grammar, len(end) + num_over)
        assert constraint.advance(end) == len(end)
        assert constraint.forced() == [VOCABULARY.eos_id]
        assert constraint.advance([VOCABULARY.eos_id]) == 1
        assert (constraint.state, constraint.num_left) == ("done", 0)
        constraint.rollback(1)
        assert (constraint.state, constraint.num_left) == ("accepting", num_over)
        assert constraint.advance(TOKENIZER.encode("a")) == 0


def test_masks_are_those_of_the_inner_constraint() -> None:
    grammar = GRAMMARS["weather"]
    inner, outer = grammar.constraint(), budgeted(grammar, 50)
    for constraint in (inner, outer):
        take(constraint, '{"city":"a')
    rows = np.zeros((2, VOCABULARY.num_mask_words), dtype=np.int32)
    inner.fill(rows, 0)
    outer.fill(rows, 1)
    assert (rows[0] == rows[1]).all()
