"""The CPU runner on tiny checkpoints: the same bits however the work is cut, and the right ones."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.engine.cpu_runner import CpuRunner
from runtime.engine.engine import Engine, EngineLimits
from runtime.kernels.cpu.native import supported_variants
from runtime.kernels.cpu.recorder import Limits
from runtime.kernels.cpu.structs import KvType
from runtime.request import GenerateRequest, SamplingParams
from runtime.weights import open_checkpoint
from tests.engine.test_engine import FixedConstraint, generate
from tests.engine.test_torch_runner import make_engine as make_torch_engine
from tests.engine.test_torch_runner import prompts
from tests.helpers.constrained_tokens import HastyPace, check_greedy_tokens
from tests.helpers.page_runner import LetterDecoder
from tests.helpers.tiny_gguf import write_tiny_llama

LIMITS = EngineLimits(context_length=512)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


def open_runner(
    path: Path,
    kv_cache_bytes: int,
    *,
    max_step_tokens: int = 512,
    kv_type: KvType = KvType.INT8,
    threads: int = 2,
    variant: str | None = None,
    packed_folder: Path | None = None,
) -> CpuRunner:
    return CpuRunner(
        open_checkpoint(path),
        limits=Limits(max_step_tokens, 64, 512),
        kv_cache_bytes=kv_cache_bytes,
        kv_type=kv_type,
        threads=threads,
        variant=variant,
        packed_folder=packed_folder,
    )


def make_engine(
    path: Path,
    *,
    num_pages: int = 200,
    max_step_tokens: int = 512,
    max_draft_tokens: int = 0,
    **options: Any,
) -> Engine:
    options["max_step_tokens"] = max_step_tokens
    page_bytes = (1 << 20) // open_runner(path, 1 << 20, **options).num_pages
    runner = open_runner(path, num_pages * page_bytes, **options)
    assert runner.num_pages == num_pages
    limits = replace(LIMITS, max_step_tokens=max_step_tokens, max_draft_tokens=max_draft_tokens)
    engine = Engine(runner, limits, decoder=LetterDecoder, stop_ids=frozenset())
    engine.scheduler._pace = HastyPace(limits.max_step_s)
    return engine


def run(engine: Engine, requests: list[GenerateRequest]) -> list[tuple[object, object]]:
    """Tokens and log-probabilities of each request."""
    results = generate(engine, *requests)
    return [(result.token_ids, result.last and result.last.logprobs) for result in results]


def scored(count: int) -> list[GenerateRequest]:
    """Half of them greedy, half drawn; each scores the second half of its prompt."""
    return [
        GenerateRequest(
            prompt,
            SamplingParams(max_tokens=24, temperature=n % 2 * 0.9, seed=n),
            num_scored_tokens=len(prompt) // 2,
        )
        for n, prompt in enumerate(prompts(count))
    ]


@pytest.mark.parametrize("kv_type", KvType)
def test_tokens_and_logprobs_are_bit_equal_however_the_work_is_cut(
    tiny: Path, kv_type: KvType
) -> None:
    requests = scored(24)
    alone_engine = make_engine(tiny, kv_type=kv_type, threads=1)
    alone = [run(alone_engine, [one])[0] for one in requests]
    for engine in (
        make_engine(tiny, kv_type=kv_type),
        make_engine(tiny, kv_type=kv_type, threads=3, max_step_tokens=7),
        make_engine(tiny, kv_type=kv_type, num_pages=32),
        alone_engine,
    ):
        assert run(engine, requests) == alone
    guessing = make_engine(tiny, kv_type=kv_type, max_draft_tokens=8)
    assert run(guessing, requests) == alone
    assert guessing.state().tally.accepted_tokens > 0
    unscored = [replace(request, num_scored_tokens=0) for request in requests]
    preempting = make_engine(tiny, kv_type=kv_type, num_pages=24)
    assert [token_ids for token_ids, _ in run(preempting, unscored)] == [ids for ids, _ in alone]
    assert preempting.scheduler.num_preemptions > 0


def test_every_instruction_set_gives_the_same_bits(tiny: Path) -> None:
    requests = [
        replace(request, sampling=replace(request.sampling, max_tokens=4)) for request in scored(4)
    ]
    wanted = run(make_engine(tiny, variant="scalar"), requests)
    for variant in supported_variants():
        assert run(make_engine(tiny, variant=variant), requests) == wanted


@pytest.mark.parametrize("tied", [True, False])
def test_scores_agree_with_the_reference_operators(tmp_path: Path, tied: bool) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", seed=5, tied=tied, num_kv_heads=2)
    prompt = prompts(2)[1]
    request = GenerateRequest(prompt, SamplingParams(max_tokens=0), len(prompt) - 1)
    ((_, wanted),) = run(make_torch_engine(path), [request])
    for kv_type in KvType:
        ((_, found),) = run(make_engine(path, kv_type=kv_type), [request])
        difference = np.abs(np.array(found) - np.array(wanted))
        assert difference.max() < 0.15
        assert difference.mean() < 0.03
    ((_, other),) = run(
        make_engine(path), [replace(request, token_ids=(prompt[0] + 1, *prompt[1:]))]
    )
    assert np.abs(np.array(other) - np.array(wanted)).max() > 0.15


def test_more_rows_than_a_block_are_scored(tiny: Path) -> None:
    prompt = tuple(range(100, 240))
    request = GenerateRequest(prompt, SamplingParams(max_tokens=1), len(prompt) - 1)
    ((_, whole),) = run(make_engine(tiny), [request])
    ((_, pieces),) = run(make_engine(tiny, max_step_tokens=5), [request])
    assert whole == pieces
    assert isinstance(whole, tuple)
    assert len(whole) == len(prompt) - 1


def test_greedy_tool_calls_are_the_same_whatever_is_computed_or_forced(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_greedy_tokens(tiny, tmp_path, monkeypatch)


class FailingConstraint(FixedConstraint):
    """Has no mask."""

    def fill(self, token_bitmask: np.ndarray, row: int) -> None:
        raise ValueError("no mask")


def test_mask_that_cannot_be_written_fails_the_step_and_the_next_one_runs(tiny: Path) -> None:
    engine = make_engine(tiny)
    one = GenerateRequest((5, 6, 7), SamplingParams(max_tokens=3))
    (wanted,) = generate(engine, one)
    script = [{8, 9}] * 9
    for constraint in (FailingConstraint(script), FixedConstraint(script)):
        engine.add(one, constraint)
    ends = engine.step()
    assert [end.finish_reason for end in ends.values()] == ["error", "error"]
    assert not engine.has_work
    assert generate(engine, one) == [wanted]


def test_generating_does_not_import_torch(tiny: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from runtime.engine.loading import load_runner
from runtime.config import Config
from runtime.engine.engine import Engine
from runtime.request import GenerateRequest, SamplingParams
from runtime.weights import open_checkpoint
config = Config(kv_cache_mib=1, threads=1, device="cpu")
runner, limits = load_runner(open_checkpoint(Path({str(tiny)!r})), config)
class Decoder:
    def push(self, token_ids): return "x" * len(token_ids)
    def flush(self): return ""
engine = Engine(runner, limits, decoder=Decoder, stop_ids=frozenset())
engine.add(GenerateRequest((5, 6, 7), SamplingParams(max_tokens=4)), None)
tokens = []
while engine.has_work:
    for chunk in engine.step().values():
        tokens += chunk.token_ids
assert len(tokens) == 4, tokens
assert not [name for name in sys.modules if name.partition(".")[0] in ("torch", "triton")]
print("generated")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("generated\n", 0), done.stderr


def test_second_runner_maps_what_the_first_packed(tiny: Path, tmp_path: Path) -> None:
    requests = scored(2)
    wanted = run(make_engine(tiny), requests)
    packed = tmp_path / "packed"
    assert run(make_engine(tiny, packed_folder=packed), requests) == wanted
    (file,) = packed.iterdir()
    before = file.stat().st_ino
    assert run(make_engine(tiny, packed_folder=packed), requests) == wanted
    assert [entry.stat().st_ino for entry in packed.iterdir()] == [before]
