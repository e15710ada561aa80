"""Tests of where the engine process is: one for each configuration, for its user alone."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from mcp_servers.sharing.place import (
    CHANGED,
    HOSTS_OWN,
    EnginePlace,
    code_stamp,
    connect,
    connect_or_start,
    engine_digest,
    find_place,
    last_words,
    locked,
    try_locked,
)
from runtime.config import Config
from tools.errors import UnavailableError


@pytest.fixture
def place(tmp_path: Path) -> EnginePlace:
    return EnginePlace("d", tmp_path)


def other_value(value: Any) -> Any:
    """A value of the same type that is another one; a path where there is none."""
    if value is None:
        return Path("x")
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else type(value)(f"{value}x")


@pytest.mark.parametrize("name", [item.name for item in fields(Config)])
def test_another_engine_setting_is_another_process(name: str) -> None:
    config = Config()
    changed = replace(config, **{name: other_value(getattr(config, name))})
    is_same = engine_digest(changed, {}) == engine_digest(config, {})
    assert is_same == (name in HOSTS_OWN)


def test_another_device_is_another_process_and_another_variable_is_not() -> None:
    digest = engine_digest(Config(), {})
    assert engine_digest(Config(), {"CUDA_VISIBLE_DEVICES": "1"}) != digest
    assert engine_digest(Config(), {"OTHER": "x"}) == digest


def test_any_change_of_the_program_is_another_process(tmp_path: Path) -> None:
    package = tmp_path / "runtime" / "engine"
    package.mkdir(parents=True)
    stamps = [code_stamp(tmp_path)]
    for text in ("a = 1\n", "a = 12\n"):
        (package / "engine.py").write_text(text, "utf-8")
        (package / "notes.txt").write_text(text, "utf-8")
        stamps.append(code_stamp(tmp_path))
    os.utime(package / "engine.py", ns=(1, 1))
    stamps.append(code_stamp(tmp_path))
    os.utime(package / "notes.txt", ns=(2, 2))
    assert len(set(stamps)) == 4
    assert code_stamp(tmp_path) == stamps[-1]


def test_folder_is_private_and_made_so(tmp_path: Path) -> None:
    config = Config(state_dir=tmp_path / "s")
    folder = find_place(config, {}).folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o755)
    assert find_place(config, {}).folder == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_path_too_long_for_a_socket_leads_to_a_short_folder(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 120)
    place = find_place(Config(state_dir=deep), {})
    assert len(os.fsencode(place.socket)) <= 100
    assert place.folder.stat().st_uid == os.geteuid()
    assert stat.S_IMODE(place.folder.stat().st_mode) == 0o700


def test_folder_that_could_be_somebody_elses_is_refused() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # of a deeper one another is taken
        folder = Path(name)
        (folder / "elsewhere").mkdir()
        (folder / "engine").symlink_to(folder / "elsewhere")
        with pytest.raises(UnavailableError, match="belongs to somebody else"):
            find_place(Config(state_dir=folder), {})
        (folder / "file").write_text("", "utf-8")
        with pytest.raises(UnavailableError, match="cannot be made"):
            find_place(Config(state_dir=folder / "file"), {})


def test_nobody_listens_where_a_process_was_killed(place: EnginePlace) -> None:
    assert connect(place) is None
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place.socket))
        listener.listen()
        connection = connect(place)
        assert connection is not None
        connection.close()
    assert place.socket.exists()
    assert connect(place) is None


def test_lock_has_one_holder(place: EnginePlace) -> None:
    with locked(place), try_locked(place) as is_ours:
        assert not is_ours
    with try_locked(place) as is_ours:
        assert is_ours


def test_process_whose_program_is_another_ends_at_once_and_says_why(place: EnginePlace) -> None:
    with connect_or_start(place, Config(state_dir=place.folder)) as connection:
        connection.settimeout(20)
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    assert last_words(place) == CHANGED
    assert not place.pid.exists()


def test_last_words_are_the_last_line_that_says_something(place: EnginePlace) -> None:
    assert last_words(place) == ""
    place.errors.write_bytes(b"Traceback\n  x\nImportError: no \xff\n\n")
    assert last_words(place) == "ImportError: no \N{REPLACEMENT CHARACTER}"
