"""The API's own document, generated from the shapes by which bodies are read.

Each file of routes lists its operations; whoever serves the routes joins the lists.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from runtime.http_api.answer_shapes import ErrorAnswer
from tools.spec import JsonObject

_REF = "#/components/schemas/{model}"
_BEARER: JsonObject = {"type": "http", "scheme": "bearer"}
_X_API_KEY: JsonObject = {"type": "apiKey", "in": "header", "name": "x-api-key"}
_REQUEST_ID: JsonObject = {"required": True, "schema": {"type": "string", "minLength": 1}}
_SECONDS: JsonObject = {"schema": {"type": "integer", "minimum": 1}}

_REFUSALS = {
    400: "The request cannot be answered as it is.",
    401: "The key is missing or wrong.",
    403: "The key, or the page that asks, may not do this.",
    404: "There is nothing of this name.",
    408: "The body did not come in time.",
    413: "The body is too long.",
    415: "The body is not application/json.",
    421: "The Host header names another server.",
    429: "Too much is asked for at once; see Retry-After.",
    500: "The server failed.",
    503: "The server cannot answer now; see Retry-After.",
    529: "The server cannot answer now; see Retry-After.",
}
_ALWAYS = {401, 403, 421, 500}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A part of the query, or a header, that may be left out.

    Attributes:
        schema: of its value.
        place: where it stands.
        is_object: whether it is several, written as `name[key]=value`.
    """

    name: str
    schema: JsonObject
    place: Literal["query", "header"] = "query"
    is_object: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """One route as the document shows it.

    Attributes:
        method: in small letters.
        path: with its parameters in braces; each is a text.
        summary: what it does, in a few words.
        answers: shapes of its answers; more than one where the body decides. None where the
            answer is a plain text.
        body: shape of the request's body, if it has one.
        example: a body, without the model.
        streams: whether the body may ask for server-sent events.
        error: shape of every refusal.
        parameters: those that do not stand in the path.
        tells: where the answer, as a JSON pointer, has values for other operations: for
            parameters of their paths by name, others as `query.NAME` or `body.NAME`.
        overloaded: the status of a server that can answer nobody now; None where it always can.
        others: shapes of answers with another status, which are no errors.
    """

    method: Literal["get", "post", "delete"]
    path: str
    summary: str
    answers: tuple[type[BaseModel], ...]
    body: type[BaseModel] | None = None
    example: JsonObject = field(default_factory=dict)
    streams: bool = False
    error: type[BaseModel] = ErrorAnswer
    parameters: tuple[Parameter, ...] = ()
    tells: Mapping[str, str] = field(default_factory=dict)
    overloaded: int | None = 503
    others: Mapping[int, type[BaseModel]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The operation's id."""
        return f"{self.method}{self.path}".translate(str.maketrans("/-{}.", "_____"))

    @property
    def path_names(self) -> list[str]:
        """The parameters of the path, in order."""
        return [part[1:-1] for part in self.path.split("/") if part.startswith("{")]

    @property
    def body_names(self) -> set[str]:
        """The fields of the body."""
        return set() if self.body is None else set(self.body.model_fields)

    @property
    def statuses(self) -> list[int]:
        """Those of its refusals."""
        found = {*_ALWAYS, *([] if self.overloaded is None else [self.overloaded])}
        if self.parameters:
            found |= {400}
        if self.path_names or "model" in self.body_names:
            found |= {404}
        if self.method != "get":
            found |= {400, 408, 413}
        if self.body is not None:
            found |= {415, 429}
        return sorted(found)


def write_document(
    operations: Sequence[Operation], version: str, *, model: str, needs_key: bool = False
) -> JsonObject:
    """Return an OpenAPI 3.1 document.

    `model` is what the examples name; `needs_key` is true where nobody is let in without one.
    """
    requests = {one.body for one in operations if one.body is not None}
    refusals = {(one.error, status) for one in operations for status in one.statuses}
    answers = {shape for one in operations for shape in (*one.answers, *one.others.values())}
    shapes = requests | answers | {shape for shape, _ in refusals}
    modes: list[tuple[type[BaseModel], Literal["validation", "serialization"]]] = [
        (shape, "validation") for shape in sorted(shapes, key=lambda one: one.__name__)
    ]
    refs, schemas = models_json_schema(modes, by_alias=True, ref_template=_REF)
    schema_of: dict[Any, JsonObject] = {shape: schema for (shape, _), schema in refs.items()}
    paths: dict[str, dict[str, Any]] = {}
    for one in operations:
        written = _operation(one, schema_of, model)
        if links := _links(one, operations, model):
            written["responses"]["200"]["links"] = links
        paths.setdefault(one.path, {})[one.method] = written
    schemes = {"bearer": _BEARER, "x_api_key": _X_API_KEY}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Zonda", "version": version},
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": schemes,
            "responses": {
                _refusal_name(shape, status): _refusal(schema_of[shape], status)
                for shape, status in sorted(refusals, key=lambda one: _refusal_name(*one))
            },
        },
        "security": [{name: []} for name in schemes] if needs_key else [],
    }


