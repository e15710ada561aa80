"""How each engine is run once, and what it says as records of `zonda bench`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2

import mcp_servers
from mcp_servers.cli.bench_serve import RATE, SUFFIX_TOKENS
from mcp_servers.cli.records import Measurement, Place, Record, make_record
from runtime.kernels.cpu.limits import measure_read_bandwidth

ROOT = Path(mcp_servers.__file__).parent.parent
NUM_THREADS = len(os.sched_getaffinity(0))

PROMPT_TOKENS, NEW_TOKENS = 16, 128
"""Of decode: the context is short."""

PREFILL_TOKENS = 512
PREFIX_TOKENS = 2_000

START_S = 600.0
"""vLLM compiles for minutes."""


@dataclass(frozen=True, slots=True)
class Load:
    """Requests that are sent at the same time."""

    concurrency: tuple[int, ...]
    new_tokens: int
    prompt_tokens: int = 128


class Zonda:
    """Ours, in process; its client also drives servers."""

    name = "Zonda"

    def run(self, model: Path, area: str, *options: str) -> list[Record]:
        """One repeat of `zonda bench AREA`."""
        return _bench(self.name, model, area, "--model", str(model), *options)

    def single(self, model: Path) -> list[Record]:
        decode = _options(prompt_tokens=PROMPT_TOKENS, new_tokens=NEW_TOKENS)
        prefill = _options(prompt_tokens=PREFILL_TOKENS)
        return [*self.run(model, "decode", *decode), *self.run(model, "prefill", *prefill)]

    def serve(self, model: Path, load: Load) -> list[Record]:
        return self.run(model, "serve", *_load_options(load))

    def prefix(self, model: Path) -> list[Record]:
        return self.run(model, "prefix", *_options(prompt_tokens=PREFIX_TOKENS))


class LlamaCpp:
    """`llama-bench` and `llama-server`, from the folder that the build put them in."""

    def __init__(self, folder: Path, name: str = "llama.cpp") -> None:
        self._folder = folder
        self.name = name

    def single(self, model: Path) -> list[Record]:
        options = ["-t", str(NUM_THREADS), "-r", "2", "-o", "json"]
        decode = ["-p", "0", "-n", str(NEW_TOKENS), "-d", str(PROMPT_TOKENS)]
        prefill = ["-p", str(PREFILL_TOKENS), "-n", "0"]
        program = [str(self._folder / "llama-bench"), "-m", str(model)]
        decoded, prefilled = (
            json.loads(_output([*program, *options, *work]))[0]["avg_ts"]
            for work in (decode, prefill)
        )
        return _single_records(self.name, model, decoded, prefilled)

    def serve(self, model: Path, load: Load) -> list[Record]:
        most = max(load.concurrency)
        context = most * (load.prompt_tokens + load.new_tokens)
        options = ["-np", str(most), "-c", str(2 * context), "--no-kv-unified"]
        with self._server(model, options) as url:
            return _bench(self.name, model, "serve", "--url", url, *_load_options(load))

    def prefix(self, model: Path) -> list[Record]:
        with self._server(model, ["-np", "1", "-c", "4096"]) as url:
            options = _options(prompt_tokens=PREFIX_TOKENS)
            return _bench(self.name, model, "prefix", "--url", url, *options)

    @contextmanager
    def _server(self, model: Path, options: Sequence[str]) -> Iterator[str]:
        threads = ["-t", str(NUM_THREADS), "-tb", str(NUM_THREADS)]
        program = [str(self._folder / "llama-server"), "-m", str(model), "--no-webui", "--port"]
        port = 8101
        with server([*program, str(port), *threads, *options], port, {}) as running:
            yield running.url


class OpenVino:
    """OpenVINO GenAI in process, by the Python of its own environment."""

    name = "OpenVINO GenAI"

    def __init__(self, python: Path) -> None:
        self._python = python

    def single(self, model: Path) -> list[Record]:
        works = (f"decode:{PROMPT_TOKENS}:{NEW_TOKENS}", f"prefill:{PREFILL_TOKENS}")
        decode, prefill = self._run(model, works)
        rates = decode["tokens_per_s"], prefill["tokens_per_s"]
        return _single_records(self.name, model, *rates)

    def serve(self, model: Path, load: Load) -> list[Record]:
        sizes = f"{load.prompt_tokens}:{load.new_tokens}"
        works = [f"serve:{concurrency}:{sizes}" for concurrency in load.concurrency]
        records = []
        for concurrency, found in zip(load.concurrency, self._run(model, works), strict=True):
            params = {
                "concurrency": concurrency,
                "prompt_tokens": load.prompt_tokens,
                "new_tokens": load.new_tokens,
            }
            rate = (found["tokens_per_s"], "tokens/s")
            first = (found["first_token_ms"], "ms")
            records += [
                _record(self.name, model, "serve", RATE, rate, params),
                _record(self.name, model, "serve", "first token, p50", first, params),
            ]
        return records

    def prefix(self, model: Path) -> list[Record]:
        (found,) = self._run(model, [f"prefix:{PREFIX_TOKENS}"])
        params = {"prefix_tokens": PREFIX_TOKENS, "suffix_tokens": SUFFIX_TOKENS}
        return [
            _record(
                self.name,
                model,
                "prefix",
                f"first token, prefix seen the {which} time",
                (found[f"{which}_ms"], "ms"),
                params,
            )
            for which in ("first", "second")
        ]

    def _run(self, model: Path, works: Sequence[str]) -> list[dict[str, Any]]:
        script = str(Path(__file__).with_name("openvino_load.py"))
        lines = _output([str(self._python), script, str(model.resolve()), *works]).splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server's address and its group of processes."""

    url: str
    group: int

    def freeze(self) -> None:
        """Give it no time: what waits must not disturb what is measured."""
        os.killpg(self.group, signal.SIGSTOP)

    @contextmanager
    def thawed(self) -> Iterator[None]:
        os.killpg(self.group, signal.SIGCONT)
        try:
            yield
        finally:
            self.freeze()


