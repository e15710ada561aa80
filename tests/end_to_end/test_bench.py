"""`zonda bench` as a command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mcp_servers
from tests.helpers.http_process import HttpServerProcess
from tests.helpers.tiny_gguf import write_tiny_llama

ROOT = Path(mcp_servers.__file__).parent.parent


CONTEXT = 2048
"""Of the tiny model."""


def is_peer(record: dict[str, Any]) -> bool:
    return bool(record["params"].get("server") == "peer")


Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def run_bench(tmp_path: Path) -> Run:
    """Run `zonda bench` once on a tiny model and return its records."""
    model = tmp_path / "tiny.gguf"
    write_tiny_llama(model, context_length=CONTEXT)

    def run(*arguments: str) -> list[dict[str, Any]]:
        options = ["--json", "--repeats", "1", "--model", str(model)]
        done = subprocess.run(
            [sys.executable, "-m", "mcp_servers", "bench", *arguments, *options],
            cwd=ROOT,
            env={**os.environ, "ZONDA_CACHE_DIR": str(tmp_path), "ZONDA_DEVICE": "cpu"},
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        records = [json.loads(line) for line in done.stdout.splitlines()]
        for record in records:
            assert record["bench"] == arguments[0]
            assert record["model"] == ("peer.gguf" if is_peer(record) else "tiny.gguf")
            assert record["repeats"] == 1
            assert record["value"] > 0 or record["unit"] == "%"
            assert record["bandwidth_gb_s"] is None or record["bandwidth_gb_s"] > 0
        return records

    return run


SPREADS = [
    ("one request, p50", "tokens/s", False),
    ("one request, p5", "tokens/s", False),
    *(
        (f"{name}, {share}", "ms", False)
        for name in ("first token", "between tokens")
        for share in ("p50", "p95", "p99")
    ),
]


def describe(records: list[dict[str, Any]]) -> list[tuple[str, str, bool]]:
    """What was measured, in which unit, and whether a limit is known."""
    return [(one["params"]["measure"], one["unit"], one["limit"] is not None) for one in records]


@pytest.mark.slow
def test_limits_of_one_and_of_all_threads(run_bench: Run) -> None:
    records = run_bench("limits")
    expected = [
        ("memory read", "GB/s", False),
        ("int8 multiply and add", "GOP/s", False),
        ("float32 multiply and add", "GFLOP/s", False),
    ]
    thread_counts = dict.fromkeys(record["params"]["threads"] for record in records)
    assert describe(records) == expected * len(thread_counts)
    assert next(iter(thread_counts)) == 1


@pytest.mark.slow
def test_prefill_of_each_length(run_bench: Run) -> None:
    records = run_bench("prefill", "--prompt-tokens", "20,300")
    assert describe(records) == [("prefill", "tokens/s", True)] * 2
    assert [record["params"]["prompt_tokens"] for record in records] == [20, 300]


@pytest.mark.slow
def test_decode_and_what_of_it_is_not_kernels(run_bench: Run) -> None:
    records = run_bench("decode", "--prompt-tokens", "16", "--new-tokens", "50")
    assert describe(records) == [
        ("decode", "tokens/s", True),
        ("outside the kernels", "%", False),
    ]
    assert 0 < records[1]["value"] < 100


@pytest.mark.slow
def test_serve_is_printed_and_drawn(run_bench: Run, tmp_path: Path) -> None:
    plot = tmp_path / "serve.svg"
    load = ("--concurrency", "1,3", "--prompt-tokens", "30", "--new-tokens", "10")
    records = run_bench("serve", *load, "--label", "here", "--plot", str(plot))
    assert describe(records[:9]) == [("new tokens per second", "tokens/s", True), *SPREADS]
    assert [record["params"]["concurrency"] for record in records] == [1] * 9 + [3] * 9
    assert ">here</text>" in plot.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("loop", [("--concurrency", "1,3"), ("--rate", "20", "--seconds", "1")])
def test_a_server_is_measured_in_turn_with_our_engine(
    run_bench: Run, tmp_path: Path, loop: tuple[str, ...], environ: dict[str, str]
) -> None:
    plot = tmp_path / "serve.svg"
    model = write_tiny_llama(tmp_path / "peer.gguf", context_length=CONTEXT)
    load = (*loop, "--prompt-tokens", "30", "--new-tokens", "10")
    with HttpServerProcess("--model", str(model), environ=environ) as server:
        peer = server.url.removesuffix("/mcp") + "/v1"
        records = run_bench("serve", *load, "--peer", f"peer={peer}", "--plot", str(plot))
    is_closed = loop[0] == "--concurrency"
    measures = [one[0] for one in SPREADS]
    rate = "new tokens per second" if is_closed else "answered tokens per second"
    measures = [rate, *measures, *([] if is_closed else ["sent late, p99", "refused"])]
    for server_name, model_name in (("Zonda", "tiny.gguf"), ("peer", "peer.gguf")):
        of_server = [one for one in records if one["params"]["server"] == server_name]
        assert {one["model"] for one in of_server} == {model_name}
        found = [one["params"]["measure"] for one in of_server]
        assert [name for name in found if not name.startswith("tokens of a prompt")] == (
            measures * (2 if is_closed else 1)
        )
        assert f">{server_name}</text>" in plot.read_text(encoding="utf-8")


@pytest.mark.slow
def test_prefix_seen_before_and_not(run_bench: Run) -> None:
    assert describe(run_bench("prefix", "--prompt-tokens", "400")) == [
        ("first token, prefix seen the first time", "ms", False),
        ("first token, prefix seen the second time", "ms", False),
    ]


@pytest.mark.slow
def test_tools_are_measured_from_calls_to_catalogues(run_bench: Run) -> None:
    options = ("--new-tokens", "40", "--prompt-tokens", "100")
    found = describe(run_bench("tools", *options))
    assert [one for one in found if one[2]] == [
        ("tokens per forward pass", "tokens", True),
        ("turns whose calls are valid", "%", True),
        ("turns that say the same, nothing guessed or forced", "%", True),
        ("constraints' share of a step", "%", True),
        ("constraints' share of a step", "%", True),
        ("grammar, calls may be made", "ms", True),
        ("grammar, a call must be made", "ms", True),
        ("schema over free", "ratio", True),
        ("answers that satisfy the schema", "%", True),
        ("first session over second", "ratio", True),
        ("p99 beside costly schemas over alone", "ratio", True),
    ]
    assert ("token under a schema", "ms", False) in found
    assert ("first token, second session", "ms", False) in found


@pytest.mark.slow
def test_startup_of_the_server_and_its_memory(run_bench: Run) -> None:
    records = run_bench("startup")
    assert describe(records) == [
        ("first MCP answer", "s", True),
        ("tools/list answered", "s", True),
        ("first token", "s", False),
        ("first MCP answer, second host", "s", True),
        ("tools/list answered, second host", "s", True),
        ("first token, second host", "s", False),
        ("end after end of input", "s", True),
        ("memory of a host's relay", "MiB", False),
        ("memory of the engine process", "MiB", False),
        ("resident memory", "MiB", True),
    ]
    assert records[-1]["params"] == {
        "measure": "resident memory",
        "sequences": 4,
        "tokens": CONTEXT,
    }
