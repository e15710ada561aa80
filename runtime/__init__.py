"""The engine, and what makes it an agent. The names in `__all__` are the public Python API.

They are imported when they are first used, so that `import runtime` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.agent.audit import AuditLog
    from runtime.agent.events import (
        AgentEnd,
        AgentEvent,
        StepFinished,
        StepStarted,
        ToolCallFinished,
        ToolCallStarted,
    )
    from runtime.agent.limits import Limits
    from runtime.agent.loop import Agent
    from runtime.agent.policy import Policy
    from runtime.agent.rules import load_policy
    from runtime.chat.messages import (
        Message,
        OutputSchema,
        TextDelta,
        ToolCall,
        ToolCallDelta,
        ToolChoice,
        TurnEnd,
    )
    from runtime.chat.model import ChatModel
    from runtime.config import Config, load_config
    from runtime.errors import GenerationError, UnsupportedSchemaError
    from runtime.grammar.compile import (
        GrammarSource,
        from_grammar,
        from_json_schema,
        from_output_type,
        from_regex,
    )
    from runtime.hub import Hub
    from runtime.outlines_model import AsyncOutlinesModel, OutlinesModel, open_outlines_model
    from runtime.request import SamplingParams, Usage
    from tools.errors import InvalidRequestError, ZondaError
    from tools.function import FunctionToolset, function_tool

_MODULES = {
    "runtime.agent.audit": ("AuditLog",),
    "runtime.agent.events": (
        *("AgentEnd", "AgentEvent", "StepFinished", "StepStarted"),
        *("ToolCallFinished", "ToolCallStarted"),
    ),
    "runtime.agent.limits": ("Limits",),
    "runtime.agent.loop": ("Agent",),
    "runtime.agent.policy": ("Policy",),
    "runtime.agent.rules": ("load_policy",),
    "runtime.chat.messages": (
        *("Message", "OutputSchema", "TextDelta", "ToolCall", "ToolCallDelta", "ToolChoice"),
        "TurnEnd",
    ),
    "runtime.chat.model": ("ChatModel",),
    "runtime.config": ("Config", "load_config"),
    "runtime.errors": ("GenerationError", "UnsupportedSchemaError"),
    "runtime.grammar.compile": (
        *("GrammarSource", "from_grammar", "from_json_schema", "from_output_type", "from_regex"),
    ),
    "runtime.hub": ("Hub",),
    "runtime.outlines_model": ("AsyncOutlinesModel", "OutlinesModel", "open_outlines_model"),
    "runtime.request": ("SamplingParams", "Usage"),
    "tools.errors": ("InvalidRequestError", "ZondaError"),
    "tools.function": ("FunctionToolset", "function_tool"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Agent",
    "AgentEnd",
    "AgentEvent",
    "AsyncOutlinesModel",
    "AuditLog",
    "ChatModel",
    "Config",
    "FunctionToolset",
    "GenerationError",
    "GrammarSource",
    "Hub",
    "InvalidRequestError",
    "Limits",
    "Message",
    "OutlinesModel",
    "OutputSchema",
    "Policy",
    "SamplingParams",
    "StepFinished",
    "StepStarted",
    "TextDelta",
    "ToolCall",
    "ToolCallDelta",
    "ToolCallFinished",
    "ToolCallStarted",
    "ToolChoice",
    "TurnEnd",
    "UnsupportedSchemaError",
    "Usage",
    "ZondaError",
    "from_grammar",
    "from_json_schema",
    "from_output_type",
    "from_regex",
    "function_tool",
    "load_config",
    "load_policy",
    "open_outlines_model",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'runtime' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
