"""The API's own document, generated from the shapes by which bodies are read.

Each file of routes lists its operations; whoever serves the routes joins the lists.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from runtime.http_api.answer_shapes import ErrorAnswer
from tools.spec import JsonObject

_REF = "#/components/schemas/{model}"


@dataclass(frozen=True, slots=True)
class Operation:
    """One route as the document shows it.

    Attributes:
        method: in small letters.
        path: with its parameters in braces; each is a text.
        summary: what it does, in a few words.
        answers: shapes of its answers; more than one where the body decides.
        body: shape of the request's body, if it has one.
        streams: whether the body may ask for server-sent events.
        error: shape of every refusal.
    """

    method: Literal["get", "post", "delete"]
    path: str
    summary: str
    answers: tuple[type[BaseModel], ...]
    body: type[BaseModel] | None = None
    streams: bool = False
    error: type[BaseModel] = ErrorAnswer


def write_document(operations: Sequence[Operation], version: str) -> JsonObject:
    """Return an OpenAPI 3.1 document."""
    requests = {one.body for one in operations if one.body is not None}
    answers = {shape for one in operations for shape in (*one.answers, one.error)}
    modes: list[tuple[type[BaseModel], Literal["validation", "serialization"]]] = [
        (shape, "validation") for shape in sorted(requests | answers, key=lambda one: one.__name__)
    ]
    refs, schemas = models_json_schema(modes, by_alias=True, ref_template=_REF)
    schema_of: dict[Any, JsonObject] = {shape: schema for (shape, _), schema in refs.items()}
    paths: dict[str, dict[str, Any]] = {}
    for one in operations:
        paths.setdefault(one.path, {})[one.method] = _operation(one, schema_of)
    bearer = {"type": "http", "scheme": "bearer"}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Zonda", "version": version},
        "paths": paths,
        "components": {"schemas": schemas["$defs"], "securitySchemes": {"bearer": bearer}},
        "security": [{"bearer": []}, {}],
    }


def _operation(one: Operation, schema_of: dict[Any, JsonObject]) -> JsonObject:
    shapes = [schema_of[shape] for shape in one.answers]
    content = {"application/json": {"schema": shapes[0] if len(shapes) == 1 else {"anyOf": shapes}}}
    if one.streams:
        content["text/event-stream"] = {}  # a schema of 3.1 cannot say what each event is
    error = {"application/json": {"schema": schema_of[one.error]}}
    written: JsonObject = {
        "summary": one.summary,
        "operationId": f"{one.method}{one.path}".translate(str.maketrans("/-{}.", "_____")),
        "responses": {
            "200": {"description": one.summary, "content": content},
            "default": {"description": "Why it is not answered as asked.", "content": error},
        },
    }
    names = [part[1:-1] for part in one.path.split("/") if part.startswith("{")]
    if names:
        text = {"type": "string", "minLength": 1}
        written["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": text} for name in names
        ]
    if one.body is not None:
        body = {"application/json": {"schema": schema_of[one.body]}}
        written["requestBody"] = {"required": True, "content": body}
    return written


def document_route(
    operations: Sequence[Operation],
    version: str,
    guarded: Callable[[Callable[[Request], Awaitable[Response]]], Any],
) -> Route:
    """Serve the document at `/openapi.json`; it is written when first asked for."""
    document: list[JsonObject] = []

    async def show(request: Request) -> Response:
        if not document:
            document.append(write_document(operations, version))
        return JSONResponse(document[0])

    return Route("/openapi.json", guarded(show), methods=["GET"])
