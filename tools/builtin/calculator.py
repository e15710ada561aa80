"""Arithmetic from text: a walk over the syntax tree, never `eval`, with bounded numbers."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from tools.errors import InvalidArgumentsError
from tools.function import FunctionToolset, function_tool
from tools.spec import ToolAnnotations

Number = int | float

_MAX_BITS = 4096  # of an integer: about 1,200 digits
_MAX_CHARACTERS = 400

_CONSTANTS: Mapping[str, float] = {"pi": math.pi, "e": math.e}
_FUNCTIONS: Mapping[str, Callable[..., Number]] = {
    "abs": abs,
    "ceil": math.ceil,
    "cos": math.cos,
    "exp": math.exp,
    "floor": math.floor,
    "log": math.log,
    "max": max,
    "min": min,
    "round": round,
    "sin": math.sin,
    "sqrt": math.sqrt,
    "tan": math.tan,
}
_UNARY: Mapping[type[ast.unaryop], Callable[[Number], Number]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}


def _power(base: Number, exponent: Number) -> Number:
    # Refused before it is computed: 9**9**9 would take all memory.
    if isinstance(base, int) and abs(base).bit_length() * abs(exponent) > _MAX_BITS:
        raise OverflowError
    value = base**exponent
    if isinstance(value, complex):
        raise ValueError(f"{base} ** {exponent} is not a real number")
    return value


_BINARY: Mapping[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}


@dataclass(frozen=True, slots=True)
class Calculation:
    """The value of an expression."""

    result: int | float


def calculator_toolset() -> FunctionToolset:
    """Build the tools."""

    def calculate(
        expression: Annotated[
            str,
            Field(
                description="Numbers, + - * / // % ** ( ), pi, e, sqrt(), round() and the like.",
                max_length=_MAX_CHARACTERS,
            ),
        ],
    ) -> Calculation:
        """Evaluate an arithmetic expression."""
        return Calculation(evaluate(expression))

    hints = ToolAnnotations(read_only=True, idempotent=True, open_world=False)
    return FunctionToolset(function_tool(calculate, annotations=hints))


def evaluate(expression: str) -> Number:
    """Return the value of an arithmetic expression.

    Raises:
        InvalidArgumentsError: it is no arithmetic, has no finite value or gets too large.
    """
    try:
        value = _value(ast.parse(expression.strip(), mode="eval").body)
        if isinstance(value, float) and not math.isfinite(value):
            raise OverflowError
    except (SyntaxError, RecursionError, MemoryError) as exc:
        raise InvalidArgumentsError(f"{expression!r} is not an arithmetic expression") from exc
    except ZeroDivisionError as exc:
        raise InvalidArgumentsError(f"{expression!r} divides by zero") from exc
    except OverflowError as exc:
        raise InvalidArgumentsError(f"the value of {expression!r} is too large") from exc
    except (ValueError, TypeError) as exc:
        raise InvalidArgumentsError(f"{expression!r}: {exc}") from exc
    return value


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            result: Number = value
        case ast.Name(id=name) if name in _CONSTANTS:
            result = _CONSTANTS[name]
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            result = _UNARY[type(op)](_value(operand))
        case ast.BinOp(op=op, left=left, right=right) if type(op) in _BINARY:
            result = _BINARY[type(op)](_value(left), _value(right))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            result = _FUNCTIONS[name](*map(_value, args))
        case _:
            raise ValueError(f"{ast.unparse(node)!r} is not arithmetic")
    if isinstance(result, int) and result.bit_length() > _MAX_BITS:
        raise OverflowError
    return result
