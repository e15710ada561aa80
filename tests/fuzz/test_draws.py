"""Tests of random legal tokens in every wire format: a short run finds nothing, and reaches all."""

from __future__ import annotations

from collections import Counter

import pytest

from runtime.chat.wire_formats.families import WIRE_FORMATS
from tests.fuzz.draws import check


@pytest.mark.slow
def test_whatever_is_drawn_is_read_and_is_valid_or_refused_with_a_reason() -> None:
    seen = Counter[str]()
    for number in range(250):
        seen += check(number)
    levels = ("strict tools", "coerced tools", "lenient tools")
    names = [wire.name for wire in WIRE_FORMATS]
    assert [one for one in (*names, *levels, "rejected", "over") if not seen[one]] == []
    assert seen["calls"] > 150
