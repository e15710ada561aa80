"""How a model family writes a tool call: a frozen row of data that three functions read.

Rendering, grammar and parser are functions of the same row, so they cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WireFormat:
    """The punctuation of tool calls with JSON arguments.

    A call reads `call_open + before_name + NAME + before_arguments + ARGUMENTS +
    after_arguments + call_close`; calls of one turn are joined by `between_calls`.
    `call_open` and `call_close` are single tokens where the vocabulary has them.

    Attributes:
        name: how logs and reports call the format.
        tools_before: introduces the tools in the system turn, where the model's template
            renders none; one JSON line per tool follows.
        tools_after: closes that list and tells how to call.
        result_open: stands before a tool's result, and `result_close` after it, in the user
            turn that carries results where the template renders no tools.
    """

    name: str
    call_open: str
    before_name: str
    before_arguments: str
    after_arguments: str
    call_close: str
    between_calls: str
    tools_before: str
    tools_after: str
    result_open: str
    result_close: str

    @property
    def markers(self) -> tuple[str, str]:
        """Texts that may be single tokens of the vocabulary."""
        return self.call_open, self.call_close
