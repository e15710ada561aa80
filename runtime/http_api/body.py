"""Reads a request's body as one of our shapes; every refusal names the field and the reason."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import Request

from runtime.http_api.chat_shapes import Shape
from runtime.http_api.faults import Fault, FaultError, bad_request

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
        text = (await request.body()).decode("utf-8-sig")
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:  # a number of 5,000 digits is a plain ValueError
        raise bad_request(f"the body is not JSON: {_brief(str(exc))}") from exc
    if not isinstance(value, dict):
        raise bad_request("the body must be a JSON object")
    if "\\u" in text:  # nothing else spells half of a pair
        _check_text(value)
    try:
        return shape.model_validate(value)
    except ValidationError as exc:
        if (count := exc.error_count()) > MAX_PROBLEMS:  # each one written out takes a kilobyte
            text = f"{count} values of the body do not fit; /openapi.json says what does"
            raise bad_request(text) from exc
        raise _refusal(value, exc.errors(include_url=False, include_context=False)) from exc


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _check_text(value: object) -> None:
    """Refuse halves of surrogate pairs, which no tokenizer takes."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError) as exc:
        raise bad_request("the body holds text that is not Unicode") from exc


def _refusal(body: object, problems: Iterable[ErrorDetails]) -> FaultError:
    """Name the field that came furthest: of a choice of shapes, the one that was meant."""
    problem = max(problems, key=lambda one: len(one["loc"]))
    where = _place(body, problem["loc"])
    unknown = problem["type"] == "extra_forbidden"
    text = "there is no such field" if unknown else _brief(problem["msg"])
    return bad_request(f"{where}: {text}", where, "unknown_parameter" if unknown else None)


def _place(value: object, path: tuple[int | str, ...]) -> str:
    """The path as OpenAI writes it, without the names of choices, which are nowhere in the body."""
    found = ""
    for at, part in enumerate(path):
        if isinstance(part, int):
            found += f"[{part}]"
            value = value[part] if isinstance(value, list) and part < len(value) else None
        elif isinstance(value, dict) and (
            at == len(path) - 1 or isinstance(value.get(part), dict | list)
        ):
            found += f".{part}" if found else part
            value = value.get(part)
    return found


def _brief(text: str) -> str:
    return text if len(text) <= 200 else text[:197] + "…"
