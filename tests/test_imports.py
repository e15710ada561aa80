"""What stays light stays light, and our import names mean our packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import runtime

HEAVY = ("torch", "mcp", "starlette", "transformers", "outlines")


def modules_after(code: str, *, cwd: Path | None = None) -> set[str]:
    """Top-level packages loaded by a new interpreter that ran `code`."""
    script = f"{code}\nimport sys; print(' '.join({{n.partition('.')[0] for n in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True, cwd=cwd
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "module",
    [
        "mcp_servers.__main__",
        "mcp_servers.cli",
        "runtime",
        "runtime.config",
        "runtime.request",
        "runtime.sources",
        "runtime.agent.loop",
        "runtime.chat.model",
        "runtime.engine.engine",
        "runtime.grammar.compile",
        "runtime.weights",
        "runtime.tokenizer",
        "tools.toolset",
        "tools.function",
    ],
)
def test_module_loads_nothing_heavy(module: str) -> None:
    assert modules_after(f"import {module}").isdisjoint(HEAVY)


def test_public_api_is_imported_name_by_name() -> None:
    code = "import runtime; assert not {'numpy', 'anyio'} & set(__import__('sys').modules)"
    assert "pydantic" not in modules_after(f"{code}; runtime.Message")
    for name in runtime.__all__:
        assert getattr(runtime, name).__module__.partition(".")[0] in {"runtime", "tools", "types"}
    assert set(runtime.__all__) <= set(dir(runtime))
    assert runtime.__all__ == sorted(set(runtime.__all__))
    with pytest.raises(AttributeError, match="module 'runtime' has no attribute 'Nothing'"):
        getattr(runtime, "Nothing")  # noqa: B009  mypy knows that it is not there


def test_model_server_answers_before_the_engine_is_imported() -> None:
    loaded = modules_after("import mcp_servers.model_server.stdio")
    assert loaded.isdisjoint({"torch", "llguidance", "prometheus_client"})


def test_zonda_starts_in_a_folder_with_a_tools_package_of_its_own(tmp_path: Path) -> None:
    for package in ("tools", "runtime"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('not ours')\n", "utf-8")
    executable = Path(sys.executable).parent / "zonda"
    done = subprocess.run(
        [executable, "--help"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "demo" in done.stdout
