"""Tests of the constraint over llguidance."""

from __future__ import annotations

import random

import llguidance
import numpy as np

from runtime.grammar.compile import GrammarSource, compile_grammar, from_json_schema
from runtime.grammar.matcher import MatcherConstraint
from tests.helpers.tiny_tokenizer import tiny_tokenizer
from tests.helpers.vocabularies import allowed_ids, vocabulary_of

TOKENIZER = tiny_tokenizer()
VOCABULARY = vocabulary_of(TOKENIZER)
ENDOFTEXT_ID = TOKENIZER.special_ids["<|endoftext|>"]


def constraint_of(lark: str) -> MatcherConstraint:
    return compile_grammar(GrammarSource("lark", lark), VOCABULARY).constraint()


def test_fill_allows_exactly_the_tokens_that_advance_takes() -> None:
    constraint = constraint_of('start: "na" ("me" | "n")')
    legal = {i for i in range(VOCABULARY.vocab_size) if constraint.fork().advance([i]) == 1}
    assert allowed_ids(constraint, VOCABULARY.vocab_size) == legal
    assert set(TOKENIZER.encode("name")) <= legal


def test_every_stop_token_ends_the_output_and_nothing_follows_it() -> None:
    for stop_id in (TOKENIZER.eos_id, ENDOFTEXT_ID):
        constraint = constraint_of('start: "a" "b"?')
        assert constraint.advance([stop_id]) == 0
        assert constraint.advance([*TOKENIZER.encode("a"), stop_id, stop_id]) == 2
        assert constraint.state == "done"
        assert constraint.forced() == []
        assert allowed_ids(constraint, VOCABULARY.vocab_size) == set()


def test_state_follows_the_output() -> None:
    constraint = constraint_of('start: "a" "b"?')
    states = [constraint.state]
    for token_id in [*TOKENIZER.encode("a"), TOKENIZER.eos_id]:
        constraint.advance([token_id])
        states.append(constraint.state)
    assert states == ["open", "accepting", "done"]


def test_illegal_token_is_not_taken_and_harms_nothing() -> None:
    constraint = constraint_of('start: "abc"')
    assert constraint.advance(TOKENIZER.encode("ax")) == 1
    assert constraint.advance([VOCABULARY.vocab_size + 5, -1]) == 0
    assert constraint.state == "open"
    assert constraint.advance(TOKENIZER.encode("bc")) == 2


def test_forced_tokens_are_canonical_and_reach_the_end_of_turn() -> None:
    constraint = constraint_of(r'start: "{\"name\": \"get_time\"}"')
    forced = constraint.forced()
    assert forced == TOKENIZER.encode('{"name": "get_time"}')[: len(forced)]
    while constraint.state != "done":
        run = constraint.forced()
        assert constraint.advance(run) == len(run) > 0


def test_counting_legal_tokens_takes_none() -> None:
    constraint = constraint_of('start: "ab" ("c" "d")?')
    for said in ("", "a", "ab", "abc", "abcd"):
        for text in ("abcdx", "bc", "cd", "d", ""):
            for end in ([], [TOKENIZER.eos_id], [ENDOFTEXT_ID], [ENDOFTEXT_ID, TOKENIZER.eos_id]):
                token_ids = [*TOKENIZER.encode(text), *end]
                copy = constraint.fork()
                copy.advance(TOKENIZER.encode(said))
                count = copy.count_legal(token_ids)
                assert count == copy.count_legal(token_ids) == copy.advance(token_ids)


def test_rollback_undoes_tokens_and_the_end() -> None:
    constraint = constraint_of('start: "a" ("bc" | "d")')
    before = allowed_ids(constraint, VOCABULARY.vocab_size)
    assert constraint.advance([*TOKENIZER.encode("abc"), TOKENIZER.eos_id]) == 4
    constraint.rollback(1)
    assert constraint.state == "accepting"
    constraint.rollback(2)
    assert constraint.advance([*TOKENIZER.encode("d"), TOKENIZER.eos_id]) == 2
    constraint.rollback(3)
    assert allowed_ids(constraint, VOCABULARY.vocab_size) == before


def test_fork_is_independent() -> None:
    constraint = constraint_of('start: "ab"')
    fork = constraint.fork()
    assert fork.advance(TOKENIZER.encode("ab")) == 2
    assert constraint.advance(TOKENIZER.encode("ab")) == 2


def test_error_while_decoding_is_a_state_that_allows_nothing() -> None:
    # Parsed, but without a sentence: the matcher notices when it fills its first mask.
    grammar = llguidance.LLMatcher.grammar_from_json_schema({"$ref": "#"})
    matcher = llguidance.LLMatcher(VOCABULARY.tokenizer, grammar, log_level=0)
    constraint = MatcherConstraint(matcher, VOCABULARY)
    states = [constraint.state]
    for _ in range(2):
        assert allowed_ids(constraint, VOCABULARY.vocab_size) == set()
        states.append(constraint.state)
    assert states == ["open", "failed", "failed"]
    assert constraint.error
    assert constraint.forced() == []
    assert constraint.advance([TOKENIZER.eos_id]) == 0
    assert constraint.fork().state == "failed"


def test_rows_wider_than_the_vocabulary_are_cleared_and_others_untouched() -> None:
    constraint = constraint_of('start: "a"')
    mask = np.full((3, VOCABULARY.num_mask_words + 2), 7, dtype=np.int32)
    constraint.fill(mask, 1)
    assert (mask[[0, 2]] == 7).all()
    assert (mask[1, VOCABULARY.num_mask_words :] == 0).all()


def test_random_walks_with_rollback_see_the_same_masks_again() -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["rome", "oslo"]}, "n": {"type": "integer"}},
        "required": ["city"],
        "additionalProperties": False,
    }
    grammar = compile_grammar(from_json_schema(schema), VOCABULARY)
    for seed in range(20):
        draw = random.Random(seed)
        constraint = grammar.constraint()
        masks = [allowed_ids(constraint, VOCABULARY.vocab_size)]
        for _ in range(40):
            if len(masks) > 1 and draw.random() < 0.3:
                count = draw.randrange(1, len(masks))
                constraint.rollback(count)
                del masks[-count:]
            elif constraint.state != "done":
                assert constraint.advance([draw.choice(sorted(masks[-1]))]) == 1
                masks.append(allowed_ids(constraint, VOCABULARY.vocab_size))
            assert allowed_ids(constraint, VOCABULARY.vocab_size) == masks[-1]
            assert constraint.state != "failed"


def test_forced_text_that_spells_a_special_token_is_not_forced_as_that_token() -> None:
    tokenizer = tiny_tokenizer("</value>")
    source = GrammarSource("lark", 'start: "say </value> now"')
    constraint = compile_grammar(source, vocabulary_of(tokenizer)).constraint()
    said: list[int] = []
    while constraint.state == "open":
        run = constraint.forced() or [min(allowed_ids(constraint, tokenizer.vocab_size))]
        assert constraint.advance(run) == len(run)
        said += run
    assert tokenizer.special_ids["</value>"] not in said
    assert tokenizer.decode(said) == "say </value> now"
