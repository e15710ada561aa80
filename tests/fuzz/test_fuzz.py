"""Tests of the fuzz target: a short run finds nothing, and mutations reach the reader's checks."""

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.errors import ModelFileError
from runtime.weights import open_checkpoint
from tests.fuzz.gguf_files import SEEDS
from tests.fuzz.mutations import mutate

# A part of the message of each check.
CHECKS = (
    "wanted version",
    "tensors cannot fit",
    "keys cannot fit",
    "a key has",
    "a key needs",
    "the key _ appears twice",
    "unknown value type",
    "is an array of the unknown type",
    "numbers of _ cannot fit",
    "strings of _ cannot fit",
    "a string of _ ends at",
    "is not UTF",
    "parts; join them",
    "must be a power of two",
    "the tensor _ appears twice",
    "dimensions, not",
    "_ has the unknown type",
    "numbers a block",
    "of the data, not at",
    "the tensor _ ends at byte",
)


def test_short_run_finds_nothing() -> None:
    command = [sys.executable, "-m", "tests.fuzz", "gguf", "--executions", "1000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^no finding; [1-9]\d* files accepted", done.stderr, re.MULTILINE)


def test_hostile_bodies_are_no_failure_of_the_server() -> None:
    command = [sys.executable, "-m", "tests.fuzz.bodies", "--executions", "300"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    statuses = re.search(r"^300 bodies: \{'200': [1-9].*'400': [1-9]", done.stderr, re.MULTILINE)
    assert statuses is not None, done.stderr


@pytest.mark.parametrize("number", range(len(SEEDS)))
def test_seed_file_is_whole(number: int, tmp_path: Path) -> None:
    path = tmp_path / "seed.gguf"
    path.write_bytes(b"".join(SEEDS[number]))
    checkpoint = open_checkpoint(path)
    for name in checkpoint.names:
        checkpoint.read(name).dequantize()


def test_mutations_are_repeatable_and_reach_the_checks_of_every_part(tmp_path: Path) -> None:
    path = tmp_path / "mutated.gguf"
    reasons = set()
    for number in range(1500):
        content = mutate(SEEDS[number % len(SEEDS)], random.Random(number))
        assert content == mutate(SEEDS[number % len(SEEDS)], random.Random(number))
        path.write_bytes(content)
        try:
            open_checkpoint(path)
        except ModelFileError as exc:
            reasons.add(re.sub(r"'[^']*'|b'.*'|-?\d+", "_", str(exc).removeprefix(str(path))))
    missed = [text for text in CHECKS if not any(re.search(text, reason) for reason in reasons)]
    assert missed == []
