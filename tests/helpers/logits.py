"""Logits of every token of one sequence, straight off a runner's model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

from runtime.engine.torch_runner import TorchRunner
from runtime.kernels import ForwardBatch


def forward(runner: TorchRunner, token_ids: Sequence[int], *, cut: int = 0) -> torch.Tensor:
    """Logits `[num_tokens, vocab]`: the first `num_tokens - cut` at once, the rest one by one."""
    bounds = [0, *range(len(token_ids) - cut, len(token_ids) + 1)]
    steps = itertools.pairwise(bounds)
    return torch.cat([_step(runner, token_ids, start, end) for start, end in steps])


def _step(runner: TorchRunner, token_ids: Sequence[int], start: int, end: int) -> torch.Tensor:
    positions = torch.arange(start, end)
    batch = ForwardBatch(
        token_ids=torch.tensor(token_ids[start:end]),
        positions=positions,
        slot_mapping=positions,
        cu_seqlens_q=torch.tensor([0, end - start]),
        seq_lens=torch.tensor([end]),
        page_tables=torch.arange(-(-end // runner.page_size))[None],
        logits_rows=positions - start,
    )
    with torch.inference_mode():
        logits: torch.Tensor = runner._model(batch, runner._kv_pages)
    return logits
