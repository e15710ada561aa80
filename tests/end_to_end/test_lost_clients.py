"""Clients that leave a real engine, a thousand times: nothing they held stays held."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import pytest

from mcp_servers.model_server.admission import AdmissionLimits
from mcp_servers.model_server.service import ModelService
from runtime.config import Config
from runtime.engine.tally import EngineState
from tests.helpers.model_service import scripted_models
from tests.helpers.scripted_chat_model import ScriptedTurn, play
from tests.helpers.web_service import HEADERS, HubModels, ServedApp, on_port, open_app

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

CHAT = "/v1/chat/completions"
NUM_ABORTS = 1000
NUM_CLIENTS = 16


@dataclass(frozen=True)
class Served:
    """A server on a port, and the real engine behind it."""

    service: ModelService
    client: httpx2.AsyncClient
    model: str

    def status(self) -> EngineState:
        return self.service.state().engines[self.model]

    def body(self, *, stream: bool, max_tokens: int = 4000) -> dict[str, Any]:
        messages = [{"role": "user", "content": "Count to a thousand."}]
        fields = {"stream": stream, "max_tokens": max_tokens, "temperature": 0}
        return {"model": self.model, "messages": messages, **fields}

    async def until_running(self, num_running: int) -> None:
        """Wait until exactly so many run."""
        while self.status().num_running != num_running:  # noqa: ASYNC110 - another thread's
            await anyio.sleep(0.001)

    async def until_idle(self) -> None:
        """Wait until nothing runs and no page is held."""
        while True:
            seen = self.status()
            if (seen.num_running, seen.num_waiting, seen.num_used_pages) == (0, 0, 0):
                return
            await anyio.sleep(0.001)


@asynccontextmanager
async def serve(tiny_model: Path, tmp_path: Path, kv_cache_mib: int = 64) -> AsyncIterator[Served]:
    config = Config(
        model=str(tiny_model),
        cache_dir=tmp_path,
        state_dir=tmp_path,
        context_length=8192,
        kv_cache_mib=kv_cache_mib,
    )
    limits = AdmissionLimits(max_running=64, max_running_each=64)
    models = HubModels(config)
    async with (
        open_app(models, model_name=config.model, limits=limits, within_s=60) as app,
        on_port(app) as url,
        httpx2.AsyncClient(base_url=url.removesuffix("/mcp"), timeout=60) as client,
    ):
        await app.service.prepare()
        yield Served(app.service, client, config.model)


async def abort(served: Served, choices: random.Random) -> None:
    """Ask, and leave at some point: before an answer, in it, or never."""
    stream = choices.random() < 0.5
    body = served.body(stream=stream, max_tokens=choices.choice((1, 20, 4000)))
    with anyio.move_on_after(choices.uniform(0, 0.05)):
        if not stream:
            await served.client.post(CHAT, json=body)
            return
        async with served.client.stream("POST", CHAT, json=body) as response:
            num_lines = choices.randrange(8)
            async for _ in response.aiter_lines():
                if not num_lines:
                    return
                num_lines -= 1


async def test_a_thousand_clients_that_leave_take_no_page_with_them(
    tiny_model: Path, tmp_path: Path
) -> None:
    choices = random.Random(7)
    left = NUM_ABORTS

    async def leave_again_and_again(served: Served) -> None:
        nonlocal left
        while left:
            left -= 1
            await abort(served, choices)

    with anyio.fail_after(55):
        async with serve(tiny_model, tmp_path) as served:
            async with anyio.create_task_group() as group:
                for _ in range(NUM_CLIENTS):
                    group.start_soon(leave_again_and_again, served)
            await served.until_idle()
            after = await served.client.post(CHAT, json=served.body(stream=False, max_tokens=4))
            await served.until_idle()
    assert after.json()["usage"]["completion_tokens"] <= 4


@pytest.mark.parametrize("stream", [False, True])
async def test_others_go_on_when_a_client_leaves(
    tiny_model: Path, tmp_path: Path, stream: bool
) -> None:
    with anyio.fail_after(55):
        async with serve(tiny_model, tmp_path) as served:
            alone = await served.client.post(CHAT, json=served.body(stream=False, max_tokens=600))
            for _ in range(20):
                found: list[httpx2.Response] = []

                async def go_on(found: list[httpx2.Response] = found) -> None:
                    body = served.body(stream=False, max_tokens=600)
                    found.append(await served.client.post(CHAT, json=body))

                async with (
                    anyio.create_task_group() as group,
                    anyio.create_task_group() as leaving,
                ):
                    leaving.start_soon(ask, served, stream)
                    await served.until_running(1)
                    group.start_soon(go_on)
                    await served.until_running(2)
                    leaving.cancel_scope.cancel()
                assert text_of(found[0]) == text_of(alone)
            await served.until_idle()


async def ask(served: Served, stream: bool) -> None:
    body = served.body(stream=stream, max_tokens=8000)
    async with served.client.stream("POST", CHAT, json=body) as response:
        async for _ in response.aiter_lines():
            pass


def text_of(response: httpx2.Response) -> str:
    return str(response.json()["choices"][0]["message"]["content"])


async def test_requests_that_do_not_fit_into_memory_all_finish_as_if_they_were_alone(
    tiny_model: Path, tmp_path: Path
) -> None:
    found: dict[int, str] = {}

    async def ask_for(served: Served, length: int) -> None:
        body = served.body(stream=False, max_tokens=length)
        found[length] = text_of(await served.client.post(CHAT, json=body))

    lengths = range(320, 480, 4)  # twice and a half what the pages hold
    with anyio.fail_after(55):
        async with serve(tiny_model, tmp_path, kv_cache_mib=1) as served:
            for length in lengths:
                await ask_for(served, length)
            alone, found = found, {}
            assert served.status().num_preemptions == 0
            async with anyio.create_task_group() as group:
                for length in lengths:
                    group.start_soon(ask_for, served, length)
            assert served.status().num_preemptions > 0
            await served.until_idle()
    assert found == alone


async def test_of_ten_thousand_requests_none_is_lost_and_probes_are_answered() -> None:
    """Each is taken, or told when to come back; those taken are answered once, when it is time."""
    limits = AdmissionLimits()
    models = scripted_models(play(ScriptedTurn("x", hangs=True)))
    body = {"model": "scripted", "messages": [{"role": "user", "content": "hello"}]}
    content = json.dumps(body).encode()
    statuses: Counter[int] = Counter()

    async def ask(app: ServedApp) -> None:
        response = await app.request("POST", CHAT, HEADERS, content)
        statuses[response.status_code] += 1
        assert int(response.headers["retry-after"]) >= 1

    async with (
        open_app(models, limits=limits, readiness=lambda: "ready", within_s=55) as app,
        anyio.create_task_group() as group,
    ):
        for _ in range(10_000):
            group.start_soon(ask, app)
        num_taken = limits.max_running_each + limits.max_waiting_each
        while statuses.total() < 10_000 - num_taken:
            await anyio.lowlevel.checkpoint()
        health = await app.request("GET", "/health", HEADERS)
        ready = await app.request("GET", "/ready", HEADERS)
        assert models.model.num_open == limits.max_running_each
        app.service.end_turns()
    assert (health.status_code, ready.status_code) == (200, 200)
    assert statuses.total() == 10_000
    assert set(statuses) == {429, 503}
