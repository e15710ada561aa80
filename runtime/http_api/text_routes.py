"""The routes that take plain text or tokens, and no conversation to answer."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.routing import Route

from runtime.http_api.completions import Completions
from runtime.http_api.embeddings import Embeddings
from runtime.http_api.routes import Backend, guarded
from runtime.http_api.tokens import Tokens


def text_routes(backend: Backend, caller_of: Callable[[Request], str]) -> list[Route]:
    """Return the routes; `caller_of` names who sent a request."""
    tokens = Tokens(backend)
    answers = {
        "/v1/completions": Completions(backend, caller_of).__call__,
        "/v1/embeddings": Embeddings(backend, caller_of).__call__,
        "/tokenize": tokens.tokenize,
        "/detokenize": tokens.detokenize,
        "/apply-template": tokens.apply_template,
        "/apply_template": tokens.apply_template,
    }
    return [Route(path, guarded(answer), methods=["POST"]) for path, answer in answers.items()]
