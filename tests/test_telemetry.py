"""Tests of where log records go."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.telemetry import PACKAGES, configure_logging
from tools.errors import ConfigurationError


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []  # pytest's own stay open: replacing handlers closes the replaced ones
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers = handlers
    root.setLevel(level)
    for package in PACKAGES:
        logging.getLogger(package).setLevel(logging.NOTSET)


def test_our_records_go_to_the_file_and_only_serious_ones_to_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_file = tmp_path / "logs" / "zonda.log"
    configure_logging(log_file=log_file)
    logging.getLogger("runtime.x").info("started")
    logging.getLogger("runtime.x").debug("hidden")
    logging.getLogger("elsewhere").info("hidden")
    logging.getLogger("elsewhere").warning("odd")
    written = [line.split(" ", 2)[2] for line in log_file.read_text("utf-8").splitlines()]
    assert written == ["INFO runtime.x: started", "WARNING elsewhere: odd"]
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[0].endswith("WARNING elsewhere: odd")
    assert len(printed.err.splitlines()) == 1


def test_file_that_cannot_be_written_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(ConfigurationError, match="--log-file"):
        configure_logging(log_file=tmp_path / "file" / "zonda.log")


def test_file_is_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.telemetry.MAX_LOG_BYTES", 200)
    log_file = tmp_path / "zonda.log"
    configure_logging(log_file=log_file)
    for number in range(20):
        logging.getLogger("tools.x").info("record %d", number)
    assert len(list(tmp_path.iterdir())) == 4
