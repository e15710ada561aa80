"""One connection of the HTTP server, with bounds on how slow its client may be.

The library bounds how long an idle connection is kept, but not how long a request's headers take
to come or an answer to go. Knows no route and no request.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

logger = logging.getLogger(__name__)

HEADERS_WITHIN_S = 10.0
SLOW_READER_S = 30.0
"""Seconds that a client gets to read what is waiting for it, before it is left."""
MAX_UNREAD_BYTES = 256 * 1024
"""What waits for a client to read it; whoever writes more to it then waits, too."""


MAX_AHEAD_BYTES = 64 * 1024
"""Of what a client sends while its request is answered: while we read, we see it leave."""


class _Timer(Protocol):
    def cancel(self) -> None: ...


class Connection(H11Protocol):
    """Hangs up on clients that send no request's headers in time, or do not read answers."""

    headers_within_s = HEADERS_WITHIN_S
    slow_reader_s = SLOW_READER_S

    _has_asked = False
    _headers_timer: _Timer | None = None
    _reader_timer: _Timer | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=MAX_UNREAD_BYTES)
        self._watch_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # The library stops reading once a request is followed by anything, a line break will do.
        is_ahead = self.conn.their_state is h11.DONE
        if is_ahead and len(self.conn.trailing_data[0]) <= MAX_AHEAD_BYTES:
            self.flow.resume_reading()
        self._has_asked = self._has_asked or self.conn.their_state is not h11.IDLE
        self._watch_headers()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_headers()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reader_timer = self.loop.call_later(self.slow_reader_s, self._leave_reader)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None

    def _watch_headers(self) -> None:
        """Time the headers from their first byte, the first request's from the connection on.

        So is a body that nobody waits for any more: who hangs up on a client that is still
        sending it takes its answer away.
        """
        theirs = self.conn.their_state
        is_waiting = theirs is h11.IDLE and (
            not self._has_asked or bool(self.conn.trailing_data[0])
        )
        is_waiting |= theirs is h11.SEND_BODY and self.cycle.response_complete
        if not is_waiting and self._headers_timer is not None:
            self._headers_timer.cancel()
            self._headers_timer = None
        elif is_waiting and self._headers_timer is None:
            self._headers_timer = self.loop.call_later(self.headers_within_s, self._hang_up)

    def _hang_up(self) -> None:
        if not self.transport.is_closing():
            logger.debug(
                "hanging up on a client that sends too slowly, after %g s", self.headers_within_s
            )
            self.transport.abort()

    def _leave_reader(self) -> None:
        logger.info("hanging up on a client that has read nothing for %g s", self.slow_reader_s)
        self.transport.abort()

    def _stop_timers(self) -> None:
        for timer in (self._headers_timer, self._reader_timer):
            if timer is not None:
                timer.cancel()
        self._headers_timer = self._reader_timer = None
