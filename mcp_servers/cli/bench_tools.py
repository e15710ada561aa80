"""What calling tools costs: grammars, their masks and steps, and catalogues in prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mcp_servers.cli.bench_calls import measure_calls
from mcp_servers.cli.bench_catalogue import TOKENS_PER_TOOL, measure_catalogue
from mcp_servers.cli.bench_grammars import measure_grammars
from mcp_servers.cli.bench_hostile import measure_hostile
from mcp_servers.cli.bench_machine import MachineProbe
from mcp_servers.cli.bench_setup import BenchOptions, Generation, LoadedModel, generate
from mcp_servers.cli.bench_single import warm_up
from mcp_servers.cli.records import Measurement
from tools.spec import JsonObject
from tools.validation import first_problem

if TYPE_CHECKING:
    from runtime.grammar.compile import CompiledGrammar
    from runtime.tokenizer import Tokenizer

SCHEMA: JsonObject = {
    "type": "object",
    "properties": {
        "action": {"type": "string", "enum": ["search", "read", "write", "delete"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 9999},
        "path": {"type": "string", "maxLength": 40},
        "tags": {
            "type": "array",
            "items": {"type": "string", "maxLength": 12},
            "maxItems": 3,
        },
    },
    "required": ["action", "count", "path", "tags"],
    "additionalProperties": False,
}
"""Bounded, so that a small model cannot go on for ever inside a string."""

TOPICS = (
    *("a report", "old logs", "the budget", "tax forms", "source code"),
    *("emails", "maps", "backups", "invoices", "lecture notes"),
)

_PROMPT = (
    "Call the file tool about {topic}. Answer with a JSON object with the keys action, count, "
    "path and tags.\n"
)


def measure_tools(options: BenchOptions) -> Iterator[Measurement]:
    """All that calls cost: tokens, masks, grammars, a session's first token, others' waits.

    The catalogue of the sessions has about as many tokens as the first of the options' prompts.
    """
    model = warm_up(options)
    yield from measure_calls(options, model)
    yield from measure_grammars(options, model)
    yield from measure_schema(options, model)
    num_tools = max(1, options.prompt_tokens[0] // TOKENS_PER_TOOL)
    yield from measure_catalogue(options, num_tools)
    yield from measure_hostile(options)


def measure_schema(options: BenchOptions, model: LoadedModel) -> list[Measurement]:
    """Time per token with a schema and without, and the share of answers that satisfy it."""
    grammar = _compile(model.tokenizer)
    probe = MachineProbe(options.config)
    constrained_ms, free_ms, slowdowns, valid = [], [], [], []
    for _ in range(options.repeats):
        probe.look()
        pairs = [_run(model, grammar, topic, options.new_tokens) for topic in TOPICS]
        constrained, free = (_token_ms(runs) for runs in zip(*pairs, strict=True))
        constrained_ms.append(constrained)
        free_ms.append(free)
        slowdowns.append(constrained / free)
        valid.append(100 * sum(_is_valid(model, run) for run, _ in pairs) / len(pairs))

    def record(
        measure: str, values: list[float], unit: str, limit: float | None = None
    ) -> Measurement:
        params = {"measure": measure, "new_tokens": options.new_tokens}
        return Measurement("tools", params, values, unit, limit, probe.bandwidth_gb_s)

    return [
        record("token of free text", free_ms, "ms"),
        record("token under a schema", constrained_ms, "ms"),
        record("schema over free", slowdowns, "ratio", 1.0),
        record("answers that satisfy the schema", valid, "%", 100.0),
    ]


def _compile(tokenizer: Tokenizer) -> CompiledGrammar:
    from runtime.grammar.compile import compile_grammar, from_json_schema
    from runtime.grammar.vocabulary import Vocabulary

    vocabulary = Vocabulary(
        tokenizer.json,
        tokenizer.vocab_size,
        tokenizer.eos_id,
        tokenizer.special_ids,
        tokenizer.stop_ids,
    )
    return compile_grammar(from_json_schema(SCHEMA), vocabulary)


def _run(
    model: LoadedModel, grammar: CompiledGrammar, topic: str, new_tokens: int
) -> tuple[Generation, Generation]:
    """The same prompt under the schema, then as many tokens of free text."""
    tokenizer = model.tokenizer
    start = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
    prompt = start + tokenizer.encode(_PROMPT.format(topic=topic))
    constrained = generate(model, prompt, new_tokens, grammar.constraint())
    return constrained, generate(model, prompt, len(constrained.token_ids))


def _token_ms(runs: Sequence[Generation]) -> float:
    return 1000 * sum(run.decode_s for run in runs) / sum(run.num_later for run in runs)


def _is_valid(model: LoadedModel, run: Generation) -> bool:
    try:
        answer = json.loads(model.tokenizer.decode(run.token_ids))
    except ValueError:
        return False
    return first_problem(SCHEMA, answer) is None
