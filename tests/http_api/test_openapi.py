"""The API's document: all of its routes, and answers that are as it says."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from runtime.http_api.answer_shapes import ChatAnswer
from runtime.http_api.openapi import Operation, write_document
from runtime.http_api.operations import OPERATIONS
from runtime.http_api.routes import openai_routes
from runtime.http_api.stored_chats import StoredChats
from runtime.http_api.text_routes import text_routes
from tests.helpers.model_service import scripted_models
from tests.helpers.scripted_chat_model import ScriptedTurn, play
from tests.helpers.web_service import open_app
from tests.http_api.test_chat import ADD, CALLS_ADD, HELLO

pytestmark = pytest.mark.anyio

ASKED: list[tuple[str, str, dict[str, Any]]] = [
    ("post", "/v1/chat/completions", HELLO),
    ("post", "/v1/chat/completions", {**HELLO, "logprobs": True, "n": 2}),
    ("post", "/v1/chat/completions", {"model": "scripted", "messages": []}),
    ("post", "/v1/completions", {"model": "scripted", "prompt": "a", "logprobs": 3, "echo": True}),
    ("post", "/v1/completions", {"model": "none", "prompt": "a"}),
    ("post", "/v1/embeddings", {"model": "scripted", "input": ["a"], "encoding_format": "base64"}),
    ("post", "/v1/embeddings", {"model": "scripted", "input": "a"}),
    ("post", "/tokenize", {"content": "é", "with_pieces": True}),
    ("post", "/tokenize", {"prompt": "a", "return_token_strs": True}),
    ("post", "/tokenize", {"messages": [{"role": "user", "content": "a"}]}),
    ("post", "/detokenize", {"tokens": [1, 2]}),
    ("post", "/apply-template", {"messages": [{"role": "user", "content": "a"}]}),
    ("get", "/v1/models", {}),
    ("get", "/v1/models/{model}", {}),
    ("delete", "/v1/models/{model}", {}),
]


async def test_answers_are_as_the_document_says() -> None:
    models = scripted_models(play(ScriptedTurn("Hi."), ScriptedTurn("Hi."), CALLS_ADD))
    headers = {"host": "127.0.0.1", "content-type": "application/json"}
    called = ("post", "/v1/chat/completions", {**HELLO, "tools": [ADD]})
    async with open_app(models) as app:
        document = (await app.request("GET", "/openapi.json", headers)).json()
        for method, path, body in [*ASKED, called]:
            content = json.dumps(body).encode() if body else b""
            response = await app.request(method.upper(), path, headers, content)
            kinds = document["paths"][path][method]["responses"]
            kind = kinds.get(str(response.status_code), kinds["default"])
            schema = kind["content"]["application/json"]["schema"]
            whole = {**schema, "components": document["components"]}
            jsonschema.validate(response.json(), whole)


def test_every_route_is_in_the_document() -> None:
    def caller(request: object) -> str:
        return ""

    backend: Any = None
    routes = [*openai_routes(backend, caller, StoredChats()), *text_routes(backend, caller)]
    served = {
        (method.lower(), route.path.replace("{name:path}", "{model}"))
        for route in routes
        for method in route.methods or ()
        if method != "HEAD"
    }
    aliases = {("post", "/apply_template")}
    assert served - aliases == {(one.method, one.path) for one in OPERATIONS}


def test_other_operations_join_the_document() -> None:
    other = Operation("delete", "/v1/things/{thing}", "Forget a thing", (ChatAnswer,))
    document = write_document([*OPERATIONS, other], "9")
    assert document["info"] == {"title": "Zonda", "version": "9"}
    written = document["paths"]["/v1/things/{thing}"]["delete"]
    assert written["parameters"] == [
        {
            "name": "thing",
            "in": "path",
            "required": True,
            "schema": {"type": "string", "minLength": 1},
        }
    ]
    assert "requestBody" not in written
    request = document["components"]["schemas"]["ChatRequest"]
    assert request["additionalProperties"] is False
    assert set(request["required"]) == {"model", "messages"}
