"""`POST /v1/embeddings`: vectors of texts or of their tokens."""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import partial

import anyio.to_thread
import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from runtime.engine.embedding import Vectors
from runtime.http_api.body import read_body
from runtime.http_api.completions import read_texts
from runtime.http_api.event_stream import unless_gone
from runtime.http_api.faults import bad_request
from runtime.http_api.routes import Backend, queue_time_s
from runtime.http_api.text_shapes import EmbeddingRequest


class Embeddings:
    """Answers `POST /v1/embeddings`."""

    def __init__(self, backend: Backend, caller_of: Callable[[Request], str]) -> None:
        self._backend = backend
        self._caller_of = caller_of

    async def __call__(self, request: Request) -> Response:
        self._backend.check_queue(self._caller_of(request))
        asked = await read_body(request, EmbeddingRequest)
        return await unless_gone(request, lambda: self._answer(asked, request))

    async def _answer(self, asked: EmbeddingRequest, request: Request) -> Response:
        async with self._backend.hold_model(asked.model) as model:
            request.state.model = asked.model
            read = partial(read_texts, parse_special=False)
            length = model.context_length
            texts = await anyio.to_thread.run_sync(
                read, asked.input, model.tokenizer, "input", length
            )
            async with self._backend.turn(self._caller_of(request), queue_time_s(request)):
                vectors, num_tokens = await model.embed(texts)
        request.state.usage = {"prompt_tokens": num_tokens, "completion_tokens": 0}
        if asked.dimensions is not None:
            vectors = shorten(vectors, asked.dimensions)
        is_packed = asked.encoding_format == "base64"
        return await anyio.to_thread.run_sync(_write, asked.model, vectors, num_tokens, is_packed)


def shorten(vectors: Vectors, dimensions: int) -> Vectors:
    """Keep the first numbers of each vector, scaled to length 1 again.

    What is left tells less than the vectors of a model that was trained to be cut.

    Raises:
        FaultError: the vectors have fewer numbers.
    """
    if dimensions > vectors.shape[1]:
        text = f"the model's vectors have {vectors.shape[1]} numbers, not {dimensions}"
        raise bad_request(text, "dimensions")
    cut = vectors[:, :dimensions]
    lengths = np.linalg.norm(cut, axis=1, keepdims=True)
    shortened: Vectors = (cut / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return shortened


def _write(name: str, vectors: Vectors, num_tokens: int, is_packed: bool) -> Response:  # noqa: FBT001 - run in a thread, which takes no keywords
    rows: list[object] = (
        [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
        if is_packed
        else vectors.tolist()
    )
    data = [{"object": "embedding", "index": at, "embedding": row} for at, row in enumerate(rows)]
    usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    return JSONResponse({"object": "list", "data": data, "model": name, "usage": usage})
