"""Captured decode steps: padding changes nothing, and a shape is captured once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from runtime.engine.decode_graphs import DecodeGraphs, Replay, is_decode
from runtime.kernels import ForwardBatch
from tests.engine.test_torch_runner import make_runner
from tests.helpers.tiny_gguf import write_tiny_llama
from tests.helpers.tolerances import assert_close

LENGTHS = (1, 40, 17, 5, 16)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


def decode_batch(lengths: tuple[int, ...]) -> ForwardBatch:
    """One token for each sequence, whose pages are 3 apart."""
    positions = torch.tensor(lengths) - 1
    num_pages = int(positions.max()) // 16 + 1
    tables = 3 * torch.arange(len(lengths))[:, None] + torch.arange(num_pages)
    rows = torch.arange(len(lengths) + 1)
    last_page = tables.gather(1, positions[:, None] // 16)[:, 0]
    return ForwardBatch(
        token_ids=positions + 7,
        positions=positions,
        slot_mapping=16 * last_page + positions % 16,
        cu_seqlens_q=rows,
        seq_lens=positions + 1,
        page_tables=tables,
        logits_rows=rows[:-1],
    )


def test_padded_steps_give_the_logits_of_plain_ones_and_touch_no_page(tiny: Path) -> None:
    runner = make_runner(tiny)
    captured: list[int] = []

    def capture(run: Callable[[], torch.Tensor]) -> Replay:
        captured.append(len(run()))
        return run

    graphs = DecodeGraphs(runner._forward, capture, page_size=16, spare_page=runner.num_pages)
    with torch.inference_mode():
        for pages in runner._kv_pages:
            pages.normal_(generator=torch.Generator().manual_seed(1))
        for count in (5, 3, 5, 1, 4, 2):
            batch = decode_batch(LENGTHS[:count])
            assert is_decode(batch)
            wanted = runner._forward(batch)
            before = [pages[:, : runner.num_pages].clone() for pages in runner._kv_pages]
            logits = graphs.run(batch)
            assert_close(logits, wanted, torch.float32)
            after = [pages[:, : runner.num_pages] for pages in runner._kv_pages]
            for pair in zip(after, before, strict=True):
                assert_close(*pair, torch.float32)
    assert captured == [8, 4, 1, 2]


def test_steps_with_prompts_or_without_logits_are_no_decode_steps() -> None:
    batch = decode_batch((4, 5))
    assert not is_decode(replace(batch, logits_rows=batch.logits_rows[:1]))
    longer = {item.name: getattr(batch, item.name) for item in fields(batch)}
    longer["token_ids"] = torch.zeros(9, dtype=torch.int64)
    assert not is_decode(ForwardBatch(**longer))
