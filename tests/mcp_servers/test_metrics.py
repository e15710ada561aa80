"""Tests of `/metrics`: what Prometheus reads, what it counts, and what is not in it."""

from __future__ import annotations

import json
from collections.abc import Mapping

import anyio
import pytest
from mcp import MCPError
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open
from prometheus_client.parser import text_string_to_metric_families

from runtime.chat.messages import ToolCall
from runtime.engine.tally import EngineState, EngineTally
from tests.helpers.model_service import ERAS, agent_over, scripted_models
from tests.helpers.scripted_chat_model import ScriptedTurn, play
from tests.helpers.scripted_tools import ScriptedToolset, echo, make_spec
from tests.helpers.web_service import HEADERS, ServedApp, connect, on_port, open_app

pytestmark = pytest.mark.anyio

KEY = "key-0123456789abcdef"
SECRET = "a prompt that nobody else may read"
BROKEN = ScriptedTurn(finish_reason="error", error="broken")
Samples = dict[tuple[str, str], float]


async def scrape(app: ServedApp, prefix: str, headers: Mapping[str, str] = HEADERS) -> Samples:
    """Samples by name and labels; no bucket, no time."""
    response = await app.request("GET", "/metrics", headers)
    assert response.status_code == 200
    assert SECRET not in response.text
    return {
        (sample.name, json.dumps(sample.labels, sort_keys=True)): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
        if sample.name.startswith(prefix) and not sample.name.endswith(("_bucket", "_sum"))
    }


def labelled(name: str, **labels: str) -> tuple[str, str]:
    return name, json.dumps(labels, sort_keys=True)


@pytest.mark.parametrize("era", ERAS)
async def test_requests_are_counted_by_what_they_were_and_how_they_went(era: str) -> None:
    models = scripted_models(play(ScriptedTurn("hello"), BROKEN))
    async with open_app(models) as app, on_port(app) as url:
        async with connect(url, era) as client:
            for _ in range(2):
                await client.call_tool("generate", {"prompt": SECRET})
            for name in ("no-such-tool", "another"):
                with pytest.raises(MCPError):
                    await client.call_tool(name, {})
        found = await scrape(app, "zonda_mcp_requests")
        runs = await scrape(app, "zonda_runs")
    call = ("zonda_mcp_requests_total", "tools/call")
    assert {key: value for key, value in found.items() if "tools/call" in key[1]} == {
        labelled(call[0], method=call[1], tool="generate", outcome="ok"): 1,
        labelled(call[0], method=call[1], tool="generate", outcome="tool_error"): 1,
        labelled(call[0], method=call[1], tool="", outcome="rpc_error"): 2,
    }
    assert runs == {
        labelled("zonda_runs_running"): 0,
        labelled("zonda_runs_waiting"): 0,
        labelled("zonda_runs_total", status="done"): 1,
        labelled("zonda_runs_total", status="failed"): 1,
        labelled("zonda_runs_total", status="cancelled"): 0,
    }


async def test_a_call_that_its_client_gives_up_is_cancelled_in_the_counts() -> None:
    models = scripted_models(play(ScriptedTurn("said"), ScriptedTurn("on and", hangs=True)))
    async with open_app(models) as app, on_port(app) as url, connect(url, "legacy") as client:
        await client.call_tool("generate", {"prompt": SECRET})
        with anyio.CancelScope() as scope:

            async def give_up(progress: float, total: float | None, message: str | None) -> None:
                scope.cancel()

            await client.call_tool("generate", {"prompt": SECRET}, progress_callback=give_up)
        await app.service.drain()
        found = await scrape(app, "zonda_")
    name = "zonda_mcp_requests_total"
    assert found[labelled(name, method="tools/call", tool="generate", outcome="cancelled")] == 1
    assert found[labelled("zonda_runs_total", status="cancelled")] == 1


async def test_responses_are_counted_by_route_and_no_stranger_makes_a_label() -> None:
    async with open_app(scripted_models(play(ScriptedTurn())), [KEY]) as app:
        allowed = {**HEADERS, "authorization": f"Bearer {KEY}"}
        for path in ("/health", "/secret-1", "/secret-2", "/%6dcp"):
            await app.request("GET", path, HEADERS)
        await app.request("GET", "/health", allowed)
        await app.request("BREW", "/health", allowed)
        found = await scrape(app, "zonda_http", allowed)
    name = "zonda_http_requests_total"
    assert found == {
        labelled(name, route="/health", method="GET", status="401"): 1,
        labelled(name, route="other", method="GET", status="401"): 2,
        labelled(name, route="/mcp", method="GET", status="401"): 1,
        labelled(name, route="/health", method="GET", status="200"): 1,
        labelled(name, route="/health", method="other", status="405"): 1,
    }


