"""Tests of outputs that must not say again what was wrong."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from typing import Any

import pytest

from runtime.grammar.ban import BannedConstraint
from runtime.grammar.closing import BudgetedConstraint
from runtime.grammar.compile import GrammarSource, compile_grammar, from_json_schema
from runtime.grammar.constraint import Constraint
from runtime.grammar.end_finder import EndFinder
from runtime.tokenizer import load_tokenizer
from tests.helpers.tiny_sentencepiece import tiny_sentencepiece
from tests.helpers.tiny_tokenizer import tiny_tokenizer
from tests.helpers.vocabularies import allowed_ids, vocabulary_of

MERGED = tiny_tokenizer()
VOCABULARIES = {
    "merged": vocabulary_of(MERGED),
    "pieces": vocabulary_of(load_tokenizer(tiny_sentencepiece())),
}
VOCABULARY = VOCABULARIES["merged"]
VALUES: dict[str, tuple[dict[str, Any], list[bytes], int]] = {
    "enum member": ({"enum": ["cat", "can", "c"]}, [b'"can"'], 2),
    "all but one": ({"enum": ["cat", "can", "c"]}, [b'"can"', b'"c"'], 1),
    "short string": ({"type": "string", "pattern": "^[an]{1,3}$"}, [b'"an"'], 13),
    "string that another starts with": ({"enum": ["a", "an", "and"]}, [b'"an"'], 2),
    "number": ({"type": "integer", "minimum": 0, "maximum": 130}, [b"12"], 130),
    "two numbers": ({"type": "integer", "minimum": 0, "maximum": 130}, [b"1", b"12"], 129),
    "number without a longer one": ({"enum": [12, 13, 7]}, [b"12"], 2),
    "negative number": ({"enum": [-1, -12, 1]}, [b"-1"], 2),
    "literal": ({"enum": [True, False, None]}, [b"true"], 2),
    "object": (
        {
            "type": "object",
            "properties": {"a": {"enum": [1, 2]}, "b": {"enum": [1, 2]}},
            "required": ["a"],
            "additionalProperties": False,
        },
        [b'{"a":1}'],
        5,
    ),
    "object with one way on": (
        {
            "type": "object",
            "properties": {"a": {"const": 1}, "b": {"const": 2}},
            "required": ["a"],
            "additionalProperties": False,
        },
        [b'{"a":1}'],
        1,
    ),
    "choice made early": (
        {"anyOf": [{"const": [1, 1, 1]}, {"const": [1, 2, 1]}, {"const": [2]}]},
        [b"[1,1,1]", b"[1,2,1]"],
        1,
    ),
    "list": ({"type": "array", "items": {"enum": [1, 2]}, "maxItems": 2}, [b"[1]", b"[]"], 5),
}


def language(
    constraint: Constraint, vocab_size: int, stop_ids: frozenset[int]
) -> set[tuple[int, ...]]:
    """Every output of a finite language, as tokens without the end."""
    found: set[tuple[int, ...]] = set()
    pending: list[tuple[Constraint, tuple[int, ...]]] = [(constraint.fork(), ())]
    while pending:
        at, said = pending.pop()
        allowed = allowed_ids(at, vocab_size)
        assert allowed, said
        if allowed & stop_ids:
            found.add(said)
        for token_id in allowed - stop_ids:
            ahead = at.fork()
            assert ahead.advance([token_id]) == 1
            pending.append((ahead, (*said, token_id)))
    return found


@pytest.mark.parametrize("kind", VOCABULARIES)
@pytest.mark.parametrize("name", VALUES)
def test_language_is_the_inner_one_without_the_banned_texts(kind: str, name: str) -> None:
    vocabulary = VOCABULARIES[kind]
    schema, banned, num_left = VALUES[name]
    inner = compile_grammar(from_json_schema(schema), vocabulary).constraint()

    def texts(constraint: Constraint) -> dict[tuple[int, ...], bytes]:
        outputs = language(constraint, vocabulary.vocab_size, vocabulary.stop_ids)
        return {ids: b"".join(map(vocabulary.texts.get, ids)) for ids in outputs}

    before = texts(inner)
    assert set(banned) <= set(before.values())
    after = texts(BannedConstraint(inner.fork(), vocabulary, banned))
    assert after == {ids: text for ids, text in before.items() if text not in banned}
    assert len(set(after.values())) == num_left


def test_ban_holds_inside_of_an_output() -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}, "s": {"type": "string"}},
        "required": ["n", "s"],
        "additionalProperties": False,
    }
    inner = compile_grammar(from_json_schema(schema), VOCABULARY).constraint()
    inner.advance(MERGED.encode('{"n":'))
    constraint = BannedConstraint(inner, VOCABULARY, [b"12"])
    assert constraint.advance(MERGED.encode("12,")) == 2
    assert allowed_ids(constraint, VOCABULARY.vocab_size) == set(MERGED.encode("0123456789"))
    rest = MERGED.encode('5,"s":"12"}')
    assert constraint.advance(rest) == len(rest)
    assert constraint.state == "accepting"


def test_what_would_be_forced_stops_before_the_ban() -> None:
    grammar = compile_grammar(GrammarSource("lark", 'start: "na" ("me" | "n") "!"'), VOCABULARY)
    constraint = BannedConstraint(grammar.constraint(), VOCABULARY, [b"name!"])
    said = b""
    while constraint.state != "done":
        run = constraint.forced() or [min(allowed_ids(constraint, VOCABULARY.vocab_size))]
        assert constraint.advance(run) == len(run)
        said += b"".join(map(VOCABULARY.texts.get, run))
    assert said == b"nan!"


def test_state_fails_at_the_start_when_nothing_else_can_be_said() -> None:
    inner = compile_grammar(from_json_schema({"enum": ["cat", "can"]}), VOCABULARY).constraint()
    constraint = BannedConstraint(inner, VOCABULARY, [b'"cat"', b'"can"'])
    assert constraint.state == "failed"
    assert constraint.error == 'nothing may be said here but what was wrong before: "cat", "can"'
    assert allowed_ids(constraint, VOCABULARY.vocab_size) == set()
    assert (constraint.forced(), constraint.advance(MERGED.encode('"'))) == ([], 0)


def test_first_tokens_are_illegal_at_the_start_alone() -> None:
    inner = compile_grammar(GrammarSource("regex", "[ab]{2}"), VOCABULARY).constraint()
    (a,) = MERGED.encode("a")
    (b,) = MERGED.encode("b")
    constraint = BannedConstraint(inner, VOCABULARY, [], [a])
    assert a not in allowed_ids(constraint, VOCABULARY.vocab_size)
    assert constraint.advance([a]) == 0
    assert constraint.advance([b, a]) == 2
    constraint.rollback(2)
    assert constraint.advance([a]) == 0


def test_random_walks_with_rollback_and_forks_see_the_same_masks_again() -> None:
    schema, banned, _ = VALUES["object"]
    grammar = compile_grammar(from_json_schema(schema), VOCABULARY)
    for seed in range(20):
        draw = random.Random(seed)
        constraint = BannedConstraint(grammar.constraint(), VOCABULARY, banned)
        masks = [allowed_ids(constraint, VOCABULARY.vocab_size)]
        for _ in range(30):
            if len(masks) > 1 and draw.random() < 0.3:
                count = draw.randrange(1, len(masks))
                constraint.rollback(count)
                del masks[-count:]
            elif constraint.state != "done":
                assert constraint.advance([draw.choice(sorted(masks[-1]))]) == 1
                masks.append(allowed_ids(constraint, VOCABULARY.vocab_size))
            legal = {i for i in range(VOCABULARY.vocab_size) if constraint.count_legal([i]) == 1}
            taken = {i for i in legal if constraint.fork().advance([i]) == 1}
            assert masks[-1] <= legal == taken
            assert allowed_ids(constraint, VOCABULARY.vocab_size) == masks[-1]


def test_a_ban_and_a_limit_hold_together() -> None:
    schema, banned, _ = VALUES["object"]
    grammar = compile_grammar(from_json_schema(schema), VOCABULARY)
    finder = EndFinder(VOCABULARY)
    inner = BannedConstraint(grammar.constraint(), VOCABULARY, [*banned, b'{"a":2}'])
    end = finder.find_shortest(inner)
    assert end is not None
    for max_tokens in range(len(end), len(end) + 4):
        constraint = BudgetedConstraint(inner.fork(), max_tokens, finder, end)
        draw = random.Random(max_tokens)
        said: list[int] = []
        while constraint.num_left and constraint.state not in {"accepting", "done"}:
            run = constraint.forced() or [
                draw.choice(sorted(allowed_ids(constraint, VOCABULARY.vocab_size)))
            ]
            said += run[: constraint.advance(run)]
        text = b"".join(map(VOCABULARY.texts.get, said))
        assert text in {b'{"a":%d,"b":%d}' % pair for pair in itertools.product((1, 2), (1, 2))}


def test_after_the_first_difference_the_inner_constraint_is_all_there_is() -> None:
    inner = compile_grammar(from_json_schema({"type": "string"}), VOCABULARY).constraint()
    plain, constraint = inner.fork(), BannedConstraint(inner, VOCABULARY, [b'"name"', b'"type"'])
    opening: Sequence[int] = MERGED.encode('"nat')
    assert plain.advance(opening) == constraint.advance(opening) == len(opening)
    assert allowed_ids(plain, VOCABULARY.vocab_size) == allowed_ids(
        constraint, VOCABULARY.vocab_size
    )
    assert constraint.count_legal(MERGED.encode('name"')) == len(MERGED.encode('name"'))


@pytest.mark.parametrize("text", ["x" * 3000, 'a\\"b ' * 500], ids=["plain", "escapes"])
def test_long_text_is_excluded_like_a_short_one(text: str) -> None:
    string = compile_grammar(from_json_schema({"type": "string"}), VOCABULARY).constraint()
    banned = json.dumps(text)
    constraint = BannedConstraint(string, VOCABULARY, [banned.encode()])
    token_ids = MERGED.encode(banned)
    assert constraint.advance(token_ids) == len(token_ids) - 1
    assert constraint.state == "open"


def test_only_way_past_a_long_text_is_found_at_its_start() -> None:
    wrong, right = "x" * 1500 + "a", "x" * 1500 + "b"
    for texts, is_open in (([wrong, right], True), ([wrong], False)):
        source = from_json_schema({"enum": texts})
        inner = compile_grammar(source, VOCABULARY).constraint()
        constraint = BannedConstraint(inner, VOCABULARY, [json.dumps(wrong).encode()])
        assert constraint.state == ("open" if is_open else "failed")
        count = constraint.advance(MERGED.encode(json.dumps(right)))
        assert count == (len(MERGED.encode(json.dumps(right))) if is_open else 0)
