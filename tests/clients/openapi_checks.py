"""What Schemathesis draws and checks besides what it does by itself.

Loaded by it, in an environment that has none of our packages.
"""

from __future__ import annotations

import json
import re
import zlib
from typing import Any

import schemathesis  # type: ignore[import-not-found]  # not a dependency of ours

_OF_SHAPE = re.compile(
    r"Input should|Field required|there is no such (field|parameter)|should have at (least|most)"
    r"|should match pattern|Unable to extract tag|is not JSON|must be a JSON object"
)


@schemathesis.check  # type: ignore[untyped-decorator]  # its package is not here
def no_refusal_of_a_good_shape(context: Any, response: Any, case: Any) -> None:
    """A request that fits the document is refused for what it means, never for its shape."""
    if not _fits(case) or response.status_code != 400:
        return
    told = response.json()["error"]["message"]
    assert not _OF_SHAPE.search(told), f"the document allows what the server does not: {told}"


@schemathesis.hook  # type: ignore[untyped-decorator]
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Begin half of the chains of requests with the document's example of a body.

    Most drawn bodies name something that is not there, and then nothing can be done with it.
    """
    if not _fits(case) or case.meta.phase.name.value != "stateful":
        return
    content = case.operation.definition.raw.get("requestBody", {}).get("content", {})
    example = content.get("application/json", {}).get("example")
    if example and zlib.crc32(json.dumps(case.body, default=repr).encode()) % 2:
        case.body = example


def _fits(case: Any) -> bool:
    """Whether a request is one that the document allows."""
    return case.meta is not None and bool(case.meta.generation.mode.is_positive)
