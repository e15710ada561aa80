"""Tool servers under limits of the system and in a sandbox, as real processes."""

from __future__ import annotations

import os
import resource
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.helpers.tool_servers import scripted_server
from tools.mcp_client.config import ServerConfig
from tools.mcp_client.confinement import confined_command
from tools.mcp_client.options import Options, ProcessLimits, Sandbox
from tools.mcp_client.toolset import open_toolset
from tools.spec import JsonObject, ToolResult
from tools.toolset import CallContext

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="limits are enforced on Linux"),
]
BWRAP = shutil.which("bwrap")


async def call(config: ServerConfig, tool: str, arguments: JsonObject | None = None) -> ToolResult:
    with anyio.fail_after(20):
        async with open_toolset({"a": config}) as toolset:
            await toolset.wait_for("a", "ready", "failed")
            return await toolset.call_tool(f"a__{tool}", arguments or {}, CallContext())


def limited(**limits: int | None) -> ServerConfig:
    return replace(scripted_server("a", "limits"), options=Options(limits=ProcessLimits(**limits)))


def told(result: ToolResult) -> dict[str, Any]:
    assert result.structured is not None, result.text
    return result.structured


async def test_limits_hold_for_the_process_and_by_default_for_memory_only() -> None:
    wanted = limited(cpu_s=50, memory_mb=512, num_processes=7)
    limits = told(await call(wanted, "get_limits"))
    assert (limits["cpu"], limits["data"]) == ([50, 50], [512 << 20, 512 << 20])
    assert 7 < limits["nproc"][1] < 10_000_000
    ours = [resource.getrlimit(kind)[1] for kind in (resource.RLIMIT_CPU, resource.RLIMIT_NPROC)]
    default = told(await call(limited(), "get_limits"))
    assert default["data"][1] == 4096 << 20
    assert [default["cpu"][1], default["nproc"][1]] == ours


async def test_a_server_that_takes_too_much_memory_gets_none_and_lives() -> None:
    refused = await call(limited(memory_mb=64), "allocate", {"mib": 200})
    assert "MemoryError" in refused.text
    assert told(await call(limited(memory_mb=400), "allocate", {"mib": 200})) == {"mib": 200}


async def test_a_server_that_burns_its_processor_time_is_ended() -> None:
    result = await call(limited(cpu_s=1), "burn")
    assert "was lost during the call of a__burn" in result.text


def sandboxed(path: str, **sandbox: Any) -> ServerConfig:
    config = scripted_server("a", "limits")
    return replace(config, env={"PATH": path}, options=Options(sandbox=Sandbox(**sandbox)))


async def test_a_sandbox_without_bwrap_is_an_error_that_says_so(tmp_path: Path) -> None:
    async with open_toolset({"a": sandboxed(str(tmp_path))}) as toolset:
        state = await toolset.wait_for("a", "failed")
    assert state.reason == (
        "cannot be started: its sandbox needs `bwrap`, which is not on its PATH; install "
        'bubblewrap, or say "x-runtime": {"sandbox": "none"} in its entry'
    )


def test_the_command_in_a_sandbox_sees_files_and_changes_only_those_it_may(
    tmp_path: Path,
) -> None:
    bwrap = tmp_path / "bwrap"
    bwrap.touch(mode=0o755)
    (tmp_path / "secret").touch()
    hidden = (tmp_path, tmp_path / "secret", tmp_path / "missing")
    paths = {"writable": (Path("/data"),), "read_only": (Path("/data/x"),), "hidden": hidden}
    config = replace(sandboxed(str(tmp_path), **paths), cwd=Path("/work"))
    assert confined_command(config) == [
        *(str(bwrap), "--die-with-parent", "--unshare-all", "--ro-bind", "/", "/"),
        *("--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"),
        *("--ro-bind-try", "/work", "/work", "--bind-try", "/data", "/data"),
        *("--ro-bind-try", "/data/x", "/data/x", "--tmpfs", str(tmp_path)),
        *("--ro-bind", "/dev/null", str(tmp_path / "secret")),
        *("--chdir", "/work", "--", config.command, *config.args),
    ]
    shared = confined_command(sandboxed(str(tmp_path), has_network=True))
    assert shared[3] == "--share-net"


@pytest.mark.skipif(BWRAP is None, reason="bwrap is not installed")
async def test_a_server_in_a_sandbox_writes_only_where_it_may(tmp_path: Path) -> None:
    open_folder, closed = tmp_path / "open", tmp_path / "closed"
    open_folder.mkdir()
    closed.mkdir()
    (open_folder / "kept").mkdir()
    config = sandboxed(
        os.environ["PATH"], writable=(open_folder,), read_only=(open_folder / "kept",)
    )
    wrote = await call(config, "write_file", {"path": str(open_folder / "x")})
    assert not wrote.is_error, wrote.text
    assert (open_folder / "x").exists()
    for path in (closed / "x", open_folder / "kept" / "x"):
        refused = await call(config, "write_file", {"path": str(path)})
        assert "Read-only file system" in refused.text or "No such file" in refused.text
        assert not path.exists()
    network = told(await call(config, "write_file", {"path": str(open_folder / "y")}))
    assert network["interfaces"] == ["lo"]
