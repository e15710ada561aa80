"""`zonda serve` sends spans to a collector that is there, and serves when none is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import anyio
import httpx2
import pytest

from tests.helpers.http_process import HttpServerProcess
from tests.helpers.web_service import connect

sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="needs the extra zonda[traces]")
wire = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

CHAT = "/v1/chat/completions"


@contextmanager
def open_collector() -> Iterator[tuple[str, list[bytes]]]:
    """Take OTLP/HTTP on a local port; yields the address and what came."""
    received: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def spans_of(messages: list[bytes]) -> dict[str, dict[str, str]]:
    """The attributes of each span, by its name."""
    found = {}
    for message in messages:
        request = wire.ExportTraceServiceRequest.FromString(message)
        for span in request.resource_spans[0].scope_spans:
            for one in span.spans:
                found[one.name] = {
                    item.key: item.value.string_value or str(item.value.int_value)
                    for item in one.attributes
                }
    return found


async def ask(url: str, model: Path) -> None:
    body = {"model": str(model), "messages": [{"role": "user", "content": "secret"}]}
    async with httpx2.AsyncClient(base_url=url.removesuffix("/mcp"), timeout=50) as client:
        answer = await client.post(CHAT, json={**body, "max_tokens": 4, "temperature": 0})
    assert answer.status_code == 200


async def test_spans_of_chats_and_tool_calls_arrive_without_what_was_said(
    tiny_model: Path, environ: dict[str, str]
) -> None:
    packages = Path(sdk.__file__).parents[3]
    environ["PYTHONPATH"] += f":{packages}"
    with open_collector() as (endpoint, received):
        environ["ZONDA_OTLP_ENDPOINT"] = endpoint
        with HttpServerProcess("--model", str(tiny_model), environ=environ) as server:
            with anyio.fail_after(50):
                await ask(server.url, tiny_model)
                async with connect(server.url, "2026-07-28") as client:
                    await client.call_tool("generate", {"prompt": "secret", "max_tokens": 2})
            server.stop()
            assert server.wait() == 0
    spans = spans_of(received)
    chat = spans[f"chat {tiny_model}"]
    assert chat["gen_ai.operation.name"] == "chat"
    assert chat["http.response.status_code"] == "200"
    assert int(chat["gen_ai.usage.output_tokens"]) <= 4
    call = spans["tools/call generate"]
    assert call["mcp.method.name"] == "tools/call"
    assert call["gen_ai.tool.name"] == "generate"
    assert b"secret" not in b"".join(received)


async def test_a_collector_that_is_away_stops_neither_answers_nor_the_end(
    tiny_model: Path, environ: dict[str, str]
) -> None:
    packages = Path(sdk.__file__).parents[3]
    environ["PYTHONPATH"] += f":{packages}"
    environ["ZONDA_OTLP_ENDPOINT"] = "http://127.0.0.1:9"
    with HttpServerProcess("--model", str(tiny_model), environ=environ) as server:
        with anyio.fail_after(50):
            await ask(server.url, tiny_model)
        server.stop()
        status = await anyio.to_thread.run_sync(server.wait)
    assert status == 0
