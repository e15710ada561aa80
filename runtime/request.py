"""What crosses the engine's border: a frozen request in, token chunks out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tools.errors import InvalidRequestError

FinishReason = Literal["stop", "length", "tool_calls", "cancelled", "error"]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are drawn.

    Attributes:
        max_tokens: most tokens to generate, at least 0.
        temperature: 0 takes the likeliest token; at most 2.
        top_k: keep the k likeliest tokens; 0 keeps all.
        top_p: keep the likeliest tokens whose probabilities sum to this, in (0, 1].
        min_p: drop tokens below this share of the likeliest one's probability, in [0, 1).
        repetition_penalty: divides the positive logits of tokens that the prompt or the text has
            and multiplies the negative ones, in 0.01..2; 1 for none.
        presence_penalty: lowers the logits of tokens that the text has, in -2..2; 0 for none.
        frequency_penalty: lowers them by this for each time the text has them, in -2..2.
        seed: makes draws repeatable, whatever else is in the batch; None draws a seed.
        stop: strings that end the text; they are not part of it.
        ignores_end: the text goes on past the model's end tokens, to `max_tokens`.
        logit_bias: token ids and what is added to their logits, -100..100 each, before the
            penalties; a token once at most.
        top_logprobs: reports the log-probability of each token, and so many of the likeliest ones
            in its place, in 0..20; None reports nothing. They are the model's own: before biases,
            penalties, grammar and temperature.
        prediction: much of the text, perhaps. It changes no draw; where it is right, several
            tokens come of one step.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignores_end: bool = False
    logit_bias: tuple[tuple[int, float], ...] = ()
    top_logprobs: int | None = None
    prediction: str = ""

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            InvalidRequestError: names the parameter, its range and what was found.
        """
        ranges = (
            ("max_tokens", self.max_tokens >= 0, "at least 0"),
            ("temperature", 0 <= self.temperature <= 2, "in 0..2"),
            ("top_k", self.top_k >= 0, "at least 0"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", 0 <= self.min_p < 1, "at least 0 and below 1"),
            ("repetition_penalty", 0.01 <= self.repetition_penalty <= 2, "in 0.01..2"),
            ("presence_penalty", -2 <= self.presence_penalty <= 2, "in -2..2"),
            ("frequency_penalty", -2 <= self.frequency_penalty <= 2, "in -2..2"),
            ("seed", self.seed is None or 0 <= self.seed < 2**63, "in 0..2**63-1"),
            ("top_logprobs", self.top_logprobs is None or 0 <= self.top_logprobs <= 20, "in 0..20"),
            (
                "logit_bias",
                _is_bias(self.logit_bias),
                "-100..100 for each of its tokens, named once",
            ),
        )
        for name, is_valid, wanted in ranges:
            if not is_valid:
                raise InvalidRequestError(f"{name} must be {wanted}, not {getattr(self, name)!r}")

    @property
    def has_penalties(self) -> bool:
        """Whether tokens that occurred get other logits."""
        return (
            self.repetition_penalty != 1
            or self.presence_penalty != 0
            or self.frequency_penalty != 0
        )


def _is_bias(bias: tuple[tuple[int, float], ...]) -> bool:
    is_unique = len({token_id for token_id, _ in bias}) == len(bias)
    return is_unique and all(token_id >= 0 and -100 <= value <= 100 for token_id, value in bias)


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One request for one sequence.

    Attributes:
        token_ids: the prompt, at least one token.
        sampling: how to draw.
        num_scored_tokens: the last so many prompt tokens get a log-probability each,
            returned in the first chunk; 0 for ordinary generation.
        lease: name under which the sequence's full pages stay pinned after it ends,
            replacing what that name held; None for no lease.
        lease_s: seconds the lease lives, unless memory runs short first.
        salt: separates this caller's cached pages from other callers'.
        predicted_ids: tokens of what is likely said; they change no draw.
        num_shared_tokens: leading tokens that are cached without the salt.
        is_background: runs only in steps that prefill nothing else, and makes way for whatever
            comes; for requests of no tokens that nobody waits for.
    """

    token_ids: tuple[int, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    num_scored_tokens: int = 0
    lease: str | None = None
    lease_s: float = 0.0
    salt: bytes = b""
    predicted_ids: tuple[int, ...] = ()
    num_shared_tokens: int = 0
    is_background: bool = False

    def __post_init__(self) -> None:
        """Refuse what would never end while others run.

        Raises:
            InvalidRequestError: a background request that draws tokens.
        """
        if self.is_background and self.sampling.max_tokens:
            raise InvalidRequestError(
                "a background request only fills the prefix cache: max_tokens must be 0, "
                f"not {self.sampling.max_tokens}"
            )


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one sequence or of a whole run.

    `cached_tokens` of the prompt came from the prefix cache; `forced_tokens` of the
    completion were dictated by the grammar; `drafted_tokens` were guessed and computed,
    `accepted_tokens` of them came out so; `forward_passes` is the number of steps the sequence
    took part in.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    forced_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    forward_passes: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
            self.forced_tokens + other.forced_tokens,
            self.drafted_tokens + other.drafted_tokens,
            self.accepted_tokens + other.accepted_tokens,
            self.forward_passes + other.forward_passes,
        )


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A token's natural log-probability, and the likeliest tokens in its place with theirs.

    The likeliest come first; the token itself need not be among them.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TokenChunk:
    """What one step added to a sequence.

    Attributes:
        token_ids: accepted tokens, end-of-turn token included.
        text: their text, cut at UTF-8 boundaries and before a stop string; special tokens
            have no text. The texts of all chunks join to the whole.
        logprobs: natural log-probability of each scored prompt token; only with
            `num_scored_tokens`, in one chunk.
        scores: with `top_logprobs`, of each of the chunk's tokens; in the first chunk, those of
            the scored prompt tokens come before them.
        finish_reason: set on the last chunk only; never "tool_calls", which is chat's.
        error: why, when `finish_reason` is "error".
        usage: of the sequence so far.
    """

    token_ids: tuple[int, ...] = ()
    text: str = ""
    logprobs: tuple[float, ...] = ()
    scores: tuple[TokenScore, ...] = ()
    finish_reason: FinishReason | None = None
    error: str | None = None
    usage: Usage | None = None
