"""SmolLM2 made to write every family's format: its calls parse and satisfy their schemas.

Its vocabulary has no family's markers, so they are plain text here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from runtime.chat.messages import ToolChoice
from runtime.chat.model import ChatModel
from runtime.chat.wire_formats.families import WIRE_FORMATS
from runtime.config import load_config
from runtime.engine.async_engine import AsyncEngine
from runtime.hub import Hub
from runtime.request import SamplingParams
from runtime.tokenizer import load_tokenizer
from runtime.weights import open_checkpoint
from tests.helpers.tool_sets import BELOW_STRICT, STRICT, TREE, WEATHER
from tests.helpers.tool_turns import Ask, take_all
from tests.helpers.wire_models import template_of

pytestmark = [pytest.mark.anyio, pytest.mark.real, pytest.mark.timeout(300)]

REQUIRED = ToolChoice("required")
SAME_AS = {"gemma3": "llama3"}


@dataclass(frozen=True)
class Speaker:
    """One engine, and the metadata of the tokenizer that goes with it."""

    engine: AsyncEngine
    metadata: dict[str, Any]

    def write(self, name: str) -> ChatModel:
        """The model with a template that writes calls in that format."""
        metadata = {**self.metadata, "tokenizer.chat_template": template_of(name)}
        return ChatModel(name, load_tokenizer(metadata), self.engine, context_length=2048)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def speaker(smollm2: Path, anyio_backend: str) -> AsyncIterator[Speaker]:
    config = replace(load_config(), model=str(smollm2), kv_cache_mib=256)
    async with Hub(config) as hub:
        model = await hub.get()
        yield Speaker(model._engine, dict(open_checkpoint(smollm2).metadata))


@pytest.mark.parametrize("name", [wire.name for wire in WIRE_FORMATS])
async def test_required_calls_are_valid_in_every_format(speaker: Speaker, name: str) -> None:
    model = speaker.write(name)
    assert model.wire_format.name == SAME_AS.get(name, name)
    samplings = [
        SamplingParams(max_tokens=120, temperature=temperature, seed=seed)
        for temperature, seed in ((0.0, 0), (1.0, 1))
    ]
    sets = ((WEATHER,), (TREE,), STRICT, (BELOW_STRICT,))
    turns = await take_all(model, [Ask(each, one, REQUIRED) for each in sets for one in samplings])
    assert all(turn.calls or turn.end.rejected for turn in turns)
    assert all(turn.calls for turn in turns if turn.ask.tools == (WEATHER,))
