"""What `x-runtime` says of roots, sampling, limits and sandboxes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools.mcp_client.config import ServerConfig, load_servers
from tools.mcp_client.options import Options, ProcessLimits, Root, SamplingBudget, Sandbox

ENVIRON = {"HOME": "/home/me", "DATA": "/data"}


def load(tmp_path: Path, runtime: Any) -> ServerConfig:
    path = tmp_path / "mcp.json"
    entry = {"command": "x", "x-runtime": runtime}
    path.write_text(json.dumps({"mcpServers": {"a": entry}}), encoding="utf-8")
    return load_servers(path, ENVIRON)["a"]


def test_every_option_is_read_and_each_has_a_default(tmp_path: Path) -> None:
    runtime = {
        "roots": ["${DATA}/a b", {"uri": "file:///x", "name": "X"}, "sub"],
        "sampling": {"allow": True, "max_tokens": 64, "per_minute": 3, "tools": True},
        "max_parallel": 2,
        "start": "at once",
        "limits": {"cpu_s": 60, "memory_mb": 512, "processes": 8},
        "sandbox": {
            "kind": "bwrap",
            "network": True,
            "write": ["${DATA}", "sub"],
            "read_only": ["${DATA}/.git"],
            "hide": ["/home/me/.ssh"],
        },
    }
    assert load(tmp_path, runtime).options == Options(
        roots=(
            Root("file:///data/a%20b"),
            Root("file:///x", "X"),
            Root((tmp_path / "sub").as_uri()),
        ),
        sampling=SamplingBudget(max_tokens=64, per_minute=3, has_tools=True),
        max_parallel=2,
        is_lazy=False,
        limits=ProcessLimits(cpu_s=60, memory_mb=512, num_processes=8),
        sandbox=Sandbox(
            has_network=True,
            writable=(Path("/data"), tmp_path / "sub"),
            read_only=(Path("/data/.git"),),
            hidden=(Path("/home/me/.ssh"),),
        ),
    )
    assert load(tmp_path, {}).options == Options()
    assert load(tmp_path, {"sandbox": "bwrap"}).options == Options(sandbox=Sandbox())
    assert load(tmp_path, {"sampling": {"max_tokens": 9}}).options == Options()
    assert load(tmp_path, {"limits": {"memory_mb": None}}).options.limits == ProcessLimits(
        memory_mb=None
    )


@pytest.mark.parametrize(
    ("entry", "shared", "sandbox"),
    [
        ({}, {"filesystem": {"allowWrite": ["/x"]}}, None),
        ({"sandboxEnabled": False}, {}, None),
        ({"sandboxEnabled": True}, None, Sandbox()),
        (
            {"sandboxEnabled": True},
            {
                "filesystem": {"allowWrite": ["/x"], "denyWrite": ["/x/y"], "denyRead": ["/z"]},
                "network": {"allowedDomains": ["example.org"]},
            },
            Sandbox(
                has_network=True,
                writable=(Path("/x"),),
                read_only=(Path("/x/y"),),
                hidden=(Path("/z"),),
            ),
        ),
        ({"sandboxEnabled": True, "x-runtime": {"sandbox": "none"}}, {}, None),
        ({"sandboxEnabled": True, "x-runtime": {"max_parallel": 4}}, {"network": []}, Sandbox()),
    ],
)
def test_the_sandbox_of_an_editor_is_ours(
    tmp_path: Path, entry: Any, shared: Any, sandbox: Sandbox | None
) -> None:
    path = tmp_path / "mcp.json"
    document = {"servers": {"a": {"command": "x", **entry}}, "sandbox": shared}
    path.write_text(json.dumps(document), encoding="utf-8")
    config = load_servers(path, ENVIRON)["a"]
    assert (config.problem, config.options) == (None, Options(sandbox=sandbox))


def test_a_sandbox_of_an_editor_that_is_none_is_the_servers_problem(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    rules = {"filesystem": {"allowWrite": "/x"}}
    document = {"servers": {"a": {"command": "x", "sandboxEnabled": True}}, "sandbox": rules}
    path.write_text(json.dumps(document), encoding="utf-8")
    assert "x-runtime.sandbox" in str(load_servers(path, ENVIRON)["a"].problem)


def test_the_path_of_a_root_is_what_its_uri_says() -> None:
    assert Root("file:///data/a%20b").path == Path("/data/a b")


@pytest.mark.parametrize(
    ("runtime", "problem"),
    [
        ({"roots": ["https://x/y"]}, "roots: 'https://x/y' is no local folder"),
        ({"roots": ["file://host/y"]}, "roots: 'file://host/y' is no local folder"),
        ({"roots": ["${MISSING}"]}, "the variable MISSING is not set"),
        ({"sampling": {"allow": True, "max_tokens": 0}}, "x-runtime.sampling.max_tokens"),
        ({"sampling": True}, "x-runtime.sampling"),
        ({"max_parallel": 0}, "x-runtime.max_parallel"),
        ({"start": "later"}, "x-runtime.start"),
        ({"limits": {"cpu": 1}}, "x-runtime.limits.cpu"),
        ({"sandbox": "docker"}, "x-runtime.sandbox"),
    ],
)
def test_a_wrong_option_is_the_servers_problem(tmp_path: Path, runtime: Any, problem: str) -> None:
    assert problem in str(load(tmp_path, runtime).problem)
