"""Which numbers of a schema the grammar compiler gets right, and in which form."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

# The compiler computes with 64-bit floats.
MAX_EXACT_NUMBER = 2**53


def exact_divisor(value: float) -> int | None:
    """The compiler's whole-number form of a divisor, or None where it would get it wrong."""
    exact, scaled, exponent = Decimal(str(value)), float(value), 0
    while scaled % 1 and exponent < 20:
        scaled *= 10
        exponent += 1
    is_right = exact.scaleb(exponent) == Decimal(scaled)
    return int(scaled) if is_right and scaled < 2**32 else None


def plain_numbers(value: Any) -> Any:
    """Write whole numbers as integers, which is how the grammar spells them.

    Raises:
        OverflowError: a number that 64-bit floats do not hold exactly.
    """
    if isinstance(value, list):
        return [plain_numbers(item) for item in value]
    if isinstance(value, dict):
        return {name: plain_numbers(item) for name, item in value.items()}
    if not is_number(value):
        return value
    if abs(value) > MAX_EXACT_NUMBER:
        raise OverflowError(value)
    return int(value) if value == int(value) else value


def is_number(value: Any) -> bool:
    """Whether JSON calls `value` a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
