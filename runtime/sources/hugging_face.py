"""Model files out of Hugging Face repositories, through the optional `huggingface_hub`.

What is kept lies under its repository's name: a file at its path, a whole repository in the
folder `whole`. Finding it again needs neither the library nor the network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from runtime.errors import DownloadError, UnknownModelError
from runtime.sources.catalogue import HubFile
from tools.errors import suggest

PREFIX = "hf:"

_WHOLE = "whole"
_NAME = re.compile(r"hf:(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(?:/(?P<file>.+))?")
# What a model in safetensors is made of; never code, never pickles.
_MODEL_FILE = re.compile(r"[^/]+\.(safetensors|json|jinja)")
# The usual compromise of size and quality, where a repository has several quantisations.
_PREFERRED = "q4_k_m"


def parse_hub_name(name: str) -> HubFile:
    """Take "hf:ORG/REPO" or "hf:ORG/REPO/FILE" apart.

    Raises:
        UnknownModelError: it is spelled otherwise.
    """
    match = _NAME.fullmatch(name)
    file = match["file"] if match else None
    if match is None or (file and not {"..", ".", ""}.isdisjoint(file.split("/"))):
        raise UnknownModelError(f"wanted hf:ORG/REPO or hf:ORG/REPO/FILE, found {name!r}")
    return HubFile(match["repo"], file)


def find_hub_file(origin: HubFile, cache_dir: Path) -> Path | None:
    """The file or folder in the cache; None when it is not there."""
    folder = origin.folder(cache_dir)
    if origin.file is not None:
        path = folder / origin.file
        return path if path.is_file() else None
    if (folder / _WHOLE).is_dir():
        return folder / _WHOLE
    here = [str(path.relative_to(folder)) for path in folder.rglob("*.gguf")]
    chosen = _choose(here)
    return folder / chosen if chosen else None


def fetch_hub_file(
    origin: HubFile,
    cache_dir: Path,
    report: Callable[[int, int], None],
    endpoint: str | None = None,
) -> Path:
    """Download into the cache, continuing what was cut off; the caller holds the lock.

    Raises:
        DownloadError: the library is not there, or the file cannot be fetched.
        OSError: it cannot be stored.
    """
    try:
        import huggingface_hub
    except ImportError as exc:
        raise DownloadError(
            f"hf:{origin.repo} needs the package huggingface_hub: pip install 'zonda[hub]', "
            "or download the file yourself and name it by its path"
        ) from exc
    hub = huggingface_hub.HfApi(endpoint=endpoint)
    try:
        return _fetch(hub, origin, origin.folder(cache_dir), report)
    except _hub_errors() as exc:
        first_line = str(exc).strip().partition("\n")[0]
        raise DownloadError(
            f"hf:{origin.repo} cannot be fetched: {first_line or type(exc).__name__}; check the "
            "name and the network, or name a file by its path"
        ) from exc


def _hub_errors() -> tuple[type[Exception], ...]:
    """What the library raises when a name is wrong or the network is not there."""
    from huggingface_hub import errors

    http_error = errors.HTTPError  # type: ignore[attr-defined]  # of whichever client it uses
    offline = (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)
    return (http_error, errors.HFValidationError, errors.FileMetadataError, *offline)


def _fetch(hub: Any, origin: HubFile, folder: Path, report: Callable[[int, int], None]) -> Path:
    # The one request that does not wait for the network to come back.
    files = [entry.rfilename for entry in hub.model_info(origin.repo).siblings or ()]
    file = _choose_of(origin, files)
    bar = _progress_bar(report)
    if file is not None:
        return Path(hub.hf_hub_download(origin.repo, file, local_dir=folder, tqdm_class=bar))
    part = folder / f"{_WHOLE}.part"
    for name in files:
        if _MODEL_FILE.fullmatch(name):
            hub.hf_hub_download(origin.repo, name, local_dir=part, tqdm_class=bar)
    return part.rename(folder / _WHOLE)


def _choose_of(origin: HubFile, files: Sequence[str]) -> str | None:
    """The repository's file to take; None takes its safetensors."""
    if origin.file is not None:
        if origin.file not in files:
            problem = f"hf:{origin.repo} has no file {origin.file!r}"
            raise DownloadError(problem + suggest(origin.file, files))
        return origin.file
    ggufs = sorted(name for name in files if name.endswith(".gguf"))
    chosen = _choose(ggufs)
    if ggufs and chosen is None:
        raise DownloadError(f"hf:{origin.repo} has several models, name one: {', '.join(ggufs)}")
    if chosen is None and not any(name.endswith(".safetensors") for name in files):
        raise DownloadError(f"hf:{origin.repo} holds neither GGUF nor safetensors")
    return chosen


def _choose(files: Iterable[str]) -> str | None:
    """The only GGUF file, or the one of the usual quantisation; None where that is unclear."""
    whole = [name for name in files if not re.search(r"-\d{5}-of-\d{5}\.gguf$", name)]
    usual = [name for name in whole if _PREFERRED in PurePosixPath(name).name.lower()]
    for candidates in (whole, usual):
        if len(candidates) == 1:
            return candidates[0]
    return None


def _progress_bar(report: Callable[[int, int], None]) -> type:
    """A bar that shows nothing and reports the sum of all bars that count bytes."""
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]  # not in its __all__

    counts: dict[int, tuple[int, int]] = {}

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._counts_bytes = kwargs.get("unit") == "B"
            # Untyped in tqdm.
            super().__init__(*args, **(kwargs | {"disable": True}))  # type: ignore[no-untyped-call]
            self.n, self.total = kwargs.get("initial", 0), kwargs.get("total")

        def update(self, n: float | None = 1) -> bool | None:
            self.n += n or 0
            if self._counts_bytes:
                counts[id(self)] = int(self.n), int(self.total or 0)
                done, total = (sum(column) for column in zip(*counts.values(), strict=True))
                report(done, total)
            return None

    return Bar