@dataclass(frozen=True, slots=True)
class Vllm:
    """vLLM's server, which computes in bfloat16; frozen while others run."""

    running: RunningServer
    name: str = "vLLM, bf16"

    def serve(self, model: Path, load: Load) -> list[Record]:
        with self.running.thawed():
            options = _load_options(load)
            return _bench(self.name, model, "serve", "--url", self.running.url, *options)


@contextmanager
def start_vllm(program: Path, model: Path, port: int) -> Iterator[Vllm]:
    """Start the server on a folder of unpacked weights; it compiles for minutes."""
    cores = f"0-{NUM_THREADS - 1}"
    environ = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": cores}
    limits = ["--max-model-len", "4096", "--max-num-seqs", "32", "--port", str(port)]
    command = [str(program), "serve", str(model), "--dtype", "bfloat16", *limits]
    with server(command, port, environ) as running:
        running.freeze()
        yield Vllm(running)


@contextmanager
def server(command: Sequence[str], port: int, environ: dict[str, str]) -> Iterator[RunningServer]:
    """Start a server, wait until it answers, and end it and its children at last."""
    process = subprocess.Popen(
        command,
        env={**os.environ, **environ},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    running = RunningServer(f"http://127.0.0.1:{port}", process.pid)
    try:
        _await_answer(process, running.url)
        yield running
    finally:
        os.killpg(process.pid, signal.SIGCONT)
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _await_answer(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        try:
            if httpx2.get(f"{url}/health", timeout=5, trust_env=False).status_code == 200:
                return
        except httpx2.HTTPError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"{process.args!r} does not answer at {url}")


def _bench(name: str, model: Path, area: str, *options: str) -> list[Record]:
    """One repeat of `zonda bench`, as records of this model and server."""
    command = [sys.executable, "-P", "-m", "mcp_servers", "bench", area, "--json"]
    lines = _output([*command, "--repeats", "1", "--label", name, *options]).splitlines()
    records = [Record(**json.loads(line)) for line in lines]
    return [
        replace(record, model=model.stem, params={**record.params, "server": name})
        for record in records
    ]


def _record(
    name: str,
    model: Path,
    bench: str,
    measure: str,
    found: tuple[float, str],
    params: Mapping[str, int],
) -> Record:
    """A peer's own figure and its unit, with the bandwidth there is right after it."""
    value, unit = found
    bandwidth = max(measure_read_bandwidth(NUM_THREADS, repeats=3)) / 1e9
    described = {"measure": measure, "server": name, **params}
    taken = Measurement(bench, described, [value], unit, bandwidth_gb_s=bandwidth)
    return make_record(taken, Place(model.stem, f"cpu, {NUM_THREADS} threads"))


def _single_records(name: str, model: Path, decoded: float, prefilled: float) -> list[Record]:
    decode = {"prompt_tokens": PROMPT_TOKENS, "new_tokens": NEW_TOKENS}
    prefill = {"prompt_tokens": PREFILL_TOKENS}
    return [
        _record(name, model, "decode", "decode", (decoded, "tokens/s"), decode),
        _record(name, model, "prefill", "prefill", (prefilled, "tokens/s"), prefill),
    ]


def _options(**options: int) -> list[str]:
    return [
        part
        for name, value in options.items()
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]


def _load_options(load: Load) -> list[str]:
    sizes = _options(prompt_tokens=load.prompt_tokens, new_tokens=load.new_tokens)
    return ["--concurrency", ",".join(map(str, load.concurrency)), *sizes]


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command!r} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout
