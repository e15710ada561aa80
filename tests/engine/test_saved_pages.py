"""Tests of pages on disk: they come back whole, or not at all and without a word to the caller."""

from __future__ import annotations

import logging
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from runtime.engine.prefix_pages import PageBytes
from runtime.engine.saved_pages import SavedPages
from tests.helpers.page_runner import SlotMemory

PAGE_SIZE = 4
TOKENS = list(range(1, 15))  # three full pages and two tokens


def memory_of(identity: str = "pages") -> SlotMemory:
    memory = SlotMemory(np.zeros((8 * PAGE_SIZE, 2), np.int64), PAGE_SIZE)
    memory.identity = identity
    return memory


def open_saved(folder: Path, identity: str = "pages", **limits: int) -> SavedPages:
    return SavedPages(folder, memory_of(identity), PAGE_SIZE, **limits)


def some_pages(seed: int = 0, num_pages: int = 3) -> PageBytes:
    shape = (num_pages, memory_of().page_bytes)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def assert_equal(found: PageBytes | None, wanted: PageBytes) -> None:
    assert found is not None
    assert found.tolist() == wanted.tolist()


def test_pages_come_back_in_another_process_with_or_without_the_tokens_of_a_started_page(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "deep" / "kept"
    assert open_saved(folder).load(TOKENS) is None
    assert open_saved(folder).save(TOKENS, some_pages())
    assert_equal(open_saved(folder).load(TOKENS), some_pages())
    assert_equal(open_saved(folder).load(TOKENS[:12]), some_pages())
    assert_equal(open_saved(folder).load([*TOKENS[:12], 99]), some_pages())


def test_other_tokens_models_and_page_sizes_find_nothing_and_delete_nothing(tmp_path: Path) -> None:
    open_saved(tmp_path).save(TOKENS, some_pages())
    assert open_saved(tmp_path).load([9, *TOKENS[1:]]) is None
    assert open_saved(tmp_path).load(TOKENS[:8]) is None
    assert open_saved(tmp_path, "other weights").load(TOKENS) is None
    memory = SlotMemory(np.zeros((6, 2), np.int64), 2)
    assert SavedPages(tmp_path, memory, 2).load(TOKENS) is None
    assert_equal(open_saved(tmp_path).load(TOKENS), some_pages())


def test_only_the_owner_can_read_what_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    open_saved(folder).save(TOKENS, some_pages())
    (file,) = folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def cut_short(data: bytearray, rng: random.Random) -> bytearray:
    return data[: rng.randrange(len(data))]


def grow(data: bytearray, rng: random.Random) -> bytearray:
    return data + rng.randbytes(rng.randint(1, 100))


def flip_a_bit(data: bytearray, rng: random.Random) -> bytearray:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


@pytest.mark.parametrize("harm", [cut_short, grow, flip_a_bit])
def test_damaged_file_is_logged_deleted_and_never_used(
    harm: Callable[[bytearray, random.Random], bytearray],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    saved = open_saved(tmp_path)
    rng = random.Random(3)
    for _ in range(60):
        saved.save(TOKENS, some_pages())
        (file,) = tmp_path.iterdir()
        file.write_bytes(harm(bytearray(file.read_bytes()), rng))
        assert saved.load(TOKENS) is None
        assert not list(tmp_path.iterdir())
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 60
    assert "is damaged" in caplog.records[0].message


def test_every_bit_of_the_beginning_counts(tmp_path: Path) -> None:
    saved = open_saved(tmp_path)
    saved.save(TOKENS, some_pages())
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for place in range(len(whole) - some_pages().nbytes - 20):
        harmed = bytearray(whole)
        harmed[place] ^= 1
        file.write_bytes(harmed)
        assert saved.load(TOKENS) is None


def kept(folder: Path, prompts: list[list[int]]) -> list[int]:
    """Which of the prompts are there; looking at them does not count as use."""
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    found = [index for index, one in enumerate(prompts) if open_saved(folder).load(one) is not None]
    for path, time_ns in times.items():
        os.utime(path, ns=(time_ns, time_ns))
    return found


def test_least_recently_used_files_go_first(tmp_path: Path) -> None:
    saved = open_saved(tmp_path, max_files=3)
    prompts = [[seed, *TOKENS[1:]] for seed in range(20, 25)]
    for age, prompt in zip((50, 40, 30), prompts, strict=False):
        before = set(tmp_path.iterdir())
        saved.save(prompt, some_pages())
        (file,) = set(tmp_path.iterdir()) - before
        os.utime(file, (file.stat().st_mtime - age,) * 2)
    assert saved.load(prompts[0]) is not None  # the oldest is now the one used last
    saved.save(prompts[3], some_pages())
    assert kept(tmp_path, prompts) == [0, 2, 3]
    one_file = next(iter(tmp_path.iterdir())).stat().st_size
    open_saved(tmp_path, max_bytes=2 * one_file).save(prompts[4], some_pages())
    assert len(kept(tmp_path, prompts)) == 2
    assert 4 in kept(tmp_path, prompts)
    assert not open_saved(tmp_path, max_bytes=one_file - 1).save(prompts[1], some_pages())
    assert len(list(tmp_path.iterdir())) == 2


def test_what_was_long_not_used_or_never_finished_is_deleted(tmp_path: Path) -> None:
    saved = open_saved(tmp_path)
    saved.save(TOKENS, some_pages())
    (old,) = tmp_path.iterdir()
    half, fresh = tmp_path / "tmphalf", tmp_path / "tmpfresh"
    for path, age_s in ((old, 31 * 24 * 3600), (half, 700), (fresh, 5)):
        path.touch()
        os.utime(path, (path.stat().st_mtime - age_s,) * 2)
    saved.save([5, *TOKENS[1:]], some_pages())
    assert not old.exists()
    assert not half.exists()
    assert fresh.exists()


def test_disk_that_fails_is_logged_and_leaves_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    saved = open_saved(tmp_path / "file")
    assert not saved.save(TOKENS, some_pages())
    assert saved.load(TOKENS) is None
    assert [record.message.partition(" ")[0] for record in caplog.records] == ["pages", "kept"]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
