"""What is benchmarked: options, the model under test, and what its work costs a machine."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tools.errors import UnavailableError

if TYPE_CHECKING:
    from mcp_servers.cli.bench_machine import Machine
    from runtime.config import Config
    from runtime.engine.engine import Engine, Runner
    from runtime.grammar.constraint import Constraint
    from runtime.tokenizer import Tokenizer
    from runtime.weights import Checkpoint

FIRST_TOKEN, END_TOKEN = 1_000, 40_000
"""Random prompts take their tokens from here: ordinary ones in most vocabularies."""


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What was asked for.

    Attributes:
        config: the engine's settings, the model's name among them.
        model: name or path of the model; what the server at `url` calls it, where there is one.
        repeats: how often.
        prompt_tokens: lengths of prompts.
        new_tokens: how many tokens to generate.
        concurrency: how many requests at the same time.
        url: of an OpenAI-compatible server to measure instead of our engine.
        peers: names and URLs of servers to measure in turn with it.
        label: what is measured, in words for a plot.
        rates: requests that arrive each second, whether others are answered or not.
        seconds: how long they arrive.
    """

    config: Config
    model: str
    repeats: int
    prompt_tokens: tuple[int, ...] = ()
    new_tokens: int = 0
    concurrency: tuple[int, ...] = ()
    url: str | None = None
    label: str = "Zonda"
    rates: tuple[float, ...] = ()
    seconds: int = 30
    peers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ModelCost:
    """What a model's work takes at least of memory and multipliers.

    Attributes:
        weight_bytes: read in each step that draws tokens, however many.
        body_weights: multiplied for each token.
        head_weights: multiplied for each token that is drawn.
        layer_kv_bytes: of keys and values, per token and layer.
        windows: per layer, how many tokens are seen; 0 for all.
        context_length: most tokens of a sequence.
    """

    weight_bytes: int
    body_weights: int
    head_weights: int
    layer_kv_bytes: int
    windows: tuple[int, ...]
    context_length: int

    def kv_bytes(self, context: int) -> int:
        """Bytes of keys and values that a token reads after so many others."""
        return self.layer_kv_bytes * sum(min(context, one or context) for one in self.windows)

    def prefill_limit(self, machine: Machine) -> float:
        """Most prompt tokens per second: the projections of all layers, no attention."""
        return machine.int8_peak / (2 * self.body_weights)

    def decode_limit(self, machine: Machine, context: int) -> float:
        """Most tokens per second of one sequence."""
        return 1 / self._step_s(machine, 1, context)

    def serve_limit(
        self, machine: Machine, concurrency: int, prompt_tokens: int, new_tokens: int
    ) -> float:
        """Most generated tokens per second of requests that come at once, prefill included."""
        prefill_s = concurrency * prompt_tokens / self.prefill_limit(machine)
        context = prompt_tokens + new_tokens // 2
        decode_s = new_tokens * self._step_s(machine, concurrency, context)
        return concurrency * new_tokens / (prefill_s + decode_s)

    def _step_s(self, machine: Machine, num_sequences: int, context: int) -> float:
        num_bytes = self.weight_bytes + num_sequences * self.kv_bytes(context)
        num_operations = 2 * num_sequences * (self.body_weights + self.head_weights)
        return max(num_bytes / machine.bandwidth, num_operations / machine.int8_peak)


