"""Run a target over seeded mutations; stop at the first finding with how to repeat it.

A finding is an exception that is not the reader's own error, more than a second for one file,
or memory beyond the target's limit. A crash of the process leaves the file at the path printed.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import random
import signal
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from types import FrameType, ModuleType

from tests.fuzz import gguf_files
from tests.fuzz.mutations import mutate

logger = logging.getLogger("fuzz")

TARGETS: dict[str, ModuleType] = {"gguf": gguf_files}
MAX_S_PER_EXECUTION = 1.0


def main() -> int:
    """Parse the arguments, run, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--executions", type=int, default=1_000_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first execution")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    faulthandler.enable()
    tracemalloc.start()
    return _run(options.target, options.seed, options.first, options.executions)


def _run(target: str, seed: int, first: int, executions: int) -> int:
    module = TARGETS[target]
    path = Path(tempfile.mkdtemp(prefix="zonda-fuzz-")) / "input"
    logger.info("%s: %d executions, seed %d, files at %s", target, executions, seed, path)
    signal.signal(signal.SIGPROF, _hang)
    began, num_accepted = time.monotonic(), 0
    for number in range(first, first + executions):
        rng = random.Random(seed << 40 | number)
        path.write_bytes(mutate(rng.choice(module.SEEDS), rng))
        signal.setitimer(signal.ITIMER_PROF, MAX_S_PER_EXECUTION)
        try:
            num_accepted += module.execute(path)
        except Exception:
            signal.setitimer(signal.ITIMER_PROF, 0)
            logger.exception("finding; repeat: %s --seed %d --first %d", target, seed, number)
            return 1
        signal.setitimer(signal.ITIMER_PROF, 0)
    path.unlink()
    path.parent.rmdir()
    rate = executions / (time.monotonic() - began)
    logger.info("no finding; %d files accepted, %.0f executions a second", num_accepted, rate)
    return 0


def _hang(_number: int, _frame: FrameType | None) -> None:
    raise TimeoutError(f"more than {MAX_S_PER_EXECUTION} s of processor time for one file")


if __name__ == "__main__":
    sys.exit(main())
