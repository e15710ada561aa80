"""Reads a request's body as one of our shapes; every refusal names the field and the reason."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import Request

from runtime.http_api.chat_shapes import Shape
from runtime.http_api.faults import Fault, FaultError, bad_request, cut
from tools.json_text import read_json

MAX_PROBLEMS = 10_000
"""Most of one body among which the one to tell is looked for."""

AnyShape = TypeVar("AnyShape", bound=Shape)


async def read_body(request: Request, shape: type[AnyShape]) -> AnyShape:
    """Return the body as `shape`.

    Raises:
        FaultError: it is not JSON in UTF-8, or does not fit the shape.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        text = "the Content-Type must be application/json"
        raise FaultError(Fault(415, "invalid_request_error", text))
    try:
        value = read_json(await request.body())
    except ValueError as exc:
        raise bad_request(f"the body is not JSON: {cut(str(exc), 200)}") from exc
    if not isinstance(value, dict):
        raise bad_request("the body must be a JSON object")
    try:
        return shape.model_validate(value)
    except ValidationError as exc:
        if (count := exc.error_count()) > MAX_PROBLEMS:  # each one written out takes a kilobyte
            text = f"{count} values of the body do not fit; /openapi.json says what does"
            raise bad_request(text) from exc
        raise _refusal(value, exc.errors(include_url=False, include_context=False)) from exc


def _refusal(body: object, problems: Iterable[ErrorDetails]) -> FaultError:
    """Name the field that came furthest: of a choice of shapes, the one that was meant."""
    problem = max(problems, key=lambda one: len(one["loc"]))
    where = _place(body, problem["loc"], is_missing=problem["type"] == "missing")
    unknown = problem["type"] == "extra_forbidden"
    text = "there is no such field" if unknown else cut(problem["msg"], 200)
    return bad_request(f"{where}: {text}", where, "unknown_parameter" if unknown else None)


def _place(value: object, path: tuple[int | str, ...], *, is_missing: bool) -> str:
    """The path as OpenAI writes it, without the names of choices, which are nowhere in the body.

    Some of them are spelled as a field beside what was chosen is; such a field holds a plain
    value, in which nothing else can be.
    """
    found = ""
    for at, part in enumerate(path):
        rest = path[at + 1 :]
        if isinstance(part, int):
            found += f"[{part}]"
            value = value[part] if isinstance(value, list) and part < len(value) else None
        elif isinstance(value, dict):
            inner = value.get(part)
            is_choice = not isinstance(inner, dict | list) and (
                is_missing or any(one in value for one in rest)
            )
            if (part in value and not is_choice) or (is_missing and not rest):
                found += f".{part}" if found else part
                value = inner
    return found
