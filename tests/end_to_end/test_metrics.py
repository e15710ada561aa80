"""`/metrics` of a `zonda serve` that works: a real engine's numbers, and nothing that was said."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.helpers.http_process import HttpServerProcess
from tests.helpers.web_service import connect

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


def samples(text: str) -> dict[str, float]:
    """Of each name the sum over all labels."""
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0) + sample.value
    return sums


async def test_tokens_and_times_of_a_real_engine_are_there_and_no_prompt(
    tiny_model: Path, environ: dict[str, str]
) -> None:
    prompt = "Once upon a midnight dreary, while I pondered, weak and weary"
    with HttpServerProcess("--model", str(tiny_model), environ=environ) as server:
        with anyio.fail_after(40):
            async with connect(server.url, "2026-07-28") as client:
                usages = []
                for _ in range(2):
                    arguments = {"prompt": prompt, "max_tokens": 8}
                    said = await client.call_tool("generate", arguments)
                    usages.append((said.structured_content or {})["usage"])
        text = server.get("/metrics").text
    found = samples(text)
    for prefix in ("zonda_", "vllm:"):
        counted = {
            "prompt_tokens": found[prefix + "prompt_tokens_total"],
            "completion_tokens": found[prefix + "generation_tokens_total"],
            "cached_tokens": found[prefix + "prefix_cache_hits_total"],
        }
        assert counted == {name: sum(usage[name] for usage in usages) for name in counted}
        assert counted["cached_tokens"] > 0
        assert found[prefix + "time_to_first_token_seconds_count"] == 2
        assert found[prefix + "time_to_first_token_seconds_sum"] > 0
        assert found[prefix + "request_success_total"] == 2
        assert found[prefix + "num_requests_running"] == 0
    assert found["process_resident_memory_bytes"] > 1e7
    assert "midnight" not in text