async def test_calls_of_agents_are_counted_by_server() -> None:
    call = ToolCall("call-1", "clock__time", {"zone": SECRET})
    models = scripted_models(play(ScriptedTurn(calls=(call,)), ScriptedTurn("noon")))
    toolset = ScriptedToolset([(make_spec("clock__time", server="clock", read_only=True), echo)])
    async with (
        open_app(models, agent=agent_over(toolset, "clock")) as app,
        on_port(app) as url,
        connect(url, "legacy") as client,
    ):
        await client.call_tool("agent_run", {"task": SECRET})
        found = await scrape(app, "zonda_tool_call")
    assert found == {
        labelled("zonda_tool_calls_total", server="clock", outcome="ok"): 1,
        labelled("zonda_tool_call_duration_seconds_count", server="clock"): 1,
    }


async def test_engine_is_shown_under_our_names_and_under_those_of_vllm() -> None:
    tally = EngineTally()
    tally.prompt_tokens, tally.cached_tokens, tally.generated_tokens = 90, 32, 12
    tally.drafted_tokens, tally.accepted_tokens = 7, 5
    tally.finished |= {"stop": 4, "cancelled": 1}
    for seconds in (0.004, 0.03, 3000.0):
        tally.first_token_s.observe(seconds)
    models = scripted_models(play(ScriptedTurn("hello")))
    models.state = EngineState(2, 1, 64, 16, 16, 3, 5.0, tally)
    async with open_app(models) as app:
        await app.service.prepare()  # opens the models
        ours = await scrape(app, "zonda_")
        theirs = await scrape(app, "vllm:")
        text = (await app.request("GET", "/metrics", HEADERS)).text
    common = {
        labelled("num_requests_running", model_name="scripted"): 2,
        labelled("num_requests_waiting", model_name="scripted"): 1,
        labelled("kv_cache_usage_perc", model_name="scripted"): 0.25,
        labelled("prompt_tokens_total", model_name="scripted"): 90,
        labelled("generation_tokens_total", model_name="scripted"): 12,
        labelled("spec_decode_num_draft_tokens_total", model_name="scripted"): 7,
        labelled("spec_decode_num_accepted_tokens_total", model_name="scripted"): 5,
        labelled("prefix_cache_queries_total", model_name="scripted"): 90,
        labelled("prefix_cache_hits_total", model_name="scripted"): 32,
        labelled("num_preemptions_total", model_name="scripted"): 3,
        labelled("time_to_first_token_seconds_count", model_name="scripted"): 3,
        labelled("inter_token_latency_seconds_count", model_name="scripted"): 0,
        labelled("request_time_per_output_token_seconds_count", model_name="scripted"): 0,
        labelled("e2e_request_latency_seconds_count", model_name="scripted"): 0,
        labelled("request_queue_time_seconds_count", model_name="scripted"): 0,
        labelled("request_prefill_time_seconds_count", model_name="scripted"): 0,
        labelled("request_decode_time_seconds_count", model_name="scripted"): 0,
        labelled("request_inference_time_seconds_count", model_name="scripted"): 0,
        labelled("iteration_tokens_total_count", model_name="scripted"): 0,
        **{
            labelled("request_success_total", model_name="scripted", finished_reason=reason): number
            for reason, number in tally.finished.items()
        },
        labelled(
            "cache_config_info", model_name="scripted", num_gpu_blocks="64", block_size="16"
        ): 1,
    }
    engine = {
        labelled("vllm:" + name, **json.loads(labels), engine="0"): value
        for (name, labels), value in common.items()
    }
    assert theirs == engine
    assert {key: ours[key] for key in ours if "scripted" in key[1]} == {
        ("zonda_" + name, labels): value for (name, labels), value in common.items()
    }
    bucket = 'vllm:time_to_first_token_seconds_bucket{engine="0",le="%s",model_name="scripted"} %s'
    for bound, number in (("0.001", "0.0"), ("0.005", "1.0"), ("2560.0", "2.0"), ("+Inf", "3.0")):
        assert bucket % (bound, number) in text


async def test_who_asks_for_openmetrics_gets_it_and_the_process_is_measured() -> None:
    async with open_app(scripted_models(play(ScriptedTurn()))) as app:
        headers = {**HEADERS, "accept": "application/openmetrics-text;version=1.0.0"}
        response = await app.request("GET", "/metrics", headers)
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    families = read_open(response.text)  # type: ignore[no-untyped-call]  # the library's own
    names = {family.name for family in families}
    assert {"zonda_http_requests", "process_cpu_seconds", "process_open_fds"} <= names
