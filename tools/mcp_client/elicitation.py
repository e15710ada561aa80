"""A tool server's question to a person: checked before it is passed on, its answer checked after.

A server may not ask for what is secret, and what it asks bears its name. Knows no connections.
Source: Model Context Protocol 2025-11-25 and 2026-07-28, elicitation, security considerations.
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import urlsplit

import mcp_types as types
from pydantic import ValidationError

from tools.errors import InvalidRequestError
from tools.mcp_client.wire import clean_text
from tools.questions import Answer, Question
from tools.spec import JsonObject
from tools.validation import first_problem, schema_problem

MAX_MESSAGE_CHARACTERS = 2000
MAX_FIELDS = 32
MAX_SCHEMA_CHARACTERS = 16_384

_FIELD_TYPES = frozenset({"string", "number", "integer", "boolean", "array"})
_FREE_TYPES = frozenset({"string", "number", "integer"})
# "Do not enter your PIN" warns a person; it does not ask for it.
_WARNING = re.compile(
    r"\b(do not|don.?t|never) (enter|type|provide|give|paste|send|share|include)\b[^.;:!?\n]*"
)
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[_\-./]+")
_SENSITIVE = (
    r"\b(pass ?(word|code|phrase|wd)s?|pwd|secrets?|token|(api|access|private|secret) ?keys?"
    r"|credentials?|pin( code| number)?|one.?time code|otp|2fa|cvv2?|cvc|ssn"
    r"|social security|(seed|recovery) phrase|credit card|card number)\b"
)
_NAMES_SECRET = re.compile(_SENSITIVE)
_ASKS_SECRET = re.compile(
    r"\b(enter|type|provide|give|paste|send|supply|your)\b[^.?!]{0,60}" + _SENSITIVE
)


def to_question(server: str, params: types.ElicitRequestParams) -> Question:
    """Return what a person is asked.

    Raises:
        InvalidRequestError: it must not be asked, or is no form; the message is for our log.
    """
    asked = clean_text(params.message, MAX_MESSAGE_CHARACTERS).strip()
    message = f"The tool server {server!r} asks: {asked}"
    if isinstance(params, types.ElicitRequestURLParams):
        return Question(message, {"type": "object", "properties": {}}, _checked_url(params.url))
    fields = _fields(params.requested_schema)
    for name, field in fields.items():
        _check_field(name, field, asked)
    cleaned = {name: _clean(field) for name, field in fields.items()}
    return Question(message, {**_clean(params.requested_schema), "properties": cleaned})


def to_elicit_result(question: Question, answer: Answer) -> types.ElicitResult:
    """Return what the server is told: of an accepted form the fields that it asked for.

    Raises:
        InvalidRequestError: the answer does not fit the form; the message is for our log.
    """
    if answer.action != "accept" or question.url is not None:
        return types.ElicitResult(action=answer.action)
    given, content = answer.content or {}, {}
    for name, field in _fields(question.schema).items():
        if name in given or "default" in field:
            content[name] = given.get(name, field.get("default"))
    if (problem := first_problem(question.schema, content)) is not None:
        raise InvalidRequestError(f"the answer does not fit the form: {problem}")
    try:
        return types.ElicitResult(action="accept", content=content)
    except ValidationError as exc:
        raise InvalidRequestError(f"the answer has a value that no form has: {exc}") from exc


def _clean(schema: JsonObject) -> JsonObject:
    """Clean what a person reads of a schema; the values that an answer may have stay."""
    texts = {
        key: clean_text(schema[key], MAX_MESSAGE_CHARACTERS)
        for key in ("title", "description")
        if isinstance(schema.get(key), str)
    }
    return {**schema, **texts}


def _fields(schema: JsonObject) -> dict[str, JsonObject]:
    """Return the fields of a form.

    Raises:
        InvalidRequestError: it is no flat object of a few plain fields.
    """
    fields: Any = schema.get("properties")
    if len(json.dumps(schema)) > MAX_SCHEMA_CHARACTERS:
        raise InvalidRequestError(f"its form has more than {MAX_SCHEMA_CHARACTERS} characters")
    if not isinstance(fields, dict) or len(fields) > MAX_FIELDS:
        raise InvalidRequestError(f"its form is no object of at most {MAX_FIELDS} fields")
    if (problem := schema_problem(schema)) is not None:
        raise InvalidRequestError(f"its form is no schema: {problem}")
    for name, field in fields.items():
        if not isinstance(field, dict) or field.get("type", "string") not in _FIELD_TYPES:
            raise InvalidRequestError(f"the field {name!r} of its form is not a plain one")
    return fields


def _check_field(name: str, field: JsonObject, asked: str) -> None:
    """Refuse a field into which something secret would be typed."""
    is_free = field.get("type", "string") in _FREE_TYPES and not {"enum", "oneOf"} & field.keys()
    if not is_free:
        return
    told = " | ".join(str(field.get(key, "")) for key in ("title", "description"))
    names = _HUMP.sub(" ", f"{name} | {_WARNING.sub('', told.lower())}")
    is_marked = field.get("format") == "password" or bool(field.get("writeOnly"))
    is_asked = _ASKS_SECRET.search(_WARNING.sub("", asked.lower()))
    if is_marked or _NAMES_SECRET.search(names.lower()) or is_asked:
        raise InvalidRequestError(f"the field {name!r} of its form looks like something secret")


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_page = parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        is_page = False
    if not is_page or clean_text(url, len(url)) != url or any(map(str.isspace, url)):
        raise InvalidRequestError(f"it sends a person to {url[:200]!r}, which is no page")
    return url
