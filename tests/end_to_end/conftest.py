"""What tests of whole processes share: a tiny model's file, and an environment of their own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import mcp_servers
from tests.helpers.tiny_gguf import write_tiny_llama

ROOT = Path(mcp_servers.__file__).parent.parent


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    state = {"ZONDA_STATE_DIR": str(tmp_path / "state"), "ZONDA_CACHE_DIR": str(tmp_path / "cache")}
    # The engine process that `zonda mcp` starts ends with the test's last host.
    return {"PATH": os.defpath, "PYTHONPATH": str(ROOT), "ZONDA_ENGINE_IDLE_S": "0", **state}


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    write_tiny_llama(path)
    return path
