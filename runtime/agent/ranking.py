"""Ranks tools by how well they fit a few words: BM25 over names, descriptions and parameters.

Source: Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond, 2009,
with the usual k1 = 1.2 and b = 0.75.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from tools.mcp_client.names import server_prefix
from tools.spec import ToolSpec

K1, B = 1.2, 0.75
NAME_WEIGHT = 3
"""So many times as a word of the description does a word of the name count."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\W\d_a-zA-Z]+")
_MIN_STEM_CHARS = 5


class ToolIndex:
    """Some tools, to be found by words."""

    def __init__(self, tools: Sequence[ToolSpec]) -> None:
        self._tools = tools
        self._counts = [Counter(_words_of(tool)) for tool in tools]
        self._lengths = [counts.total() for counts in self._counts]
        self._mean_length = sum(self._lengths) / max(1, len(tools)) or 1.0
        self._num_with = Counter(word for counts in self._counts for word in counts)

    def find(self, query: str, most: int) -> list[ToolSpec]:
        """Return at most so many tools that have a word of the query, the best first."""
        words = {known for word in _split(query) for known in self._known(word)}
        scores = [sum(self._score(word, at) for word in words) for at in range(len(self._tools))]
        order = sorted(range(len(scores)), key=lambda at: -scores[at])
        return [self._tools[at] for at in order[:most] if scores[at] > 0]

    def _known(self, word: str) -> list[str]:
        """The word, or those of the index that begin like one it does not have."""
        if word in self._num_with or len(word) < _MIN_STEM_CHARS:
            return [word]
        stem = word[:_MIN_STEM_CHARS]
        return [known for known in self._num_with if known.startswith(stem)]

    def _score(self, word: str, at: int) -> float:
        count = self._counts[at][word]
        num_with = self._num_with[word]
        rarity = math.log(1 + (len(self._tools) - num_with + 0.5) / (num_with + 0.5))
        length = 1 - B + B * self._lengths[at] / self._mean_length
        return rarity * count * (K1 + 1) / (count + K1 * length)


def _words_of(tool: ToolSpec) -> list[str]:
    properties = tool.input_schema.get("properties")
    parameters = " ".join(properties) if isinstance(properties, dict) else ""
    own_name = tool.name.removeprefix(server_prefix(tool.server or ""))
    text = f"{tool.server or ''} {tool.title or ''} {tool.description} {parameters}"
    return _split(own_name) * NAME_WEIGHT + _split(text)


def _split(text: str) -> list[str]:
    """The words of a text or of a name in any spelling, in lower case and without plurals."""
    words = (word.lower() for word in _WORD.findall(text))
    return [word[:-1] if len(word) > 3 and word[-1] == "s" != word[-2] else word for word in words]
