"""Decode steps as captured graphs: one launch instead of one for every operator.

A graph's arrays have fixed places and shapes, so steps are padded to a power of two of sequences
and of pages, and each such shape is captured once, when it first comes.
Source: CUDA graphs as PyTorch has them, `torch.cuda.graph`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import torch

from runtime.kernels import ForwardBatch

Forward = Callable[[ForwardBatch], torch.Tensor]
"""Token ids and so on to logits `[R, vocab]`."""

Replay = Callable[[], torch.Tensor]
"""Runs a captured forward pass on its own arrays again; the logits are its own too."""

Capture = Callable[[Callable[[], torch.Tensor]], Replay]


def is_decode(batch: ForwardBatch) -> bool:
    """Whether every sequence has one new token and wants the logits after it."""
    return len(batch.token_ids) == len(batch.seq_lens) == len(batch.logits_rows)


class DecodeGraphs:
    """Captured forward passes by shape."""

    def __init__(
        self, forward: Forward, capture: Capture, *, page_size: int, spare_page: int
    ) -> None:
        """Capture nothing yet.

        Args:
            forward: the model over its pages.
            capture: records what a function does; `capture_cuda`.
            page_size: tokens of a page.
            spare_page: a page of nobody's, which the rows of the padding write.
        """
        self._forward = forward
        self._capture = capture
        self._page_size = page_size
        self._spare_page = spare_page
        self._graphs: dict[tuple[int, int], tuple[ForwardBatch, Replay]] = {}

    def run(self, batch: ForwardBatch) -> torch.Tensor:
        """Return the logits `[S, vocab]` of a decode step; valid until the next one."""
        num_sequences, num_pages = batch.page_tables.shape
        shape = _power_of_two(num_sequences), _power_of_two(num_pages)
        if shape not in self._graphs:
            static = self._make_arrays(*shape, batch.token_ids.device)
            self._graphs[shape] = static, self._capture(lambda: self._forward(static))
        static, replay = self._graphs[shape]
        self._fill(static, batch)
        return replay()[:num_sequences]

    def _make_arrays(self, size: int, num_pages: int, device: torch.device) -> ForwardBatch:
        """A step whose rows are all padding: the first token of a sequence in the spare page."""
        zeros = torch.zeros(size, dtype=torch.int64, device=device)
        rows = torch.arange(size + 1, device=device)
        return ForwardBatch(
            token_ids=zeros,
            positions=zeros.clone(),
            slot_mapping=zeros + self._spare_page * self._page_size,
            cu_seqlens_q=rows,
            seq_lens=zeros + 1,
            page_tables=zeros[:, None] + zeros.new_full((num_pages,), self._spare_page),
            logits_rows=rows[:size],
        )

    def _fill(self, static: ForwardBatch, batch: ForwardBatch) -> None:
        size, width = static.page_tables.shape
        padding = self._make_arrays(size, width, static.token_ids.device)
        num_sequences, num_pages = batch.page_tables.shape
        for name in ("token_ids", "positions", "slot_mapping", "seq_lens"):
            getattr(padding, name)[:num_sequences] = getattr(batch, name)
        padding.page_tables[:num_sequences, :num_pages] = batch.page_tables
        for item in fields(static):
            getattr(static, item.name).copy_(getattr(padding, item.name))


def capture_cuda(run: Callable[[], torch.Tensor]) -> Replay:
    """Capture what `run` launches on the current CUDA device."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):  # libraries set themselves up outside of the capture
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = run()

    def replay() -> torch.Tensor:
        graph.replay()
        return logits

    return replay


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
