"""How close values must be, per dtype; independent of the machine."""

from __future__ import annotations

import torch

TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def assert_close(actual: torch.Tensor, wanted: torch.Tensor, dtype: torch.dtype) -> None:
    """Compare, and prove that zeros and a neighbouring row would have failed."""
    tolerance = TOLERANCES[dtype]
    scale = wanted.abs().max().item() + 1e-9

    def is_close(other: torch.Tensor) -> bool:
        return bool((other.float() - wanted.float()).abs().max() <= tolerance * scale)

    assert actual.shape == wanted.shape
    assert is_close(actual), (actual.float() - wanted.float()).abs().max()
    assert not is_close(torch.zeros_like(wanted))
    if len(wanted) > 1:
        assert not is_close(wanted.roll(1, 0))
