"""One sequence in our engine, step by step in this thread: prefill and decode."""

from __future__ import annotations

from collections.abc import Iterator

from mcp_servers.cli.bench_machine import MachineProbe
from mcp_servers.cli.bench_setup import (
    BenchOptions,
    LoadedModel,
    generate,
    load_model,
    random_prompt,
)
from mcp_servers.cli.records import Measurement

NUM_WARM_UP = 16
"""Tokens of the prompt and of the answer that run before anything is measured."""


def measure_prefill(options: BenchOptions) -> Iterator[Measurement]:
    """Prompt tokens per second up to the first new token, for each length of prompt."""
    model = warm_up(options)
    for num_tokens in options.prompt_tokens:
        probe = MachineProbe(options.config)
        rates = []
        for _ in range(options.repeats):
            probe.look()
            prompt = random_prompt(num_tokens, model.tokenizer.vocab_size)
            rates.append(num_tokens / generate(model, prompt, 1).first_token_s)
        limit = None if probe.machine is None else model.cost.prefill_limit(probe.machine)
        params = {"measure": "prefill", "prompt_tokens": num_tokens}
        yield Measurement("prefill", params, rates, "tokens/s", limit, probe.bandwidth_gb_s)


def measure_decode(options: BenchOptions) -> Iterator[Measurement]:
    """New tokens per second after the first one, for each length of prompt.

    On the CPU also the share of that time which was not spent in the kernels.
    """
    model = warm_up(options)
    for num_tokens in options.prompt_tokens:
        probe = MachineProbe(options.config)
        runs = []
        for _ in range(options.repeats):
            probe.look()
            prompt = random_prompt(num_tokens, model.tokenizer.vocab_size)
            runs.append(generate(model, prompt, options.new_tokens + 1))
        limit = None
        if probe.machine is not None:
            context = num_tokens + options.new_tokens // 2
            limit = model.cost.decode_limit(probe.machine, context)
        params = {"prompt_tokens": num_tokens, "new_tokens": options.new_tokens}
        decode = {"measure": "decode", **params}
        rates = [run.num_later / run.decode_s for run in runs]
        yield Measurement("decode", decode, rates, "tokens/s", limit, probe.bandwidth_gb_s)
        if model.kernel_s:
            outside = {"measure": "outside the kernels", **params}
            shares = [100 * (1 - run.kernel_s / run.decode_s) for run in runs]
            yield Measurement("decode", outside, shares, "%", None, probe.bandwidth_gb_s)


def warm_up(options: BenchOptions) -> LoadedModel:
    """Load the model and run it once."""
    model = load_model(options.config)
    prompt = random_prompt(NUM_WARM_UP, model.tokenizer.vocab_size)
    generate(model, prompt, NUM_WARM_UP)
    return model
