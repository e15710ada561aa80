"""Responses and conversations that a client may ask for again: in memory, for a while, its own.

Nothing is ever on a disk. What is over its time goes, and so does what is oldest once all
together is too much.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import anyio

from runtime.http_api.faults import Fault, FaultError
from tools.spec import JsonObject

KEEP_S = 24 * 3600.0
"""Seconds after its last change at which something kept is forgotten."""
MAX_KEPT = 4096
MAX_KEPT_BYTES = 256 << 20
"""Of responses, and again of conversations, as the JSON that they are."""


class Kept(Protocol):
    """What a shelf holds."""

    @property
    def num_bytes(self) -> int:
        """How much memory it is worth, about."""
        ...

    @property
    def is_busy(self) -> bool:
        """Whether it is still written, so that it may not go."""
        ...


AnyKept = TypeVar("AnyKept", bound=Kept)


class Shelf(Generic[AnyKept]):
    """Keeps things by principal and id, the one that changed last at the end.

    Invariant: after `put`, all that is not busy is within age, number and bytes.
    """

    def __init__(
        self,
        kind: str,
        *,
        keep_s: float = KEEP_S,
        max_kept: int = MAX_KEPT,
        max_bytes: int = MAX_KEPT_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kind = kind
        self._keep_s = keep_s
        self._max_kept = max_kept
        self._max_bytes = max_bytes
        self._clock = clock
        self._kept: OrderedDict[tuple[str, str], tuple[float, AnyKept]] = OrderedDict()

    def put(self, principal: str, item_id: str, value: AnyKept) -> None:
        """Keep it from now on, and let go what there is no room for."""
        self._kept[principal, item_id] = self._clock(), value
        self._kept.move_to_end((principal, item_id))
        self._trim()

    def renew(self, principal: str, item_id: str) -> None:
        """It has changed, where it is still kept: its time begins anew."""
        if (found := self._kept.get((principal, item_id))) is not None:
            self.put(principal, item_id, found[1])

    def get(self, principal: str, item_id: str) -> AnyKept:
        """Return what this principal has kept.

        Raises:
            FaultError: it has nothing of that id, or has no more.
        """
        self._trim()
        found = self._kept.get((principal, item_id))
        if found is None:
            text = f"{self._kind} with id {item_id[:80]!r} not found; it may have expired"
            raise FaultError(Fault(404, "invalid_request_error", text, "not_found"))
        return found[1]

    def remove(self, principal: str, item_id: str) -> AnyKept:
        """Forget it.

        Raises:
            FaultError: there is nothing of that id.
        """
        value = self.get(principal, item_id)
        del self._kept[principal, item_id]
        return value

    def of(self, principal: str) -> Iterator[AnyKept]:
        """All that this principal has kept, the latest first."""
        for (owner, _), (_, value) in reversed(self._kept.items()):
            if owner == principal:
                yield value

    def _trim(self) -> None:
        oldest = self._clock() - self._keep_s
        num_bytes = sum(value.num_bytes for _, value in self._kept.values())
        for key, (changed, value) in list(self._kept.items()):
            is_much = len(self._kept) > self._max_kept or num_bytes > self._max_bytes
            if changed >= oldest and not is_much:
                return
            if not value.is_busy:
                num_bytes -= value.num_bytes
                del self._kept[key]


def count_bytes(value: object) -> int:
    """The size of something as JSON."""
    return len(json.dumps(value, ensure_ascii=False).encode())


def whole_items(output: Sequence[JsonObject]) -> list[JsonObject]:
    """A response's output without calls that were not written to their end, and so never made."""
    calls = {"function_call", "custom_tool_call", "mcp_call"}
    return [one for one in output if one["type"] not in calls or one["status"] != "incomplete"]


@dataclass(eq=False)
class KeptResponse:
    """A response that can be asked for.

    Attributes:
        response: as it stands.
        items: what it was made of: the conversation before it, and its own input.
        events: what its stream said, where it is one that may be read again.
        scope: ends its run, where it runs in the background.
        changed: set, and replaced, whenever there is more.
        is_over: whether it is as it will stay.
    """

    response: JsonObject
    items: list[JsonObject]
    events: list[JsonObject] | None = None
    scope: anyio.CancelScope | None = None
    changed: anyio.Event = field(default_factory=anyio.Event)
    is_over: bool = False
    _num_bytes: int = 0

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    @property
    def is_busy(self) -> bool:
        return not self.is_over

    @property
    def history(self) -> list[JsonObject]:
        """The conversation as the next response finds it."""
        return [*self.items, *whole_items(self.response["output"])]

    def tell(self, response: JsonObject, *, is_over: bool) -> None:
        """Take in how far it is, and wake who waits for that."""
        self.response = response
        self.is_over = is_over
        if is_over:
            self.measure()
        self.changed.set()
        self.changed = anyio.Event()

    def measure(self) -> None:
        """Count what is kept; the conversation before it counts again, as it may be its last."""
        self._num_bytes = count_bytes([self.response, self.items, self.events])


@dataclass(eq=False)
class KeptConversation:
    """A conversation: its items in order."""

    conversation_id: str
    created_at: int
    metadata: dict[str, str]
    items: list[JsonObject]
    is_busy: bool = False
    num_bytes: int = 0

    def add(self, items: list[JsonObject]) -> None:
        """Go on with these."""
        self.items = [*self.items, *items]
        self.num_bytes = count_bytes(self.items)


@dataclass(frozen=True)
class Memory:
    """All that is kept."""

    responses: Shelf[KeptResponse] = field(default_factory=lambda: Shelf("Response"))
    conversations: Shelf[KeptConversation] = field(default_factory=lambda: Shelf("Conversation"))

    def items_of(self, principal: str) -> Iterator[JsonObject]:
        """The items of all responses and conversations that the principal has kept."""
        for response in self.responses.of(principal):
            yield from response.history
        for conversation in self.conversations.of(principal):
            yield from conversation.items