def _operation(one: Operation, schema_of: dict[Any, JsonObject], model: str) -> JsonObject:
    content = _content([schema_of[shape] for shape in one.answers], streams=one.streams)
    headers = {"x-request-id": _REQUEST_ID}
    responses: JsonObject = {
        "200": {"description": one.summary, "content": content, "headers": headers}
    }
    for status, shape in one.others.items():
        responses[str(status)] = {**_refusal(schema_of[shape], status), "description": one.summary}
    responses |= {
        str(status): {"$ref": f"#/components/responses/{_refusal_name(one.error, status)}"}
        for status in one.statuses
    }
    written: JsonObject = {
        "summary": one.summary,
        "operationId": one.name,
        "responses": responses,
    }
    text = {"type": "string", "minLength": 1}
    parameters: list[JsonObject] = [
        {"name": name, "in": "path", "required": True, "schema": text} for name in one.path_names
    ]
    for given in one.parameters:
        style = {"style": "deepObject", "explode": True} if given.is_object else {}
        parameters.append({"name": given.name, "in": given.place, "schema": given.schema, **style})
    if parameters:
        written["parameters"] = parameters
    if one.body is not None:
        body = {"schema": schema_of[one.body], "example": _example(one, model)}
        written["requestBody"] = {"required": True, "content": {"application/json": body}}
    return written


def _example(one: Operation, model: str) -> JsonObject:
    named = {"model": model} if "model" in one.body_names else {}
    return {**named, **one.example}


def _content(shapes: Sequence[JsonObject], *, streams: bool = False) -> JsonObject:
    if not shapes:
        return {"text/plain": {"schema": {"type": "string"}}}
    content: JsonObject = {
        "application/json": {"schema": shapes[0] if len(shapes) == 1 else {"anyOf": [*shapes]}}
    }
    if streams:
        content["text/event-stream"] = {}  # a schema of 3.1 cannot say what each event is
    return content


def _refusal_name(shape: type[BaseModel], status: int) -> str:
    return f"{shape.__name__}{status}"


def _refusal(schema: JsonObject, status: int) -> JsonObject:
    headers: JsonObject = {"x-request-id": _REQUEST_ID}
    if status in {429, 503, 529}:
        headers["retry-after"] = _SECONDS
    return {"description": _REFUSALS[status], "content": _content([schema]), "headers": headers}


def _links(one: Operation, operations: Sequence[Operation], model: str) -> JsonObject:
    """What can be asked next with what an answer tells; each link is named as its operation."""
    told = {name: f"$response.body#{pointer}" for name, pointer in one.tells.items()}
    known = {**{name: f"$request.path.{name}" for name in one.path_names}, **told}
    found: JsonObject = {}
    for other in operations:
        query = {f"query.{given.name}" for given in other.parameters} & told.keys()
        fields = {f"body.{name}" for name in other.body_names} & told.keys()
        if not (query or fields or told.keys() & set(other.path_names)):
            continue
        if not known.keys() >= set(other.path_names):
            continue
        link: JsonObject = {"operationId": other.name}
        if names := [*other.path_names, *sorted(query)]:
            link["parameters"] = {name: known[name] for name in names}
        if fields:
            given = {name.removeprefix("body."): told[name] for name in sorted(fields)}
            link["requestBody"] = {**_example(other, model), **given}
        found[other.name] = link
    return found


def document_route(
    operations: Sequence[Operation],
    version: str,
    guarded: Callable[[Callable[[Request], Awaitable[Response]]], Any],
    model_names: Callable[[], Sequence[str]],
    *,
    needs_key: bool = False,
) -> Route:
    """Serve the document at `/openapi.json`; its examples name the first of the models."""

    @cache
    def written(model: str) -> bytes:
        document = write_document(operations, version, model=model, needs_key=needs_key)
        return json.dumps(document, ensure_ascii=False).encode()

    async def show(request: Request) -> Response:
        text = written(next(iter(model_names()), ""))
        return Response(text, media_type="application/json")

    return Route("/openapi.json", guarded(show), methods=["GET"])
