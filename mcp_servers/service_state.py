"""What the model server says of itself in numbers, for whoever shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtime.agent.runs import RunStatus
from runtime.agent.tool_tally import ToolCallTally

if TYPE_CHECKING:
    from runtime.engine.tally import EngineState


@dataclass(frozen=True, slots=True)
class ServiceState:
    """What goes on now and what was done.

    Attributes:
        num_running: runs that go on; `num_waiting` runs wait for their turn.
        num_ended: runs that ended, by what became of them.
        tool_calls: that agents made.
        engines: of the loaded models, by name.
    """

    num_running: int
    num_waiting: int
    num_ended: Mapping[RunStatus, int]
    tool_calls: ToolCallTally
    engines: Mapping[str, EngineState]
