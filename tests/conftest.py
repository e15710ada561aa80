"""What all tests share: one async backend, hypothesis' profiles, the real model, torch's threads.

torch is the reference of small computations, on which its threads wait for each other more than
they compute: one takes half the processor time, and a third of the time on a busy machine.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from runtime.config import load_config
from runtime.sources import pull_model
from runtime.telemetry import PACKAGES

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, here or in a child

settings.register_profile("check", derandomize=True, max_examples=50, deadline=None)
settings.register_profile("ci", derandomize=True, max_examples=1000, deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "check")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def levels_as_before() -> Iterator[None]:
    """Commands set our loggers' levels; a test that runs one in process leaves none behind."""
    loggers = [logging.getLogger(package) for package in PACKAGES]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The default model's file, fetched once into the user's cache."""
    return pull_model("smollm2-135m", load_config().cache_dir, lambda done, total: None)


@pytest.fixture(scope="session")
def gemma3() -> Path:
    """Gemma 3 270M, fetched once into the user's cache."""
    return pull_model("gemma3-270m", load_config().cache_dir, lambda done, total: None)
