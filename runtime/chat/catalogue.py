"""The system text and the tools as a prefix that all sessions share: computed once, kept.

A prompt begins with them whatever the user says. Their pages are pinned until memory runs
short, and on request kept on disk for the next process. Knows no template and no tool.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import aclosing

import anyio
import numpy as np
from anyio.to_thread import run_sync as _in_thread

from runtime.chat.messages import Message
from runtime.engine.async_engine import AsyncEngine
from runtime.engine.saved_pages import SavedPages
from runtime.errors import GenerationError
from runtime.request import GenerateRequest, SamplingParams
from tools.errors import ZondaError
from tools.spec import ToolSpec

logger = logging.getLogger(__name__)

BuildPrompt = Callable[[Sequence[Message], Sequence[ToolSpec]], list[int]]
"""Messages and tools to the prompt's tokens; `PromptBuilder.build` is one."""

MAX_PREFIXES = 4
"""System texts whose prefix is pinned; the one warmed longest ago goes first."""

MAX_SHARED = 256
"""Prefixes known as everybody's, pinned or not."""

_PROBES = ("0", "Z")
"""What two users might say: where their prompts part, the shared prefix ends."""


def sort_tools(tools: Sequence[ToolSpec]) -> list[ToolSpec]:
    """Put tools into the one order in which they are shown: by server, then by name."""
    return sorted(tools, key=lambda tool: (tool.server or "", tool.name))


class Catalogue:
    """Keeps the prefixes of one engine's prompts computed, one for each system text.

    Invariant: each name in `_leases` is one that the engine may hold, and it holds no other.
    """

    def __init__(
        self, build: BuildPrompt, engine: AsyncEngine, saved: SavedPages | None = None
    ) -> None:
        """Prefixes are also kept in `saved`, where there is one."""
        self._build = build
        self._engine = engine
        self._saved = saved
        self._leases: list[str] = []
        self._shared: dict[bytes, int] = {}  # lengths by digest, the oldest first
        self._lock = anyio.Lock()

    async def warm(self, tools: Sequence[ToolSpec], *, system: str | None = None) -> None:
        """Have the prefix of these tools computed and pinned, in place of the text's last tools.

        Takes what is computed or on disk already; the rest is computed in the background of
        other requests. Callers take turns, so each content is computed once. What fails is
        logged: turns that need it compute it themselves.
        """
        try:
            async with self._lock:
                await self._warm(tools, system)
        except ZondaError as exc:
            logger.warning("the tools' part of the prompt is not kept: %s", exc)
        except Exception:
            logger.exception("the tools' part of the prompt is not kept")

    def num_shared(self, token_ids: Sequence[int]) -> int:
        """How many of a prompt's first tokens are a prefix that was computed for everybody."""
        lengths = sorted({n for n in self._shared.values() if n <= len(token_ids)}, reverse=True)
        found = (n for n in lengths if _digest(token_ids[:n]) in self._shared)
        return next(found, 0)

    def _share(self, prefix: tuple[int, ...]) -> None:
        digest = _digest(prefix)
        self._shared.pop(digest, None)
        self._shared[digest] = len(prefix)
        if len(self._shared) > MAX_SHARED:
            del self._shared[next(iter(self._shared))]

    async def _warm(self, tools: Sequence[ToolSpec], system: str | None) -> None:
        prefix = await _in_thread(self._find_prefix, tools, system)
        lease = await self._make_lease(system)
        self._share(prefix)
        if not await self._engine.hold_prefix(lease, prefix):
            if await self._restore(lease, prefix):
                logger.info("%d tokens of tools and system text are read from disk", len(prefix))
                return
            await self._compute(lease, prefix)
            logger.info("%d tokens of tools and system text are computed", len(prefix))
        if self._saved is not None and not await _in_thread(self._saved.touch, prefix):
            pages = await self._engine.read_prefix(prefix)
            if pages is not None:
                await _in_thread(self._saved.save, prefix, pages)

    async def _restore(self, lease: str, prefix: tuple[int, ...]) -> bool:
        if self._saved is None:
            return False
        pages = await _in_thread(self._saved.load, prefix)
        return pages is not None and await self._engine.hold_prefix(lease, prefix, pages)

    def _find_prefix(self, tools: Sequence[ToolSpec], system: str | None) -> tuple[int, ...]:
        """The tokens with which every first prompt of this text and these tools begins."""
        before = [] if system is None else [Message("system", system)]
        one, other = (self._build([*before, Message("user", said)], tools) for said in _PROBES)
        length = 0
        while length < min(len(one), len(other)) and one[length] == other[length]:
            length += 1
        return tuple(one[:length])

    async def _make_lease(self, system: str | None) -> str:
        """The name of a system text's lease; ends another's where there would be too many."""
        digest = hashlib.blake2b((system or "").encode(), digest_size=16).hexdigest()
        lease = f"catalogue-{digest}"
        if lease in self._leases:
            self._leases.remove(lease)
        self._leases.append(lease)
        if len(self._leases) > MAX_PREFIXES:
            await self._engine.hold_prefix(self._leases.pop(0), ())
        return lease

    async def _compute(self, lease: str, prefix: tuple[int, ...]) -> None:
        request = GenerateRequest(
            prefix,
            SamplingParams(max_tokens=0),
            lease=lease,
            lease_s=math.inf,
            is_background=True,
        )
        async with aclosing(self._engine.generate(request)) as chunks:
            async for chunk in chunks:
                if chunk.finish_reason == "error":
                    raise GenerationError(chunk.error or "the engine failed; see the log")


def _digest(token_ids: Sequence[int]) -> bytes:
    return hashlib.blake2b(np.asarray(token_ids, np.int32).tobytes(), digest_size=16).digest()
