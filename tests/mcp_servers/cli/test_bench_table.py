"""Tests of how results are printed for a person."""

from __future__ import annotations

import pytest

from mcp_servers.cli.bench import _print_table
from mcp_servers.cli.records import Record


def record(server: str, model: str, measure: str, value: float) -> Record:
    params = {"measure": measure, "server": server, "concurrency": 8}
    spread = (0.9 * value, 1.1 * value)
    return Record("serve", model, params, value, *spread, 3, "ms", None, None, None, "cpu", None)


def test_servers_stand_beside_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    ours = [record("Zonda", "a", "first", 30), record("Zonda", "a", "between", 3)]
    _print_table([*ours, record("peer", "b", "first", 1500)])
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    found = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert [line for line in found if len(line) > 1] == [
        ["Zonda, a", "peer, b"],
        ["first", "30 ms (20 %)", "1,500 ms (20 %)"],
        ["between", "3 ms (20 %)"],
    ]


def test_one_server_stands_with_its_limit(capsys: pytest.CaptureFixture[str]) -> None:
    _print_table([record("Zonda", "a", "first", 30), record("Zonda", "a", "first", 40)])
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0] == ["serve,", "Zonda,", "a,", "cpu,", "concurrency", "8"][: len(lines[0])]
    assert lines[-2:] == [["first", "30", "ms", "20", "%"], ["first", "40", "ms", "20", "%"]]
