"""The kernels' tests on a library that watches its memory, and on one that watches its threads."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from runtime.kernels.cpu.build import compile_library
from runtime.kernels.cpu.native import supported_variants

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="preloads GCC's libraries"),
]

BUILD = Path("build/sanitized")
FOLDER = "tests/kernels/cpu"
MISBEHAVIOUR = f"{FOLDER}/misbehaviour.py"
LEFT_OUT = Path(FOLDER) / "left_out_variants.cpp"


class Sanitizer(NamedTuple):
    """How the library is compiled, and what a Python that loads it needs."""

    flags: Sequence[str]
    libraries: Sequence[str]
    options: dict[str, str]


MEMORY = Sanitizer(
    # Checks as calls compile three times as fast. Pointers are checked where they are used; one
    # that is only computed wrongly goes unseen, for to see that takes twice as long to compile.
    [
        *("-fsanitize=address,undefined", "-fno-sanitize=null,pointer-overflow,object-size,vptr"),
        *("--param", "asan-instrumentation-with-call-threshold=0"),
    ],
    ["libasan.so", "libubsan.so"],
    {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"},
)
THREADS = Sanitizer(
    ["-fsanitize=thread"],
    ["libtsan.so"],
    {"TSAN_OPTIONS": "halt_on_error=1 report_signal_unsafe=0"},
)
SANITIZERS = {"memory": MEMORY, "threads": THREADS}


def build(name: str) -> Path:
    """Compile what this machine can run with this sanitizer; what did not change is kept."""
    library = BUILD / f"{name}.so"
    flags = [*SANITIZERS[name].flags, "-fno-sanitize-recover=all", "-O1", "-g1"]
    compile_library(
        library,
        flags=flags,
        variants=supported_variants(),
        sources=[LEFT_OUT],
        objects=BUILD / name,
    )
    return library


def run_tests(name: str, library: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """pytest on a library that was compiled with this sanitizer."""
    sanitizer = SANITIZERS[name]
    preload = ":".join(_find(file) for file in sanitizer.libraries)
    command = [sys.executable, "-m", "tests.helpers.with_library", str(library), "--quiet"]
    # A report goes to stderr itself, and the process ends at once.
    options = ["--capture=sys", "-p", "no:cacheprovider", "--override-ini=timeout=600"]
    return subprocess.run(
        [*command, *options, *arguments],
        env={**os.environ, **sanitizer.options, "LD_PRELOAD": preload},
        capture_output=True,
        text=True,
        check=False,
    )


def _find(library: str) -> str:
    compiler = shlex.split(str(sysconfig.get_config_var("CXX") or "c++"))
    command = [*compiler, f"-print-file-name={library}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def check_in_parallel(name: str, *jobs: Sequence[str]) -> None:
    """Run these arguments' tests, two processes at a time: each computes on one processor."""
    library = build(name)
    with ThreadPoolExecutor(2) as workers:
        for done in workers.map(lambda job: run_tests(name, library, *job), jobs):
            assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]


def test_kernels_stay_within_their_memory() -> None:
    """Attention meets all shapes without soft caps, which change numbers in registers only."""
    attention = f"{FOLDER}/test_attention.py"
    others = (attention, f"{FOLDER}/{Path(__file__).name}")
    check_in_parallel(
        "memory",
        [attention, "-k", "plain or every_variant or stored or prefix"],
        [FOLDER, "tests/engine/test_cpu_runner.py", *(f"--ignore={one}" for one in others)],
        [attention, "-k", "windows and not caps and not every_variant"],
    )


def test_threads_never_race() -> None:
    program, model, rows = (
        f"{FOLDER}/test_{name}.py" for name in ("program", "recorded_model", "rows")
    )
    check_in_parallel("threads", [program], [model, rows])


@pytest.mark.parametrize(
    ("name", "test", "report"),
    [
        ("memory", "test_reads_beyond_an_array", "heap-buffer-overflow"),
        ("threads", "test_writes_one_slot_from_two_threads", "data race"),
    ],
)
def test_misbehaviour_is_found(name: str, test: str, report: str) -> None:
    done = run_tests(name, build(name), f"{MISBEHAVIOUR}::{test}")
    assert done.returncode != 0
    assert report in done.stderr
