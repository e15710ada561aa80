"""What `/metrics` shows to Prometheus; of each engine under vLLM's names, too.

Boards and gateways that read vLLM's metrics find what they look for: `vllm:NAME` is the same
number as `zonda_NAME`.

Source: the names, labels and meanings of vLLM's metrics documentation.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from starlette.requests import Request
from starlette.responses import Response

from mcp_servers.request_tally import RequestTally
from mcp_servers.service_state import ServiceState
from runtime.engine.tally import EngineState
from runtime.telemetry import Histogram

GAUGES: Mapping[str, tuple[str, Callable[[EngineState], float]]] = {
    "num_requests_running": ("Requests in the batch.", lambda one: one.num_running),
    "num_requests_waiting": ("Requests in the queue.", lambda one: one.num_waiting),
    "kv_cache_usage_perc": (
        "Share of the KV pages that requests hold, 0 to 1.",
        lambda one: one.num_used_pages / one.num_pages,
    ),
}
COUNTERS: Mapping[str, tuple[str, Callable[[EngineState], float]]] = {
    "prompt_tokens": ("Tokens of prompts.", lambda one: one.tally.prompt_tokens),
    "generation_tokens": ("Tokens generated.", lambda one: one.tally.generated_tokens),
    "spec_decode_num_draft_tokens": (
        "Tokens guessed and computed.",
        lambda one: one.tally.drafted_tokens,
    ),
    "spec_decode_num_accepted_tokens": (
        "Guessed tokens that came out so.",
        lambda one: one.tally.accepted_tokens,
    ),
    "prefix_cache_queries": (
        "Tokens of prompts that were looked up in the prefix cache.",
        lambda one: one.tally.prompt_tokens,
    ),
    "prefix_cache_hits": (
        "Tokens of prompts that the prefix cache had.",
        lambda one: one.tally.cached_tokens,
    ),
    "num_preemptions": (
        "How often a request gave its pages to another one.",
        lambda one: one.num_preemptions,
    ),
}
HISTOGRAMS: Mapping[str, tuple[str, Callable[[EngineState], Histogram]]] = {
    "time_to_first_token_seconds": (
        "From a request's arrival to its first token.",
        lambda one: one.tally.first_token_s,
    ),
    "inter_token_latency_seconds": (
        "From one step that gave a request tokens to the next.",
        lambda one: one.tally.between_tokens_s,
    ),
    "request_time_per_output_token_seconds": (
        "Mean time of a request's tokens after the first.",
        lambda one: one.tally.per_token_s,
    ),
    "e2e_request_latency_seconds": (
        "From a request's arrival to its end.",
        lambda one: one.tally.request_s,
    ),
    "request_queue_time_seconds": (
        "From a request's arrival to its first step.",
        lambda one: one.tally.queue_s,
    ),
    "request_prefill_time_seconds": (
        "From a request's first step to its first token.",
        lambda one: one.tally.prefill_s,
    ),
    "request_decode_time_seconds": (
        "From a request's first token to its end.",
        lambda one: one.tally.decode_s,
    ),
    "request_inference_time_seconds": (
        "From a request's first step to its end.",
        lambda one: one.tally.inference_s,
    ),
    "iteration_tokens_total": ("Tokens that a step computed.", lambda one: one.tally.step_tokens),
}


def metrics_route(
    tally: RequestTally, state: Callable[[], ServiceState]
) -> Callable[[Request], Awaitable[Response]]:
    """Make the endpoint that a Prometheus server reads; text, or OpenMetrics where asked for."""
    registry = CollectorRegistry()
    registry.register(StateCollector(tally, state))
    ProcessCollector(registry=registry)

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    return metrics


class StateCollector(Collector):
    """Reads the server's numbers whenever they are asked for."""

    def __init__(self, requests: RequestTally, state: Callable[[], ServiceState]) -> None:
        self._requests = requests
        self._state = state

    def collect(self) -> Iterator[Metric]:
        state = self._state()
        yield from _request_families(self._requests)
        yield from _run_families(state)
        yield from _tool_families(state)
        yield from _engine_families("zonda_", state.engines, {})
        yield from _engine_families("vllm:", state.engines, {"engine": "0"})


