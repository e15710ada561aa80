"""Custom tools of a real engine: its text has the form asked for, streamed or not."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from runtime.config import Config
from tests.helpers.web_service import HubModels, ServedApp, open_app
from tests.http_api.test_chat import chunks_of
from tests.http_api.test_custom_tools import CHAT, RESPONSES, choice_of, post, tool_of
from tests.http_api.test_responses import events_of
from tools.spec import JsonObject

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

REGEX = r'(ls|cat) "é"\n[a-z]{1,12}\\?'


@asynccontextmanager
async def real_app(model: Path, tmp_path: Path) -> AsyncIterator[ServedApp]:
    config = Config(model=str(model), cache_dir=tmp_path, state_dir=tmp_path, kv_cache_mib=8)
    async with open_app(HubModels(config), model_name=config.model) as app:
        yield app


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
@pytest.mark.parametrize("regex", [REGEX, r"^(cd|[^a]{2}\$)$", r"^pwd|x\d{3}\\\\$"])
async def test_a_models_text_has_the_form_and_is_the_same_streamed(
    path: str, regex: str, tiny_model: Path, tmp_path: Path
) -> None:
    """The tiny model writes anything that the grammar lets through."""
    found = set()
    async with real_app(tiny_model, tmp_path) as app:
        for seed in range(8):
            fields: JsonObject = {
                "model": str(tiny_model),
                "tools": [tool_of(path, "regex", regex)],
                "tool_choice": choice_of(path),
                "seed": seed,
            }
            whole = await post(app, path, **fields)
            streamed = await post(app, path, **fields, stream=True)
            text = whole_text(whole) if path == CHAT else whole.json()["output"][-1]["input"]
            assert re.fullmatch(regex, text), text
            assert text == (chunk_text(streamed) if path == CHAT else event_text(streamed))
            found.add(text)
    assert len(found) > 1


def whole_text(response: httpx2.Response) -> str:
    (call,) = response.json()["choices"][0]["message"]["tool_calls"]
    return str(call["custom"]["input"])


def chunk_text(response: httpx2.Response) -> str:
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks_of(response)]
    calls = [one for delta in deltas for one in delta.get("tool_calls", ())]
    assert len(calls) > 1
    return "".join(call["custom"]["input"] for call in calls)


def event_text(response: httpx2.Response) -> str:
    kind = "response.custom_tool_call_input"
    events = events_of(response)
    deltas = [event["delta"] for event in events if event["type"] == f"{kind}.delta"]
    (done,) = [event["input"] for event in events if event["type"] == f"{kind}.done"]
    assert done == "".join(deltas)
    return str(done)
