"""Tests of the memory guard: what is free, and what fits into it."""

import logging
import re
from pathlib import Path

import pytest

from runtime.errors import MemoryShortError
from runtime.memory import HEADROOM_BYTES, MemoryPlan, free_memory, parse_vm_stat, plan_memory

GIB = 1 << 30
MEMINFO = "MemTotal:       16000000 kB\nMemFree:          100000 kB\nMemAvailable:    8000000 kB\n"


def _system(root: Path, membership: str, groups: dict[str, str]) -> tuple[Path, Path]:
    files = {"proc/meminfo": MEMINFO, "proc/self/cgroup": membership}
    for name, text in (files | {f"cgroup/{name}": text for name, text in groups.items()}).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root / "proc", root / "cgroup"


SYSTEMS: dict[str, tuple[str, dict[str, str], int]] = {
    "no control group": ("", {}, 8_000_000 * 1024),
    "no limit": ("0::/a\n", {"a/memory.max": "max\n", "a/memory.current": "5\n"}, 8_192_000_000),
    "version 2": (
        "0::/a/b\n",
        {
            "a/memory.max": "3000",
            "a/memory.current": "1000",
            "a/b/memory.max": "max",
            "a/b/memory.current": "7",
        },
        2000,
    ),
    "file pages can be dropped": (
        "0::/a\n",
        {
            "a/memory.max": "3000",
            "a/memory.current": "2900",
            "a/memory.stat": "anon 5\ninactive_file 400\nactive_file 9\n",
        },
        500,
    ),
    "inside a container, under the host's name": (
        "0::/docker/123\n",
        {"memory.max": "3000", "memory.current": "1000"},
        2000,
    ),
    "version 1": (
        "4:cpu,cpuacct:/x\n3:memory:/a\n0::/\n",
        {
            "memory/a/memory.limit_in_bytes": "3000",
            "memory/a/memory.usage_in_bytes": "2000",
            "memory/a/memory.stat": "inactive_file 1\ntotal_inactive_file 100\n",
            "memory/memory.limit_in_bytes": "9223372036854771712",
            "memory/memory.usage_in_bytes": "5",
        },
        1100,
    ),
    "over its limit": ("0::/\n", {"memory.max": "10", "memory.current": "20"}, 0),
}


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.skipif("sys.platform == 'darwin'", reason="macOS has no /proc and no control groups")
def test_free_is_what_machine_and_control_groups_give(name: str, tmp_path: Path) -> None:
    membership, groups, expected = SYSTEMS[name]
    assert free_memory(*_system(tmp_path, membership, groups)) == expected


@pytest.mark.skipif("sys.platform == 'darwin'", reason="macOS has no /proc and no control groups")
def test_system_that_tells_nothing_is_not_known(tmp_path: Path) -> None:
    assert free_memory(tmp_path, tmp_path) is None


def test_vm_stat_of_macos() -> None:
    text = (
        "Mach Virtual Memory Statistics: (page size of 16384 bytes)\n"
        "Pages free:                               10.\n"
        "Pages active:                            500.\n"
        "Pages inactive:                           20.\n"
        "Pages speculative:                         3.\n"
        "Pages wired down:                        700.\n"
        "Pages purgeable:                           1.\n"
    )
    assert parse_vm_stat(text) == 34 * 16384
    assert parse_vm_stat("something else") is None


def _plan(free_bytes: int | None, *, context_length: int = 8192, kv_gib: int = 1) -> MemoryPlan:
    return plan_memory(
        weight_bytes=4 * GIB,
        kv_bytes_per_token=GIB // 8192,
        context_length=context_length,
        kv_bytes=kv_gib * GIB,
        free_bytes=free_bytes,
    )


@pytest.mark.parametrize("free_bytes", [None, 100 * GIB, 5 * GIB + HEADROOM_BYTES])
def test_what_fits_is_given_as_wanted(
    free_bytes: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    assert _plan(free_bytes) == MemoryPlan(8192, GIB)
    assert caplog.records == []


def test_context_and_pages_shrink_to_what_is_free(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    assert _plan(4 * GIB + HEADROOM_BYTES + GIB // 4) == MemoryPlan(2048, GIB // 4)
    pages, context = (record.getMessage() for record in caplog.records)
    assert pages == (
        "KV pages get 0.2 GiB instead of 1.0 GiB: 4.8 GiB are free, weights take 4.0 GiB, 0.5 GiB"
        " stay free"
    )
    assert context == (
        "the context shrinks from 8192 to 2048 tokens: that is what 0.2 GiB of KV pages hold"
    )


def test_context_shrinks_to_the_pages_that_were_configured() -> None:
    assert _plan(None, context_length=32768, kv_gib=2) == MemoryPlan(16384, 2 * GIB)


@pytest.mark.parametrize("free_bytes", [0, 4 * GIB, 4 * GIB + HEADROOM_BYTES + GIB // 8192 * 511])
def test_model_that_does_not_fit_is_refused_with_numbers(free_bytes: int) -> None:
    message = (
        "the model needs 4.0 GiB for its weights, 0.1 GiB for 512 tokens of context and "
        f"0.5 GiB of headroom, but {free_bytes / GIB:.1f} GiB are free; close other programs, "
        "or choose a smaller model (`zonda models`)"
    )
    with pytest.raises(MemoryShortError, match=f"^{re.escape(message)}$"):
        _plan(free_bytes)


def test_short_context_needs_only_its_own_pages() -> None:
    assert _plan(4 * GIB + HEADROOM_BYTES + GIB // 64, context_length=64).context_length == 64