def _request_families(tally: RequestTally) -> Iterator[Metric]:
    labels = ["route", "method", "status"]
    yield _counter("zonda_http_requests", "Responses over HTTP.", labels, tally.http.items())
    labels = ["method", "tool", "outcome"]
    yield _counter("zonda_mcp_requests", "Requests of MCP clients.", labels, tally.mcp.items())
    seconds = HistogramMetricFamily(
        "zonda_mcp_request_duration_seconds",
        "Until an MCP request was answered.",
        labels=["method"],
    )
    for method, histogram in tally.mcp_s.items():
        _add(seconds, [method], histogram)
    yield seconds


def _run_families(state: ServiceState) -> Iterator[Metric]:
    yield GaugeMetricFamily("zonda_runs_running", "Runs that go on.", state.num_running)
    yield GaugeMetricFamily(
        "zonda_runs_waiting", "Runs that wait for their turn.", state.num_waiting
    )
    ended = [
        ((status,), state.num_ended.get(status, 0)) for status in ("done", "failed", "cancelled")
    ]
    yield _counter("zonda_runs", "Runs that ended, by what became of them.", ["status"], ended)


def _tool_families(state: ServiceState) -> Iterator[Metric]:
    calls = state.tool_calls
    labels = ["server", "outcome"]
    yield _counter("zonda_tool_calls", "Calls that agents made.", labels, calls.num_calls.items())
    seconds = HistogramMetricFamily(
        "zonda_tool_call_duration_seconds", "How long agents' calls took.", labels=["server"]
    )
    for server, histogram in calls.seconds.items():
        _add(seconds, [server], histogram)
    yield seconds


def _engine_families(
    prefix: str, engines: Mapping[str, EngineState], more: Mapping[str, str]
) -> Iterator[Metric]:
    names = ["model_name", *more]
    labelled = [([model, *more.values()], engine) for model, engine in engines.items()]
    for name, (text, value) in GAUGES.items():
        gauge = GaugeMetricFamily(prefix + name, text, labels=names)
        for labels, engine in labelled:
            gauge.add_metric(labels, value(engine))
        yield gauge
    for name, (text, value) in COUNTERS.items():
        values = [(labels, value(engine)) for labels, engine in labelled]
        yield _counter(prefix + name, text, names, values)
    for name, (text, histogram) in HISTOGRAMS.items():
        family = HistogramMetricFamily(prefix + name, text, labels=names)
        for labels, engine in labelled:
            _add(family, labels, histogram(engine))
        yield family
    yield from _ends_and_pages(prefix, names, labelled)


def _ends_and_pages(
    prefix: str, names: list[str], labelled: list[tuple[list[str], EngineState]]
) -> Iterator[Metric]:
    ended = [
        ([*labels, reason], number)
        for labels, engine in labelled
        for reason, number in engine.tally.finished.items()
    ]
    text = "Requests that ended, by why."
    yield _counter(prefix + "request_success", text, [*names, "finished_reason"], ended)
    info = GaugeMetricFamily(
        prefix + "cache_config_info",
        "The KV pages: how many, and tokens of each.",
        labels=[*names, "num_gpu_blocks", "block_size"],
    )
    for labels, engine in labelled:
        info.add_metric([*labels, str(engine.num_pages), str(engine.page_size)], 1)
    yield info


def _counter(
    name: str, text: str, labels: list[str], values: Iterable[tuple[Iterable[str], float]]
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=labels)
    for label_values, value in values:
        family.add_metric(list(label_values), value)
    return family


def _add(family: HistogramMetricFamily, labels: list[str], histogram: Histogram) -> None:
    bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
    counts = list(accumulate(histogram.counts))
    family.add_metric(labels, list(zip(bounds, counts, strict=True)), histogram.sum)
