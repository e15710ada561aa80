"""`embed`: vectors of texts; many of them are kept for a while as a resource instead."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcp_servers.model_server.calls import Model
from mcp_servers.model_server.schemas import REPEATABLE, object_schema
from runtime.agent.runs import Run
from runtime.errors import UnknownRunError
from tools.spec import JsonObject, ResourceLink, TextContent, ToolResult, ToolSpec

if TYPE_CHECKING:
    from runtime.engine.embedding import Vectors

MAX_TEXTS = 256
MAX_INLINE_NUMBERS = 8192
"""More numbers than these make a result that hosts cut: about 80 kB of JSON."""

MAX_KEPT_BYTES = 64 << 20
KEPT_S = 3600.0
DIGITS = 6

VECTORS_URI = "vectors://{id}"
VECTORS_TYPE = "application/octet-stream"


def embed_spec(model: JsonObject) -> ToolSpec:
    """Describe `embed`."""
    return ToolSpec(
        name="embed",
        title="Embed texts",
        description="Turn texts into vectors of length 1 with a local model, for search and "
        "clustering: the closer two texts, the larger the vectors' dot product. Many vectors "
        "come as a resource of little-endian float32 numbers, one text after the other.",
        input_schema=object_schema(
            {
                "texts": {
                    "type": "array",
                    "items": {"type": "string", "minLength": 1},
                    "minItems": 1,
                    "maxItems": MAX_TEXTS,
                    "description": "Each gets a vector of its own.",
                },
                "model": model,
            },
            required=["texts"],
        ),
        output_schema={
            "type": "object",
            "properties": {
                "model": {"type": "string"},
                "dimensions": {"type": "integer"},
                "vectors": {
                    "type": "array",
                    "items": {"type": "array", "items": {"type": "number"}},
                    "description": "In the order of the texts; absent where uri stands.",
                },
                "uri": {"type": "string", "description": "Resource that holds the vectors."},
                "usage": {
                    "type": "object",
                    "properties": {
                        "prompt_tokens": {"type": "integer"},
                        "seconds": {"type": "number"},
                    },
                    "required": ["prompt_tokens", "seconds"],
                },
            },
            "required": ["model", "dimensions", "usage"],
        },
        annotations=REPEATABLE,
    )


@dataclass(frozen=True, slots=True)
class _Kept:
    """Vectors that were handed out by their address."""

    principal: str
    data: bytes
    until: float


class VectorStore:
    """Keeps the newest vectors, in memory only; each belongs to a principal.

    Invariant: no more than `MAX_KEPT_BYTES` are kept; the oldest go first.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._num_bytes = 0

    def keep(self, principal: str, data: bytes) -> str:
        """Keep vectors; return their id."""
        vectors_id = secrets.token_urlsafe(18)
        self._kept[vectors_id] = _Kept(principal, data, time.monotonic() + KEPT_S)
        self._num_bytes += len(data)
        while self._num_bytes > MAX_KEPT_BYTES:
            self._num_bytes -= len(self._kept.popitem(last=False)[1].data)
        return vectors_id

    def read(self, vectors_id: str, principal: str) -> bytes:
        """Return a principal's vectors.

        Raises:
            UnknownRunError: there are none of this id, or not any more.
        """
        kept = self._kept.get(vectors_id)
        if kept is None or kept.principal != principal or kept.until < time.monotonic():
            raise UnknownRunError(
                f"no vectors have this id: they never existed, or are gone ({KEPT_S:g} s after "
                f"they were computed, or when {MAX_KEPT_BYTES >> 20} MiB of newer ones had been)"
            )
        return kept.data


async def embed(run: Run, model: Model, store: VectorStore, arguments: JsonObject) -> ToolResult:
    """Compute vectors.

    Raises:
        PromptTooLongError: a text does not fit the model's context.
        InvalidRequestError: the model gives no vectors.
    """
    started = time.monotonic()
    texts = arguments["texts"]
    run.report(1, None, f"embedding {len(texts)} texts")
    vectors, num_tokens = await model.embed(texts)
    num_texts, dimensions = vectors.shape
    usage = {"prompt_tokens": num_tokens, "seconds": round(time.monotonic() - started, 3)}
    structured: JsonObject = {"model": model.name, "dimensions": dimensions, "usage": usage}
    text = TextContent(f"{num_texts} vectors of {dimensions} numbers")
    if vectors.size <= MAX_INLINE_NUMBERS:
        structured["vectors"] = _round(vectors)
        return ToolResult(content=(text,), structured=structured)
    data = vectors.astype("<f4").tobytes()
    uri = VECTORS_URI.replace("{id}", store.keep(run.principal, data))
    structured["uri"] = uri
    link = ResourceLink(uri, f"{num_texts} vectors", VECTORS_TYPE)
    return ToolResult(content=(text, link), structured=structured)


def _round(vectors: Vectors) -> list[list[float]]:
    return [[round(number, DIGITS) for number in vector] for vector in vectors.tolist()]
