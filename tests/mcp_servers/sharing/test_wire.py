"""Tests of what relay and engine process say first."""

from __future__ import annotations

import json
import logging
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from mcp_servers.sharing.wire import (
    Hello,
    config_from_json,
    config_to_json,
    log_line,
    peer_uid,
    private_line,
    read_private,
)
from runtime.config import Config
from tools.errors import ConfigurationError

HELLO = Hello(
    digest="d",
    environ={"TOKEN": "é\n"},
    folder=Path("/work"),
    own_servers=Path("/home/mcp.json"),
    mcp_config=None,
    log_level=20,
    config=Config(cache_dir=Path("/c"), state_dir=Path("/s"), policy_file=Path("/p.toml")),
)


def test_greeting_is_one_line_and_read_as_it_was() -> None:
    for hello in (HELLO, replace(HELLO, mcp_config=Path("servers.json"))):
        assert hello.to_line().count(b"\n") == 1
        assert Hello.from_line(hello.to_line()) == hello


@pytest.mark.parametrize(
    "line",
    [b"", b"[]", b"7", b"{}", b"\xff", b"[" * 100_000, HELLO.to_line().replace(b"digest", b"d")],
)
def test_line_that_is_no_greeting_is_an_error_of_ours(line: bytes) -> None:
    with pytest.raises(ConfigurationError, match="no greeting"):
        Hello.from_line(line)


def test_configuration_is_read_as_it_was_with_absolute_paths() -> None:
    config = Config(cache_dir=Path("here"), state_dir=Path("/there"), threads=3, share=False)
    assert config_from_json(config_to_json(config)) == replace(
        config, cache_dir=Path("here").absolute()
    )


def test_record_of_a_log_comes_with_its_traceback() -> None:
    try:
        raise KeyError("x")
    except KeyError as exc:
        caught = exc
    record = logging.LogRecord(
        "tools.x", logging.ERROR, "f.py", 1, "%s broke", ("it",), (KeyError, caught, None)
    )
    kind, (name, level, text) = read_private(log_line(record).rstrip(b"\n"))
    assert (kind, name, level) == ("log", "tools.x", logging.ERROR)
    assert text.splitlines() == ["it broke", "KeyError: 'x'"]
    assert read_private(private_line("welcome", 5)) == ("welcome", 5)
    assert json.loads(private_line("welcome", 5)[1:]) == {"welcome": 5}


def test_user_of_the_other_end_is_known() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_uid(ours) == peer_uid(theirs) == os.geteuid()
