"""What grammars of tools cost to compile, new ones and ones that were seen before."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mcp_servers.cli.bench_setup import BenchOptions, LoadedModel
from mcp_servers.cli.records import Measurement
from runtime.chat.messages import AUTO, ToolChoice
from tools.spec import JsonObject, ToolSpec

if TYPE_CHECKING:
    from runtime.chat.grammars import Grammars

NUM_TOOLS = (3, 100, 300)
MAX_COMPILE_MS = 150.0
REQUIRED = ToolChoice("required")

_VERBS = ("search", "read", "create", "update", "archive", "count")
_OWNERS = ("user", "team", "shop", "site", "group")
_KINDS = ("invoice", "report", "ticket", "photo", "meeting", "parcel", "recipe", "address", "note")
_LEVELS = ("", "_draft")


def measure_grammars(options: BenchOptions, model: LoadedModel) -> Iterator[Measurement]:
    """From a turn's tools to what it is decoded under, its shortest end included.

    Of tools that nobody has seen, where calls may be made and where one must be; of the same
    ones as a client sends them again; and of the very same objects.
    """
    from runtime.chat.grammars import Grammars
    from runtime.chat.prompt import PromptBuilder

    prompts = PromptBuilder(model.tokenizer)
    grammars = Grammars(prompts.bound, model.tokenizer, prompts.end_of_turn_id)
    first = _compile_ms(grammars, make_tools(1, "first"), REQUIRED)
    yield _record("first grammar of a model, vocabulary included", 1, [first])
    for num_tools in NUM_TOOLS:
        limit = MAX_COMPILE_MS if num_tools == max(NUM_TOOLS) else None
        salts = [str(number) for number in range(options.repeats)]
        for measure, choice, most in (
            ("grammar, calls may be made", AUTO, limit),
            ("grammar, a call must be made", REQUIRED, limit),
            ("grammar, tools sent again", AUTO, None),
        ):
            offered = [make_tools(num_tools, f"{salt}_{choice.mode}") for salt in salts]
            taken = [_compile_ms(grammars, tools, choice) for tools in offered]
            yield _record(measure, num_tools, taken, most)
        tools = make_tools(num_tools, "same")
        _compile_ms(grammars, tools, AUTO)
        same = [_compile_ms(grammars, tools, AUTO) for _ in salts]
        yield _record("grammar, same tools", num_tools, same)


def make_tools(num_tools: int, salt: str) -> list[ToolSpec]:
    """Made-up tools of five arguments, all different; others for each salt."""
    names = itertools.product(_VERBS, _OWNERS, _KINDS, _LEVELS)
    return [
        _make_tool("_".join((verb, owner, kind)) + level, kind, salt)
        for verb, owner, kind, level in itertools.islice(names, num_tools)
    ]


def _make_tool(name: str, kind: str, salt: str) -> ToolSpec:
    properties: JsonObject = {
        "id": {"type": "string", "description": f"Which {kind}."},
        "owner": {"type": "string"},
        "state": {"type": "string", "enum": ["open", "done", "late"]},
        "limit": {"type": "integer", "minimum": 1, "maximum": 100},
        f"tags_{salt}": {"type": "array", "items": {"type": "string"}, "maxItems": 5},
    }
    schema = {"type": "object", "properties": properties, "required": ["id", "state"]}
    return ToolSpec(name, f"Works on the {kind}.", schema)


def _compile_ms(grammars: Grammars, tools: Sequence[ToolSpec], choice: ToolChoice) -> float:
    from runtime.chat.wire_formats.grammar import TurnShape

    started = time.perf_counter()
    grammar = grammars.compile(tools, TurnShape(choice))
    assert grammar is not None
    return 1000 * (time.perf_counter() - started)


def _record(
    measure: str, num_tools: int, values: Sequence[float], limit: float | None = None
) -> Measurement:
    return Measurement("tools", {"measure": measure, "tools": num_tools}, values, "ms", limit)
