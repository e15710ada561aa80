"""Lists of items, a page at a time, and the other things that stand in a query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from starlette.datastructures import QueryParams

from runtime.http_api.faults import bad_request
from runtime.http_api.responses_shapes import Include
from tools.spec import JsonObject

DEFAULT_PAGE = 20
MAX_PAGE = 100
NOT_INCLUDED = "message.output_text.logprobs"
"""Of what OpenAI's responses may include, what ours do not have."""


def write_page(items: Sequence[JsonObject], query: QueryParams) -> JsonObject:
    """Write the page of items, the oldest first, that a query asks for; the latest come first.

    Raises:
        FaultError: the query asks for what there is not.
    """
    check_query(query, {"after", "limit", "order"})
    order = query.get("order", "desc")
    if order not in {"asc", "desc"}:
        raise bad_request("order is 'asc' or 'desc'", "order")
    ordered = list(items) if order == "asc" else list(reversed(items))
    after = query.get("after")
    if after:
        places = [at for at, item in enumerate(ordered) if item["id"] == after]
        if not places:
            raise bad_request(f"no item here has the id {after[:80]!r}", "after")
        ordered = ordered[places[0] + 1 :]
    limit = read_number(query, "limit", DEFAULT_PAGE, 1, MAX_PAGE)
    page = ordered[:limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else "",
        "last_id": page[-1]["id"] if page else "",
        "has_more": len(ordered) > limit,
    }


def check_query(query: QueryParams, known: set[str]) -> None:
    """Refuse what is no parameter, and an `include` of what cannot be.

    Raises:
        FaultError: names the parameter.
    """
    for name, value in query.multi_items():
        plain = name.removesuffix("[]")
        if plain == "include":
            if value not in get_args(Include):
                raise bad_request(f"{value[:80]!r} cannot be included", "include")
            if value == NOT_INCLUDED:
                raise bad_request("log-probabilities are not offered", "include")
        elif plain not in known:
            raise bad_request("there is no such parameter", plain, "unknown_parameter")


def read_number(query: QueryParams, name: str, default: int, least: int, most: int) -> int:
    """Read a whole number.

    Raises:
        FaultError: it is none, or out of its range.
    """
    text = query.get(name)
    if text is None:
        return default
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 12 else -1
    if not least <= number <= most:
        raise bad_request(f"{name} is a whole number from {least} to {most}", name)
    return number


def read_switch(query: QueryParams, name: str) -> bool:
    """Read true or false; false where it is not there.

    Raises:
        FaultError: it is neither.
    """
    text = query.get(name, "false").lower()
    if text not in {"true", "false"}:
        raise bad_request(f"{name} is true or false", name)
    return text == "true"
