"""Requests for Anthropic's messages, and what a scripted model is asked by them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx2

from tests.helpers.model_service import scripted_models
from tests.helpers.scripted_chat_model import AskedTurn, Script, ScriptedTurn, play
from tests.helpers.web_service import ServedApp, open_app

HELLO: dict[str, Any] = {
    "model": "scripted",
    "max_tokens": 9,
    "messages": [{"role": "user", "content": "hello"}],
}
HEADERS = {
    "host": "127.0.0.1",
    "content-type": "application/json",
    "anthropic-version": "2023-06-01",
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
ADD = {"name": "add", "description": "Adds.", "input_schema": SCHEMA}
SUB = {"name": "sub", "input_schema": {"type": "object"}}
LATER = {**SUB, "defer_loading": True}
USE = {"type": "tool_use", "id": "toolu_9", "name": "add", "input": {"a": 2}}
SAYS_X = ScriptedTurn("x")


async def post(
    app: ServedApp, body: Mapping[str, Any] | bytes, path: str = "/v1/messages"
) -> httpx2.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await app.request("POST", path, HEADERS, content)


async def ask(script: Script, **fields: Any) -> tuple[httpx2.Response, list[AskedTurn]]:
    models = scripted_models(script)
    async with open_app(models) as app:
        response = await post(app, {**HELLO, **fields})
    return response, models.model.asked


async def asked_for(**fields: Any) -> AskedTurn:
    response, asked = await ask(play(SAYS_X), **fields)
    assert response.status_code == 200, response.text
    return asked[0]


def result(content: Any = "3", **fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "toolu_9", "content": content, **fields}


def called(*results: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": "add"},
        {"role": "assistant", "content": [USE]},
        {"role": "user", "content": list(results)},
    ]


def said(text: str, **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": text, **fields}
