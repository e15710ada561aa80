"""The scripted engine keeps the promises of the seam."""

from __future__ import annotations

import pytest

from tests.helpers.engine_contract import CHECKS, Check
from tests.helpers.scripted_engine import ScriptedEngine, say
from tests.helpers.tiny_tokenizer import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


@pytest.mark.anyio
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_scripted_engine(check: Check) -> None:
    await check(ScriptedEngine(TOKENIZER, say("abcdefghij")), TOKENIZER)
