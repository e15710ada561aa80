"""Finds the implementation of an operator: whoever made the values runs the operators.

A value's class tells whose it is, so nothing is configured and nothing falls back in silence.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

_IMPLEMENTATIONS = {
    "torch": "runtime.kernels.reference",
    "runtime": "runtime.kernels.cpu.operators",
}
"""Package of a value's class: the module that has one function per operator."""


def implementation(operator: str, value: object) -> Callable[..., Any]:
    """Return the function that runs `operator` on `value` and its like.

    Raises:
        TypeError: nobody runs operators on such values, or not this one.
    """
    return _find(operator, type(value).__module__.partition(".")[0])


@functools.cache
def _find(operator: str, package: str) -> Callable[..., Any]:
    if package not in _IMPLEMENTATIONS:
        known = ", ".join(sorted(_IMPLEMENTATIONS))
        raise TypeError(f"{operator}: no operators for values of {package!r}, only of {known}")
    module = importlib.import_module(_IMPLEMENTATIONS[package])
    if not hasattr(module, operator):
        raise TypeError(f"{module.__name__} lacks the operator {operator!r}")
    function: Callable[..., Any] = getattr(module, operator)
    return function