def cost_of(checkpoint: Checkpoint, config: Config) -> ModelCost:
    """Add up a checkpoint's tensors; the embedding table counts only as a tied head.

    Raises:
        ModelFileError: the file's metadata makes no sense.
    """
    from runtime.engine.cpu_runner import kv_bytes_per_token
    from runtime.kernels.cpu.structs import KvType
    from runtime.models.config import ModelConfig

    model = ModelConfig.from_checkpoint(checkpoint)
    infos = {name: checkpoint.info(name) for name in checkpoint.names}
    tables = {"embed_tokens.weight", "lm_head.weight"}
    unread = {"embed_tokens.weight"} if "lm_head.weight" in infos else set()
    body = [info for name, info in infos.items() if name not in tables]
    kv_bytes = kv_bytes_per_token(model, KvType[config.kv_type.upper()])
    return ModelCost(
        weight_bytes=sum(infos[name].num_bytes for name in infos.keys() - unread),
        body_weights=sum(math.prod(info.shape) for info in body if len(info.shape) > 1),
        head_weights=model.vocab_size * model.hidden_size,
        layer_kv_bytes=kv_bytes // model.num_layers,
        windows=tuple(layer.window for layer in model.layers),
        context_length=model.context_length,
    )


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in this process; its engine goes on past the end of a text, and guesses nothing.

    So each token that is drawn takes a forward pass. `guessing` lets it guess.
    """

    tokenizer: Tokenizer
    runner: Runner
    engine: Engine
    cost: ModelCost

    @contextmanager
    def guessing(self, max_draft_tokens: int) -> Iterator[None]:
        """While entered, the engine guesses so many tokens at most."""
        limits = self.engine.limits
        self.engine.limits = replace(limits, max_draft_tokens=max_draft_tokens)
        try:
            yield
        finally:
            self.engine.limits = limits

    @property
    def kernel_s(self) -> float:
        """Seconds inside the CPU's kernels so far; 0 on other devices."""
        from runtime.engine.cpu_runner import CpuRunner

        return self.runner.step_ns / 1e9 if isinstance(self.runner, CpuRunner) else 0.0


def load_model(config: Config) -> LoadedModel:
    """Load the configuration's model.

    Raises:
        UnknownModelError: it is neither a name nor a file.
        UnavailableError: it is not here yet, or does not fit the memory.
        ModelFileError: the file is damaged or of a kind we don't run.
    """
    from runtime.engine.engine import Engine
    from runtime.hub import open_model

    checkpoint, tokenizer, runner, limits = open_model(find_model(config), config)
    limits = replace(limits, max_draft_tokens=0)
    engine = Engine(runner, limits, decoder=tokenizer.decoder, stop_ids=frozenset())
    return LoadedModel(tokenizer, runner, engine, cost_of(checkpoint, config))


def find_model(config: Config) -> Path:
    """Return where the configuration's model lies.

    Raises:
        UnknownModelError: it is neither a name nor a file.
        UnavailableError: it is not here yet.
    """
    from runtime.sources import resolve_model

    name = config.model
    if (path := resolve_model(name, config.cache_dir)) is None:
        raise UnavailableError(f"{name} is not here yet; fetch it: zonda pull {name}")
    return path


@dataclass(frozen=True, slots=True)
class Generation:
    """One request.

    Attributes:
        started: when it was made.
        times: when each of its tokens came.
        token_ids: which they were.
        kernel_s: seconds inside the CPU's kernels after the first token.
    """

    started: float
    times: tuple[float, ...]
    token_ids: tuple[int, ...]
    kernel_s: float

    @property
    def first_token_s(self) -> float:
        return self.times[0] - self.started

    @property
    def decode_s(self) -> float:
        """Seconds from the first token to the last."""
        return self.times[-1] - self.times[0]

    @property
    def num_later(self) -> int:
        """Tokens that came after the step which gave the first one."""
        return sum(came > self.times[0] for came in self.times)


def generate(
    model: LoadedModel,
    token_ids: Sequence[int],
    new_tokens: int,
    constraint: Constraint | None = None,
) -> Generation:
    """Run one request alone, in this thread.

    Raises:
        GenerationError: the engine could not.
        InvalidRequestError: the prompt does not fit the context.
    """
    from runtime.errors import GenerationError
    from runtime.request import GenerateRequest, SamplingParams

    times: list[float] = []
    drawn: list[int] = []
    prefill_s = 0.0
    started = time.perf_counter()
    request = GenerateRequest(tuple(token_ids), SamplingParams(max_tokens=new_tokens))
    sequence_id = model.engine.add(request, constraint)
    while model.engine.has_work:
        chunk = model.engine.step().get(sequence_id)
        if chunk is None:
            continue
        if chunk.error is not None:
            raise GenerationError(f"the engine failed: {chunk.error}")
        prefill_s = prefill_s if times else model.kernel_s
        times += [time.perf_counter()] * len(chunk.token_ids)
        drawn += chunk.token_ids
    return Generation(started, tuple(times), tuple(drawn), model.kernel_s - prefill_s)


def random_prompt(num_tokens: int, vocab_size: int = END_TOKEN) -> list[int]:
    """Tokens that no cache has seen."""
    end = min(END_TOKEN, vocab_size)
    start = min(FIRST_TOKEN, end // 2)
    return [random.randrange(start, end) for _ in range(num_tokens)]  # noqa: S311 - no secret
