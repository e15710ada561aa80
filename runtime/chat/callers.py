"""An engine as one of several callers has it: what they say is not shared through its cache."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace

from runtime.engine.async_engine import AsyncEngine
from runtime.engine.embedding import Vectors
from runtime.engine.prefix_pages import PageBytes
from runtime.grammar.constraint import Constraint
from runtime.request import GenerateRequest, TokenChunk


class CallersEngine:
    """Decorates an `AsyncEngine`: pages beyond the shared prefix are cached for `caller` alone.

    Otherwise the number of cached tokens, and the time to the first one, would tell a caller
    what others have asked.
    """

    def __init__(
        self, engine: AsyncEngine, caller: str, num_shared: Callable[[Sequence[int]], int]
    ) -> None:
        """`num_shared` says how many of a prompt's first tokens are the same for everybody."""
        self._engine = engine
        self._salt = caller.encode()
        self._num_shared = num_shared

    def generate(
        self, request: GenerateRequest, constraint: Constraint | None = None
    ) -> AsyncGenerator[TokenChunk, None]:
        num_shared = self._num_shared(request.token_ids)
        salted = replace(request, salt=self._salt, num_shared_tokens=num_shared)
        return self._engine.generate(salted, constraint)

    async def hold_prefix(
        self, lease: str, token_ids: Sequence[int], pages: PageBytes | None = None
    ) -> bool:
        return await self._engine.hold_prefix(lease, token_ids, pages)

    async def read_prefix(self, token_ids: Sequence[int]) -> PageBytes | None:
        return await self._engine.read_prefix(token_ids)

    async def embed(self, texts: Sequence[Sequence[int]]) -> Vectors:
        return await self._engine.embed(texts)

    async def aclose(self) -> None:
        await self._engine.aclose()
