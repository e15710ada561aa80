"""outlines types on SmolLM2-135M: every answer is of its type, whatever the model means by it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from outlines.generator import BlackBoxGenerator

from runtime.config import load_config
from runtime.outlines_model import OutlinesModel, open_outlines_model
from tests.test_outlines_model import TYPES, of_outlines

pytestmark = [pytest.mark.real, pytest.mark.slow]

PROMPTS = ["My red parrot is 12 years old.", "When was the moon landing?", "Yes or no?"]


@pytest.fixture(scope="module")
def model(smollm2: Path) -> Iterator[OutlinesModel]:
    with open_outlines_model(config=replace(load_config(), model=str(smollm2))) as opened:
        yield opened


@pytest.mark.parametrize("name", TYPES)
def test_every_output_parses_as_its_type(model: OutlinesModel, name: str) -> None:
    output_type, parse = TYPES[name]
    generate = BlackBoxGenerator(of_outlines(model), output_type)
    for answer in [
        *generate.batch(PROMPTS),
        *generate.batch(PROMPTS, temperature=1.5, seed=7),
        "".join(generate.stream(PROMPTS[0])),
    ]:
        parse(answer)
