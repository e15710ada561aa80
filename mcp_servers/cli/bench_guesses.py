"""What guessing tokens is worth: the same answers with guesses and without, in turn."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from mcp_servers.cli.bench_calls import Calls
from mcp_servers.cli.bench_machine import MachineProbe
from mcp_servers.cli.bench_setup import BenchOptions, LoadedModel
from mcp_servers.cli.bench_single import warm_up
from mcp_servers.cli.records import Measurement
from runtime.chat.messages import Message
from runtime.errors import GenerationError
from runtime.request import GenerateRequest, SamplingParams

REPORT = (
    "The committee met on Monday. The committee agreed that the budget of the committee will be "
    "published on Friday by the committee, and that the next meeting is on Tuesday."
)
QUESTIONS = (
    "Write a short story about a fox and a crow.",
    "Explain how rain forms, step by step.",
    "List ten fruits with a colour each.",
    f"Summarise: {REPORT}",
    f"Correct the spelling, and change nothing else: {REPORT}",
    'Raise the age by one: {"name": "Ada Lovelace", "age": 36, "city": "London"}',
    "Write Python code that reads a file and counts its words.",
    "Translate to French: good morning, my friend.",
)
"""Half of the answers may repeat what was said before."""

BATCHES = (1, 2, 4)


def measure_guesses(options: BenchOptions) -> Iterator[Measurement]:
    """Tokens per second of answers, for several numbers of requests at a time.

    Raises:
        GenerationError: an answer comes out otherwise when tokens are guessed.
    """
    model = warm_up(options)
    calls = Calls(model)
    sampling = SamplingParams(max_tokens=options.new_tokens)
    requests = [
        replace(calls.request_of([Message("user", question)]), sampling=sampling)
        for question in QUESTIONS
    ]
    for size in BATCHES:
        probe = MachineProbe(options.config)
        runs = []
        _answer(model, requests, size)
        for _ in range(options.repeats):
            probe.look()
            plain, plain_s = _answer(model, requests, size)
            with model.guessing(options.config.max_draft_tokens):
                guessed, guessed_s = _answer(model, requests, size)
            if plain != guessed:
                raise GenerationError("an answer comes out otherwise when tokens are guessed")
            num_tokens = sum(map(len, plain))
            runs.append((num_tokens / plain_s, num_tokens / guessed_s, plain_s / guessed_s))
        for index, (measure, unit) in enumerate(
            (
                ("nothing guessed", "tokens/s"),
                ("guessed", "tokens/s"),
                ("guessed over not", "ratio"),
            )
        ):
            params = {"measure": f"answers, {measure}", "sequences": size}
            values = [run[index] for run in runs]
            yield Measurement("guesses", params, values, unit, None, probe.bandwidth_gb_s)


def _answer(
    model: LoadedModel, requests: Sequence[GenerateRequest], size: int
) -> tuple[list[list[int]], float]:
    """Answer all requests, `size` at a time; return the answers' tokens and the seconds."""
    waiting = list(requests) * max(1, size // len(requests))
    answers: dict[int, list[int]] = {}
    running: set[int] = set()
    started = time.perf_counter()
    while waiting or running:
        while waiting and len(running) < size:
            running.add(model.engine.add(waiting.pop()))
        for sequence_id, chunk in model.engine.step().items():
            token_ids = answers.setdefault(sequence_id, [])
            ends = [at for at, one in enumerate(chunk.token_ids) if one in model.tokenizer.stop_ids]
            token_ids += chunk.token_ids[: ends[0]] if ends else chunk.token_ids
            if ends or chunk.finish_reason is not None:
                model.engine.abort(sequence_id)
                running.discard(sequence_id)
    return [answers[sequence_id] for sequence_id in sorted(answers)], time.perf_counter() - started
