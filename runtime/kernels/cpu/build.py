"""Compiles the C++ library: part of the package's own build, and of tests with other compilers.

`python -m runtime.kernels.cpu.build` compiles it in place, as an editable install does.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FOLDER = Path(__file__).parent
OBJECTS = FOLDER.parents[2] / "build" / "kernels"
"""Where what was compiled in place is kept, so that only changes are compiled again."""

LIBRARY_NAME = "_native" + str(sysconfig.get_config_var("EXT_SUFFIX"))

_SOURCES = ("pool", "program", "variants", "pack", "layout", "plan", "checksum", "limits")
_VARIANT_SOURCES = ("matmul", "attention", "rows", "sampling", "variant")
_FLAGS = (
    *("-O3", "-std=c++17", "-fPIC", "-pthread", "-fno-math-errno", "-ffp-contract=off"),
    *("-Wall", "-Wextra", "-Wshadow", "-Werror"),
)
_AVX2 = "-mavx2 -mfma -mf16c"
_VARIANTS: Mapping[str, Mapping[str, str]] = {
    "x86_64": {
        "scalar": "",
        "avx2": _AVX2,
        "avxvnni": f"{_AVX2} -mavxvnni",
        "avx512": f"{_AVX2} -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni",
    },
    "aarch64": {
        "scalar": "-DZONDA_SCALAR",
        "neon": "-march=armv8.2-a+dotprod",
        "i8mm": "-march=armv8.2-a+dotprod+i8mm",
    },
}
_MACHINES = {"AMD64": "x86_64", "arm64": "aarch64"}


def compile_library(
    target: Path,
    *,
    compiler: Sequence[str] = (),
    flags: Sequence[str] = (),
    link_flags: Sequence[str] = ("-shared",),
    machine: str | None = None,
    variants: Sequence[str] = (),
    sources: Sequence[Path] = (),
    objects: Path | None = None,
) -> None:
    """Compile the variants of all kernels and link them into `target`.

    Args:
        target: the file to write.
        compiler: command of the C++ compiler; Python's own where empty.
        flags: more of them, for compiling and linking.
        link_flags: what makes it a library; others make it a program.
        machine: the processor to compile for, this one where None.
        variants: those to compile, all where empty; `sources` then define the others' names.
        sources: more files, compiled once.
        objects: a folder that keeps what was compiled, to compile only what has changed.

    Raises:
        subprocess.CalledProcessError: the compiler found fault; it said so on stderr.
        FileNotFoundError: there is no such compiler.
    """
    compiler = list(compiler) or shlex.split(str(sysconfig.get_config_var("CXX") or "c++"))
    machine = machine or platform.machine()
    known = _VARIANTS.get(_MACHINES.get(machine, machine), {"scalar": ""})
    chosen = {name: known[name] for name in known if not variants or name in variants}
    newest_header = max(header.stat().st_mtime for header in FOLDER.glob("*.h"))
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(os.cpu_count()) as workers:
        folder = objects or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)

        def compile_one(source: Path, own_flags: Sequence[str]) -> str:
            command = [*compiler, *_FLAGS, *flags, *own_flags, "-c", str(source)]
            digest = hashlib.blake2b(" ".join(command).encode(), digest_size=8).hexdigest()
            built = folder / f"{source.stem}-{digest}.o"
            newest = max(newest_header, source.stat().st_mtime)
            if not built.exists() or built.stat().st_mtime <= newest:
                _run([*command, "-o", str(built)])
            return str(built)

        jobs = list(_jobs(chosen, sources))
        built = list(workers.map(compile_one, *zip(*jobs, strict=True)))
        # Whoever runs has the old file mapped: a new one takes its place.
        fresh = target.with_name(f"{target.name}.{os.getpid()}")
        _run([*compiler, *built, "-pthread", *link_flags, *flags, "-o", str(fresh)])
        fresh.replace(target)


def _jobs(
    variants: Mapping[str, str], sources: Sequence[Path]
) -> Iterator[tuple[Path, Sequence[str]]]:
    """Sources and their flags, the slowest first."""
    for name in _VARIANT_SOURCES:
        for variant, flags in variants.items():
            yield FOLDER / f"{name}.cpp", [f"-DZONDA_VARIANT={variant}", *flags.split()]
    for name in _SOURCES:
        yield FOLDER / f"{name}.cpp", []
    for source in sources:
        yield source, []


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True)  # noqa: S603 - the compiler and our own sources


if __name__ == "__main__":
    compile_library(FOLDER / LIBRARY_NAME, objects=OBJECTS)
