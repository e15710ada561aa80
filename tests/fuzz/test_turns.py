"""Tests of turns in every wire format: a short run finds nothing, and reaches every format."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from runtime.chat.wire_formats.families import WIRE_FORMATS
from tests.fuzz.turns import check, draw_turn


@pytest.mark.parametrize("first", range(0, 300, 25))
def test_turns_are_read_as_they_were_written_at_every_cut(first: int) -> None:
    for number in range(first, first + 25):
        check(number, every_split=True)


def test_drawn_turns_reach_every_format_and_number_of_calls() -> None:
    drawn = Counter[object]()
    for number in range(500):
        turn = draw_turn(random.Random(number))
        drawn[turn.bound.wire.name] += len(turn.calls) > 0
        drawn[len(turn.calls)] += 1
        drawn["thoughts"] += turn.reasoning != ""
    assert min(drawn[one] for one in (*(wire.name for wire in WIRE_FORMATS), 0, 1, 2, 3)) > 5
    assert drawn["thoughts"] > 100
