"""How much of a prompt a step takes when others wait for its end, and what a guess must be worth.

Knows counts and times only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MIN_PROMPT_TOKENS = 16
"""A step takes so many prompt tokens however slow it was before, so that prompts get on."""

AIMED_AT = 0.9
"""Part of the limit that steps are cut to: the estimate follows what happens."""

SHORTEST_TOKEN_S = 1e-6
"""A cost from which the estimate can rise again."""


MOST_GUESSING = 2
"""More sequences than so many fill a step: with four, guesses took as long as they saved."""

HOPEFUL_PRICE = 0.3
"""A further token beside one sequence, in parts of its time, before any was measured."""

FORGOTTEN = 1 / 256
"""Of the difference between what a further token costs and a hopeful estimate, with each step
that has none: so what is dear is tried again, now and then."""


@dataclass(slots=True)
class _Costs:
    """Of steps of some number of sequences that decode.

    Attributes:
        plain_s: seconds of one that computes nothing else.
        token_s: seconds of a further token.
    """

    plain_s: float
    token_s: float


class Pace:
    """Learns what prompt tokens cost, and says how many fit in a step beside the decodes.

    The model: a step takes as long as its decodes alone, plus the same time for each prompt
    token. Where the decodes became slower than they were alone, that counts as the prompt
    tokens' cost, so the next steps take fewer of them and the limit holds again.

    Of steps of few sequences it also knows what a token more takes: what guesses cost.
    """

    def __init__(self, max_step_s: float) -> None:
        self._wanted_s = AIMED_AT * max_step_s
        self._token_s: float | None = None
        self._decode_s = 0.0  # of the last step that only decoded
        self._num_decoding = 1  # sequences in that step
        self._costs: dict[int, _Costs] = {}

    def num_prompt_tokens(self, num_decoding: int, most: int) -> int:
        """Prompt tokens of a step in which `num_decoding` sequences decode; at most `most`."""
        if num_decoding == 0:
            return most
        if self._token_s is None:
            return min(most, MIN_PROMPT_TOKENS)
        left_s = self._wanted_s - self._decodes_s(num_decoding)
        if left_s >= most * self._token_s:
            return most
        return min(most, max(MIN_PROMPT_TOKENS, int(left_s / self._token_s)))

    def guess_price(self, num_decoding: int) -> float:
        """How often a guess must come true so that computing it makes sequences faster.

        It is the time that a further token takes in a step, of what one takes now. Infinite
        where many decode, and where the times of such steps are not known.
        """
        costs = self._costs.get(num_decoding)
        if costs is None or costs.plain_s <= 0:
            return math.inf
        return costs.token_s * num_decoding / costs.plain_s

    def observe(
        self,
        num_decoding: int,
        num_prompt_tokens: int,
        seconds: float,
        *,
        only_decodes: bool = False,
    ) -> None:
        """Learn from a step; too few prompt tokens say nothing about the cost of one.

        Where a step `only_decodes`, what counts as prompt tokens was forced or guessed.
        """
        if num_prompt_tokens == 0 or seconds < self._decodes_s(num_decoding):
            self._decode_s, self._num_decoding = seconds, num_decoding
        is_small = only_decodes or num_prompt_tokens < MIN_PROMPT_TOKENS
        if 0 < num_decoding <= MOST_GUESSING and is_small:
            self._observe_few(num_decoding, num_prompt_tokens, seconds)
        if num_prompt_tokens >= MIN_PROMPT_TOKENS:
            token_s = (seconds - self._decodes_s(num_decoding)) / num_prompt_tokens
            if self._token_s is not None:
                token_s = _follow(self._token_s, token_s)
            self._token_s = max(token_s, SHORTEST_TOKEN_S)

    def _observe_few(self, num_decoding: int, num_others: int, seconds: float) -> None:
        costs = self._costs.get(num_decoding)
        if costs is None:
            if num_others == 0:
                self._costs[num_decoding] = _Costs(seconds, HOPEFUL_PRICE * seconds)
        elif num_others == 0:
            costs.plain_s = _follow(costs.plain_s, seconds)
            costs.token_s += FORGOTTEN * (HOPEFUL_PRICE * costs.plain_s - costs.token_s)
        else:
            token_s = (seconds - costs.plain_s) / num_others
            costs.token_s = max(_follow(costs.token_s, token_s), SHORTEST_TOKEN_S)

    def _decodes_s(self, num_decoding: int) -> float:
        return self._decode_s * min(1.0, num_decoding / self._num_decoding)


def _follow(estimate: float, measured: float) -> float:
    """Rise fast and fall slowly; a step that something held up counts as twice as slow."""
    change = min(measured, 2 * estimate) - estimate
    return estimate + change / (2 if change > 0 else 4)
