"""Greedy tokens under a grammar of tool calls, in whatever way they are computed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from runtime.engine.cpu_runner import CpuRunner
from runtime.engine.engine import Engine, EngineLimits
from runtime.engine.pace import Pace
from runtime.grammar.compile import GrammarSource, compile_grammar
from runtime.grammar.constraint import Constraint, ConstraintState
from runtime.grammar.vocabulary import Vocabulary
from runtime.kernels import Array, ForwardBatch, SamplingBatch
from runtime.kernels.cpu.recorder import Limits
from runtime.kernels.cpu.structs import OpKind
from runtime.models.decoder import Decoder
from runtime.request import GenerateRequest, SamplingParams
from runtime.tokenizer import Tokenizer, load_tokenizer
from runtime.weights import open_checkpoint
from tests.helpers.vocabularies import vocabulary_of

_WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "unit": {"enum": ["celsius", "fahrenheit"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
    },
    "required": ["city", "unit", "days"],
    "additionalProperties": False,
}
_GRAMMAR = r"""
start: "<tool_call>\n{\"name\": \"" (weather | time) "}\n</tool_call>"
weather: "get_weather\", \"arguments\": " weather_arguments
time: "get_time\", \"arguments\": {}"
weather_arguments: %json """ + json.dumps(_WEATHER)
_QUESTIONS = (
    "What is the weather in Oslo tomorrow?",
    "How warm is it in Rome, in celsius?",
    "What time is it?",
    "Will it rain in the north of Spain during the next 9 days?",
)


class WholeHead(Decoder):
    """Computes every logit, whatever is looked at."""

    def __call__(
        self, batch: ForwardBatch, kv_pages: list[Array], sampling: SamplingBatch | None = None
    ) -> Array:
        return super().__call__(batch, kv_pages)


class NothingForced:
    """A constraint whose every token is drawn."""

    def __init__(self, constraint: Constraint) -> None:
        self._constraint = constraint

    def fill(self, token_bitmask: npt.NDArray[np.int32], row: int) -> None:
        self._constraint.fill(token_bitmask, row)

    def advance(self, token_ids: Sequence[int]) -> int:
        return self._constraint.advance(token_ids)

    def forced(self) -> list[int]:
        return []

    def rollback(self, num_tokens: int) -> None:
        self._constraint.rollback(num_tokens)

    def fork(self) -> NothingForced:
        return NothingForced(self._constraint.fork())

    @property
    def state(self) -> ConstraintState:
        return self._constraint.state


class HastyPace(Pace):
    """Has the likelier guesses made, whatever they cost here."""

    def guess_price(self, num_decoding: int) -> float:
        return 0.1


@dataclass(frozen=True)
class Answers:
    """Token ids of each sequence without the end of its turn; those of the questions first."""

    token_ids: list[list[int]]
    num_forced: int


class ToolCalls:
    """One checkpoint, its tokenizer and the grammar."""

    def __init__(self, path: Path, packed_folder: Path) -> None:
        self._path = path
        self._packed_folder = packed_folder
        self._tokenizer: Tokenizer = load_tokenizer(open_checkpoint(path).metadata)
        vocabulary: Vocabulary = vocabulary_of(self._tokenizer)
        self._grammar = compile_grammar(GrammarSource("lark", _GRAMMAR), vocabulary)

    def open_runner(self) -> CpuRunner:
        return CpuRunner(
            open_checkpoint(self._path),
            limits=Limits(128, 16, 512),
            kv_cache_bytes=64 << 20,
            threads=2,
            packed_folder=self._packed_folder,
        )

    def generate(
        self, runner: CpuRunner, *, is_forcing: bool = True, is_guessing: bool = False
    ) -> Answers:
        """Answer every question with a call, beside two sequences that no grammar binds."""
        limits = EngineLimits(
            context_length=512, max_step_tokens=128, max_draft_tokens=16 if is_guessing else 0
        )
        stop_ids = self._tokenizer.stop_ids
        engine = Engine(runner, limits, decoder=self._tokenizer.decoder, stop_ids=stop_ids)
        if is_guessing:
            engine.scheduler._pace = HastyPace(limits.max_step_s)
        ids: dict[int, list[int]] = {}
        num_forced = 0
        for question in _QUESTIONS:
            constraint: Constraint = self._grammar.constraint()
            constraint = constraint if is_forcing else NothingForced(constraint)
            ids[engine.add(self._request(question, max_tokens=100), constraint)] = []
        engine.add(self._request(_QUESTIONS[0], max_tokens=20))
        engine.add(self._request(_QUESTIONS[1], max_tokens=5, num_scored_tokens=4))
        while engine.has_work:
            for sequence_id, chunk in engine.step().items():
                assert chunk.error is None
                token_ids = [each for each in chunk.token_ids if each not in stop_ids]
                ids.setdefault(sequence_id, []).extend(token_ids)
                if chunk.finish_reason is not None and chunk.usage is not None:
                    num_forced += chunk.usage.forced_tokens
        assert bool(engine.state().tally.drafted_tokens) == is_guessing
        return Answers(list(ids.values()), num_forced)

    def read_calls(self, answers: Answers) -> list[Any]:
        """The calls that the tokens spell; fails where they spell none."""
        texts = [self._tokenizer.decode(ids) for ids in answers.token_ids[: len(_QUESTIONS)]]
        bare = [text.removeprefix("<tool_call>").removesuffix("</tool_call>") for text in texts]
        return [json.loads(text) for text in bare]

    def _request(
        self, text: str, *, max_tokens: int, num_scored_tokens: int = 0
    ) -> GenerateRequest:
        token_ids = tuple(self._tokenizer.encode(text))
        return GenerateRequest(token_ids, SamplingParams(max_tokens=max_tokens), num_scored_tokens)


def check_greedy_tokens(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same tokens from the reduced and the whole head, forced, guessed and drawn."""
    calls = ToolCalls(path, folder)
    reduced = calls.open_runner()
    monkeypatch.setattr("runtime.engine.cpu_runner.Decoder", WholeHead)
    whole = calls.open_runner()
    kinds = [{op.kind for op in runner._recording.ops} for runner in (reduced, whole)]
    assert kinds[0] ^ kinds[1] == {OpKind.OUTPUT_LOGITS}
    wanted = calls.generate(whole)
    assert wanted.num_forced > 4 * 10
    assert {call["name"] for call in calls.read_calls(wanted)} <= {"get_weather", "get_time"}
    assert calls.generate(reduced) == wanted
    drawn = Answers(wanted.token_ids, num_forced=0)
    assert calls.generate(reduced, is_guessing=True) == wanted
    assert calls.generate(reduced, is_forcing=False) == drawn
    assert calls.generate(whole, is_forcing=False) == drawn
