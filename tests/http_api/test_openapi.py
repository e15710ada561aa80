"""The API's document: all of its routes, and answers that are as it says."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import jsonschema
import pytest
from pydantic import ValidationError

from mcp_servers.refusals import is_api
from runtime.http_api.answer_shapes import ChatAnswer
from runtime.http_api.chat_shapes import ChatRequest, Shape
from runtime.http_api.conversations import conversation_routes
from runtime.http_api.messages_routes import anthropic_routes
from runtime.http_api.messages_shapes import MessagesRequest
from runtime.http_api.openapi import Operation, write_document
from runtime.http_api.operations import OPERATIONS
from runtime.http_api.responses import responses_routes
from runtime.http_api.responses_shapes import ResponseRequest
from runtime.http_api.responses_store import Memory
from runtime.http_api.routes import openai_routes
from runtime.http_api.stored_chats import StoredChats
from runtime.http_api.text_routes import text_routes
from runtime.http_api.text_shapes import CompletionRequest, EmbeddingRequest
from tests.helpers.model_service import scripted_models
from tests.helpers.scripted_chat_model import ScriptedTurn, play
from tests.helpers.web_service import HEADERS, ServedApp, open_app
from tests.http_api.test_chat import ADD, CALLS_ADD, HELLO

pytestmark = pytest.mark.anyio

KEY = "a-key-that-is-long-enough"

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
    ("post", "/v1/responses", {"model": "none"}),
    ("post", "/v1/responses", {"tool_choice": "required", "input": "a"}),
    ("post", "/v1/responses", {"input": "a", "background": True, "text": {"verbosity": "low"}}),
    ("post", "/v1/messages", {**HELLO, "max_tokens": 5}),
    ("post", "/v1/messages", {"max_tokens": 5}),
    ("get", "/metrics", {}),
    ("get", "/ready", {}),
]


def check_answer(document: Any, method: str, path: str, response: httpx2.Response) -> None:
    """Hold an answer against the document: status, headers, kind and shape."""
    responses = document["paths"][path][method]["responses"]
    documented = responses[str(response.status_code)]
    if (ref := documented.get("$ref", "")).startswith("#/components/responses/"):
        documented = document["components"]["responses"][ref.rpartition("/")[2]]
    for name, header in documented["headers"].items():
        assert name in response.headers or not header.get("required")
    kind = response.headers["content-type"].partition(";")[0]
    schema = documented["content"][kind].get("schema", {})
    value = response.json() if kind == "application/json" else response.text
    jsonschema.validate(value, {**schema, "components": document["components"]})


async def test_answers_are_as_the_document_says() -> None:
    models = scripted_models(play(ScriptedTurn("Hi."), ScriptedTurn("Hi."), CALLS_ADD))
    called = ("post", "/v1/chat/completions", {**HELLO, "tools": [ADD]})
    async with open_app(models) as app:
        document = (await app.request("GET", "/openapi.json", HEADERS)).json()
        for method, path, body in [*ASKED, called]:
            content = json.dumps(body).encode() if body else b""
            response = await app.request(method.upper(), path, HEADERS, content)
            check_answer(document, method, path, response)


class Walk:
    """Asks for operations with their examples, and then for what their links lead to.

    Attributes:
        answered: statuses by operation.
    """

    def __init__(self, app: ServedApp, document: Any) -> None:
        self._app = app
        self._document = document
        self.operations = {
            operation["operationId"]: (method, path, operation)
            for path, ways in document["paths"].items()
            for method, operation in ways.items()
        }
        self.answered: dict[str, set[int]] = {name: set() for name in self.operations}

    async def follow(self, name: str, given: dict[str, str], body: Any, left: int) -> None:
        """Ask for one, and follow its links `left` times, what is deleted last of all."""
        method, path, operation = self.operations[name]
        if "requestBody" in operation and body is None:
            body = operation["requestBody"]["content"]["application/json"]["example"]
        query = "&".join(f"{key[6:]}={one}" for key, one in given.items() if "query." in key)
        content = b"" if body is None else json.dumps(body).encode()
        target = f"{path.format_map(given)}?{query}"
        response = await self._app.request(method.upper(), target, HEADERS, content)
        check_answer(self._document, method, path, response)
        self.answered[name].add(response.status_code)
        links = operation["responses"]["200"].get("links", {}) if left else {}
        for link in sorted(links.values(), key=lambda one: "delete" in one["operationId"]):
            told, sent = (
                {key: resolve(one, given, response) for key, one in link.get(part, {}).items()}
                for part in ("parameters", "requestBody")
            )
            await self.follow(link["operationId"], told, sent or None, left - 1)


def resolve(expression: Any, given: dict[str, str], response: httpx2.Response) -> Any:
    """What an expression of a link means after an answer; "none" where it means nothing."""
    if not isinstance(expression, str) or not expression.startswith("$"):
        return expression
    if expression.startswith("$request.path."):
        return given[expression.removeprefix("$request.path.")]
    value = response.json()
    for part in expression.removeprefix("$response.body#/").split("/"):
        if isinstance(value, list):
            value = dict(enumerate(value)).get(int(part), {})
        else:
            value = value.get(part, "none")
    return value


async def test_every_operation_is_reached_by_examples_and_links() -> None:
    models = scripted_models(play(ScriptedTurn("Hi.")))
    async with open_app(models, readiness=lambda: "ready") as app:
        document = (await app.request("GET", "/openapi.json", HEADERS)).json()
        walk = Walk(app, document)
        for name, (_, path, _) in walk.operations.items():
            if "{" not in path:
                await walk.follow(name, {}, None, 2)
    cancel, unload = "post_v1_responses__response_id__cancel", "delete_v1_models__model_"
    reached = {name for name, statuses in walk.answered.items() if 200 in statuses}
    assert walk.answered.keys() - reached == {cancel, unload}
    assert walk.answered[cancel] >= {400}  # no response of the examples is in the background
    assert walk.answered[unload] >= {403}  # the server was started without --admin


def test_every_route_is_in_the_document() -> None:
    def caller(request: object) -> str:
        return ""

    backend: Any = None
    routes = [
        *openai_routes(backend, caller, StoredChats()),
        *text_routes(backend, caller),
        *anthropic_routes(backend, caller),
        *responses_routes(backend, caller, Memory()),
        *conversation_routes(caller, Memory()),
    ]
    served = {
        (method.lower(), route.path.replace("{name:path}", "{model}"))
        for route in routes
        for method in route.methods or ()
        if method != "HEAD"
    }
    aliases = {("post", "/apply_template")}
    assert served - aliases == {(one.method, one.path) for one in OPERATIONS}
    assert all(is_api(path) for _, path in served)


async def test_a_server_with_keys_says_that_it_needs_one() -> None:
    async with open_app(scripted_models(play()), [KEY]) as app:
        headers = {**HEADERS, "authorization": f"Bearer {KEY}"}
        document = (await app.request("GET", "/openapi.json", headers)).json()
        refused = await app.request("GET", "/openapi.json", HEADERS)
    assert document["security"] == [{"bearer": []}, {"x_api_key": []}]
    assert document["paths"].keys() >= {"/health", "/ready", "/metrics"}
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    assert write_document(OPERATIONS, "1", model="m")["security"] == []


@pytest.mark.parametrize(
    ("shape", "body"),
    [
        (ChatRequest, {**HELLO, "n": 1.0, "max_tokens": 1e1, "seed": -3.0}),
        (EmbeddingRequest, {"model": "m", "input": [1.0, 2]}),
        (CompletionRequest, {"model": "m", "prompt": [[1.0], [2]], "logprobs": 0.0}),
        (ResponseRequest, {"max_output_tokens": 16.0}),
        (MessagesRequest, {**HELLO, "max_tokens": 5.0}),
    ],
)
def test_a_whole_number_may_be_written_with_a_point(shape: type[Shape], body: Any) -> None:
    """To JSON Schema, and so to the document, 1.0 is an integer."""
    read = shape.model_validate(body)
    whole = json.loads(json.dumps(body), parse_float=lambda text: int(float(text)))
    assert read == shape.model_validate(whole)
    with pytest.raises(ValidationError):
        shape.model_validate({**body, "max_tokens": 1.5, "input": [1.5], "max_output_tokens": 16.5})


def test_other_operations_join_the_document() -> None:
    other = Operation("delete", "/v1/things/{thing}", "Forget a thing", (ChatAnswer,))
    document = write_document([*OPERATIONS, other], "9", model="m")
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
