"""Zonda and its peers back to back, several rounds, medians: see peers.md for how to get them.

`python -m tests.bench MODELS --out FOLDER --llama BIN --openvino PYTHON [--vllm PROGRAM]`.
MODELS holds S.gguf, S-Q4_0.gguf, M.gguf and Y.gguf (what is missing is left out), and for vLLM
the folders S-hf and M-hf. Writes every record, the table and the plots into FOLDER.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from mcp_servers.cli.bench_plot import draw_plot
from mcp_servers.cli.bench_serve import RATE
from mcp_servers.cli.records import Record, percentile
from tests.bench.runs import LlamaCpp, Load, OpenVino, Vllm, Zonda, start_vllm

FULL = Load((1, 4, 16, 32), 128)
HALF = Load((32,), 64)
"""As the end of FULL, with half the answer."""

SERVED = {"S": "SmolLM2-135M, Q4_1", "M": "Gemma 3 270M, Q4_K_M"}
"""Models that many ask at once, and what plots call them; Y would take too long."""

SHOWN = (
    "decode",
    "prefill",
    RATE,
    "first token, p50",
    "between tokens, p99",
    "first token, prefix seen the first time",
    "first token, prefix seen the second time",
)

Run = tuple[str, Callable[[], list[Record]]]
Engine = Zonda | LlamaCpp | OpenVino | Vllm


def main() -> None:
    """Run all rounds; a run that fails is reported and left out."""
    arguments = _parse()
    records: list[Record] = []
    arguments.out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack, (arguments.out / "records.jsonl").open("w") as file:
        runs = list(_plan(arguments, stack))
        for round_ in range(arguments.rounds):
            for name, run in runs:
                try:
                    found = run()
                except (RuntimeError, LookupError, ValueError) as exc:
                    _say(f"{name} failed: {exc}")
                    continue
                file.writelines(f"{record.to_json()}\n" for record in found)
                file.flush()
                records += found
                _say(f"round {round_ + 1}, {name}: {_brief(found)}")
    table = "\n".join(_table(records))
    (arguments.out / "table.md").write_text(f"{table}\n", encoding="utf-8")
    _say(table)
    _draw(records, arguments.out)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("models", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--llama", type=Path, help="folder of llama-bench and llama-server")
    parser.add_argument("--openvino", type=Path, help="Python that has openvino-genai")
    parser.add_argument("--vllm", type=Path, help="the vllm command")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=["S", "M", "Y"], help="models")
    parser.add_argument("--work", nargs="+", default=["single", "serve", "prefix"])
    return parser.parse_args()


def _plan(arguments: argparse.Namespace, stack: ExitStack) -> Iterator[Run]:
    """One round: for each model and work, ours and then each peer's, back to back."""
    for name in arguments.only:
        engines = list(_engines(name, arguments, stack))
        for work in arguments.work:
            if work != "single" and name not in SERVED:
                continue
            for engine, model in engines:
                label = f"{name}, {work}, {engine.name}"
                if work == "serve":
                    loads = [FULL, HALF] if isinstance(engine, Zonda | OpenVino) else [FULL]
                    for load in loads:
                        yield f"{label}, {load.new_tokens} new", partial(engine.serve, model, load)
                elif not isinstance(engine, Vllm):
                    measure = engine.single if work == "single" else engine.prefix
                    yield label, partial(measure, model)


def _engines(
    name: str, arguments: argparse.Namespace, stack: ExitStack
) -> Iterator[tuple[Engine, Path]]:
    """Who runs a model, and which file of it."""
    models: Path = arguments.models
    model, requantised, unpacked = (
        models / f"{name}{end}" for end in (".gguf", "-Q4_0.gguf", "-hf")
    )
    if not model.exists():
        return
    yield Zonda(), model
    if arguments.llama is not None:
        yield LlamaCpp(arguments.llama), model
        if requantised.exists():
            yield LlamaCpp(arguments.llama, "llama.cpp, Q4_0"), requantised
    if arguments.openvino is not None and name != "M":  # Gemma 3 is not loaded
        yield OpenVino(arguments.openvino), model
    if arguments.vllm is not None and name in SERVED and "serve" in arguments.work:
        port = 8111 + list(SERVED).index(name)
        yield stack.enter_context(start_vllm(arguments.vllm, unpacked, port)), unpacked


def _brief(records: Sequence[Record]) -> str:
    shown = [record for record in records if record.params["measure"] in SHOWN]
    return "; ".join(
        f"{record.params['measure']} {record.value:.4g} {record.unit}"
        + (f" at {record.bandwidth_gb_s:.0f} GB/s" if record.bandwidth_gb_s else "")
        for record in shown
    )


def _table(records: Sequence[Record]) -> Iterator[str]:
    """Medians over the rounds in Markdown: a row per work, a column per engine."""
    cells: defaultdict[str, defaultdict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record.params["measure"] in SHOWN:
            cells[_describe(record)][record.params["server"]].append(record)
    servers = list(dict.fromkeys(record.params["server"] for record in records))
    yield "| | " + " | ".join([servers[0], "of the limit", *servers[1:], "GB/s"]) + " |"
    yield "|---|" + "---:|" * (len(servers) + 2)
    for work, row in cells.items():
        ours, *theirs = [_median([one.value for one in row[server]]) for server in servers]
        shares = [one.fraction for one in row[servers[0]] if one.fraction is not None]
        share = f"{100 * percentile(shares, 0.5):.0f} %" if shares else ""
        bandwidths = [
            one.bandwidth_gb_s for found in row.values() for one in found if one.bandwidth_gb_s
        ]
        spread = f"{min(bandwidths):.0f}–{max(bandwidths):.0f}" if bandwidths else ""  # noqa: RUF001
        yield f"| {work} | " + " | ".join([ours, share, *theirs, spread]) + " |"


def _describe(record: Record) -> str:
    params = {name: value for name, value in record.params.items() if name not in {"server"}}
    measure = params.pop("measure")
    sizes = ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in params.items())
    return f"{record.model[0]}: {measure} ({sizes}), {record.unit}"


def _median(values: Sequence[float]) -> str:
    return f"{percentile(values, 0.5):.4g}" if values else ""


def _draw(records: Sequence[Record], folder: Path) -> None:
    """One plot per model that was served."""
    for name, title in SERVED.items():
        rates = [
            replace(record, model=title)
            for record in records
            if record.params["measure"] == RATE
            and record.model[0] == name
            and record.params["new_tokens"] == FULL.new_tokens
        ]
        if rates:
            (folder / f"serve-{name}.svg").write_text(draw_plot(rates), encoding="utf-8")


if __name__ == "__main__":
    main()
