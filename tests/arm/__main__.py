"""Runs the kernels' tests with the instruction sets of ARM, under an emulator.

`python -m tests.arm` compiles the kernels for aarch64 (two minutes; what did not change is kept),
and every test that names an instruction set then gets those of ARM, besides this machine's scalar
one, with which their results must agree to the last bit.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from runtime.kernels.cpu.build import FOLDER, compile_library
from tests.helpers.cpu_ops import DRIVER_VARIABLE

COMPILER = "aarch64-linux-gnu-g++"
EMULATOR = "qemu-aarch64"
PACKAGES = {COMPILER: "g++-aarch64-linux-gnu", EMULATOR: "qemu-user"}
BUILD = Path("build/arm")
NAMES = ("rows", "matmul", "packing", "attention", "sampling", "recorded_model")
TESTS = [f"tests/kernels/cpu/test_{name}.py" for name in NAMES]


def main() -> int | str:
    """Compile, run, and return the exit status or what is missing."""
    missing = [package for tool, package in PACKAGES.items() if shutil.which(tool) is None]
    if missing:
        return f"the ARM kernels were not tested: first `apt-get install {' '.join(missing)}`"
    driver = BUILD / "driver"
    compile_library(
        driver,
        compiler=[COMPILER],
        machine="aarch64",
        flags=[f"-I{FOLDER}"],
        link_flags=["-static"],
        sources=[Path(__file__).with_name("driver.cpp")],
        objects=BUILD / "objects",
    )
    command = shlex.join([EMULATOR, "-cpu", "max", str(driver.resolve())])
    tests = ["-m", "pytest", "--quiet", "--override-ini=timeout=600", *(sys.argv[1:] or TESTS)]
    done = subprocess.run(
        [sys.executable, *tests], env={**os.environ, DRIVER_VARIABLE: command}, check=False
    )
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
