"""Carries a tool server's log messages to our log, within bounds."""

from __future__ import annotations

import json
import logging

import mcp_types as types

from tools.mcp_client.process import Pace
from tools.mcp_client.wire import clean_text

logger = logging.getLogger(__name__)

WANTED_LEVEL: types.LoggingLevel = "warning"
"""What a server of the modern era is asked to tell; one of the handshake era decides itself."""

MAX_CHARACTERS = 2000
_MAX_MESSAGES_PER_S = 50
_QUIET: frozenset[types.LoggingLevel] = frozenset({"debug", "info", "notice"})


class ServerLog:
    """The `logging_callback` of one connection; warnings and worse are logged as INFO."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._pace = Pace(_MAX_MESSAGES_PER_S)

    async def __call__(self, params: types.LoggingMessageNotificationParams) -> None:
        if not self._pace.allows():
            return
        data = params.data
        text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, default=str)
        level = logging.DEBUG if params.level in _QUIET else logging.INFO
        told = clean_text(text, MAX_CHARACTERS).strip()
        logger.log(level, "server=%s log %s: %s", self._server, params.level, told)
