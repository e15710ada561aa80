"""How far an agent run may go, and how much of a result a model is shown."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Where a run stops; reaching one still lets the model answer where time and tokens allow.

    Attributes:
        max_steps: turns of the model; the last one may not call tools.
        max_calls: tool calls of the whole run.
        max_seconds: from the start of the run, tools and approvals included.
        max_tokens: completion tokens of the whole run.
        max_same_calls: the so-manieth call of one tool with equal arguments is not made.
        max_errors: results in a row that are errors.
        max_result_chars: longest result text a model is shown; never more than a quarter
            of the context, at four characters a token.
    """

    max_steps: int = 16
    max_calls: int = 64
    max_seconds: float = 600.0
    max_tokens: int = 32_768
    max_same_calls: int = 3
    max_errors: int = 3
    max_result_chars: int = 8_192


def clip(text: str, max_chars: int, hint: str = "") -> str:
    """Shorten `text` to about `max_chars`: keep head and tail, whole lines where they are short.

    What is kept and the note about what is missing together stay under `max_chars` + 80 and
    the `hint` that ends the note.
    """
    if len(text) <= max_chars:
        return text
    head = text[: max_chars * 2 // 3]
    tail = text[len(text) - (max_chars - len(head)) :]
    head = _up_to_last_line(head)
    tail = _from_first_line(tail)
    cut = len(text) - len(head) - len(tail)
    return f"{head}\n[cut: {cut} of {len(text)} characters are not shown{hint}]\n{tail}"


def _up_to_last_line(head: str) -> str:
    end = head.rfind("\n")
    return head[:end] if end >= len(head) // 2 else head


def _from_first_line(tail: str) -> str:
    start = tail.find("\n") + 1
    return tail[start:] if 0 < start <= len(tail) // 2 else tail
