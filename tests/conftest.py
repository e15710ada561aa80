"""What all tests share: one async backend, hypothesis' profiles, the real model."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from runtime.config import load_config
from runtime.sources import pull_model

settings.register_profile("check", derandomize=True, max_examples=50, deadline=None)
settings.register_profile("ci", derandomize=True, max_examples=1000, deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "check")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The default model's file, fetched once into the user's cache."""
    return pull_model("smollm2-135m", load_config().cache_dir, lambda done, total: None)
