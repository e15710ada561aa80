"""Which tools bring text of strangers into a conversation, and which can carry data out of it.

Whoever writes a page, a mail or an issue that a model reads may try to give it orders. Alone
that is harmless; with a tool that sends, what else is in the conversation can be stolen.
"""

from __future__ import annotations

import re

from tools.mcp_client.names import server_prefix
from tools.spec import ToolSpec

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_READING_WORDS = (
    "article browse browser comment comments crawl download email emails feed fetch http https"
    " inbox internet issue issues mail mails news rss scrape tweet url urls web webpage website"
)
_SENDING_WORDS = (
    "comment curl email exec execute forward http https invite mail message notify post publish"
    " push reply request run send share shell submit tweet upload webhook"
)
_READING = frozenset(_READING_WORDS.split())
_SENDING = frozenset(_SENDING_WORDS.split())


def words_of(tool: ToolSpec) -> set[str]:
    """The words of a tool's name on its server, in lower case."""
    own_name = tool.name.removeprefix(server_prefix(tool.server or ""))
    return {word.lower() for word in _WORD.findall(own_name)}


def brings_text(tool: ToolSpec) -> bool:
    """Whether results may hold what strangers wrote.

    By the hint that the tool reaches an open world; where a server's tool has none, by name.
    """
    is_open = tool.annotations.open_world
    if is_open is None:
        return tool.server is not None and bool(words_of(tool) & _READING)
    return is_open


def can_send(tool: ToolSpec) -> bool:
    """Whether a call may carry data out: it reaches an open world and does not only read.

    Where a server's tool has no such hint, by name.
    """
    if tool.annotations.read_only:
        return False
    is_open = tool.annotations.open_world
    if is_open is None:
        return tool.server is not None and bool(words_of(tool) & _SENDING)
    return is_open
