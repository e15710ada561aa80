"""Programs that do what sanitizers are to find; `test_sanitized.py` alone runs them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from runtime.kernels.cpu.native import load_library, supported_variants
from runtime.kernels.cpu.structs import KvType, OpKind
from tests.helpers.cpu_ops import batch_of_tokens, nans, op, randn, run_ops


def test_reads_beyond_an_array() -> None:
    x, y, out = randn(2, 100), randn(2, 99), nans(2, 100)
    add = op(OpKind.ADD, x, y, out, n=(100,))
    run_ops([add], batch_of_tokens(2), variant=supported_variants()[0])


def test_writes_one_slot_from_two_threads() -> None:
    k, v = randn(4000, 1, 64), randn(4000, 1, 64)
    pages = np.zeros(load_library().zonda_kv_page_bytes(KvType.BF16, 1, 64), np.uint8)
    write = op(OpKind.WRITE_KV, k, v, pages, n=(1, 64, KvType.BF16))
    batch = replace(batch_of_tokens(4000), slot_mapping=np.zeros(4000, np.int64))
    run_ops([write], batch, variant=supported_variants()[0], num_threads=2)
