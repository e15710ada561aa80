"""Tests of temperatures of single arguments."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.chat.cursor import JsonCursor, TurnCursor
from runtime.chat.messages import ToolCall
from runtime.chat.parser import MarkedText, TurnParser
from runtime.chat.tempered import TemperedConstraint, temperatures_of
from runtime.chat.wire_formats.families import WIRE_FORMATS
from runtime.chat.wire_formats.format import WireFormat, bind
from runtime.chat.wire_formats.render import write_calls
from runtime.chat.wire_formats.schemas import ITEM, Path
from runtime.grammar.constraint import Constraint, ConstraintState
from tests.helpers.tiny_tokenizer import tiny_tokenizer
from tools.errors import InvalidRequestError
from tools.spec import ToolSpec

TEXT = {"type": "string"}
WRITE = ToolSpec(
    "write",
    "",
    {
        "type": "object",
        "properties": {
            "path": {**TEXT, "x-temperature": 0},
            "text": {**TEXT, "x-temperature": 1.5},
            "tags": {"type": "array", "items": {**TEXT, "x-temperature": 0.5}},
            "mode": TEXT,
        },
    },
)
ARGUMENTS = {"path": "P", "text": "T", "tags": ["G", "H"], "mode": "M"}
EXPECTED = {"P": 0.0, "T": 1.5, "G": 0.5, "H": 0.5, "M": None, "w": None}


@dataclass
class Anything:
    """Takes every token."""

    taken: list[int] = field(default_factory=list)
    state: ConstraintState = "open"

    def fill(self, token_bitmask: npt.NDArray[np.int32], row: int) -> None:
        token_bitmask[row] = -1

    def advance(self, token_ids: Sequence[int]) -> int:
        self.taken += token_ids
        return len(token_ids)

    def forced(self) -> list[int]:
        return []

    def rollback(self, num_tokens: int) -> None:
        del self.taken[len(self.taken) - num_tokens :]

    def fork(self) -> Constraint:
        return Anything(list(self.taken))


def test_temperatures_are_found_at_every_depth() -> None:
    assert temperatures_of(WRITE) == {("path",): 0.0, ("text",): 1.5, ("tags", ITEM): 0.5}


@pytest.mark.parametrize("value", [-1, 2.1, "hot", True, None])
def test_temperature_out_of_range_is_refused(value: object) -> None:
    schema = {"properties": {"a": {"x-temperature": value}}}
    with pytest.raises(InvalidRequestError, match=r"tool 't': x-temperature at \$\.a must be"):
        temperatures_of(ToolSpec("t", "", schema))


@pytest.mark.parametrize("wire_format", WIRE_FORMATS, ids=lambda one: one.name)
def test_each_argument_has_its_own_temperature_in_every_format(wire_format: WireFormat) -> None:
    tokenizer = tiny_tokenizer(*wire_format.markers)
    bound = bind(wire_format, {text: tokenizer.special_ids[text] for text in wire_format.markers})
    written = write_calls(wire_format, [ToolCall("000000000", "write", ARGUMENTS)])
    token_ids = tokenizer.encode(written, parse_special=True)
    constraint = TemperedConstraint(
        Anything(),
        {"write": temperatures_of(WRITE)},
        TurnCursor(lambda: (TurnParser(bound, [WRITE]), MarkedText(bound.ids, tokenizer))),
    )
    seen: dict[str, float | None] = {}
    draw, position = random.Random(0), 0
    while position < len(token_ids):
        text = tokenizer.decode([token_ids[position]])
        seen.setdefault(text, constraint.temperature)  # at which the token is drawn
        if draw.random() < 0.3:
            constraint = constraint.fork()
        if position and draw.random() < 0.3:
            back = draw.randrange(1, position + 1)
            constraint.rollback(back)
            constraint.advance(token_ids[position - back : position])
        constraint.advance([token_ids[position]])
        position += 1
    assert {text: seen[text] for text in EXPECTED if text in seen} == EXPECTED | {"w": None}
    assert constraint.temperature is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(max_examples=100)
@given(st.dictionaries(st.text(max_size=20), JSON, min_size=1, max_size=8))
def test_cursor_knows_the_path_of_every_scalar(value: dict[str, object]) -> None:
    cursor, found = JsonCursor(), []
    for char in json.dumps(value, ensure_ascii=False):
        cursor.push(char)
        found.append(cursor.path)
    assert set(paths_of(value, ())) <= set(found)
    assert cursor.path == ()


def paths_of(value: object, path: Path) -> list[Path]:
    if isinstance(value, dict):
        return [one for name, item in value.items() for one in paths_of(item, (*path, name))]
    if isinstance(value, list):
        return [one for item in value for one in paths_of(item, (*path, ITEM))]
    return [path]
