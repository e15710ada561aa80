"""Tests of the spans of requests, with a tracer that keeps what it is told."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    NonRecordingSpan,
    NoOpTracer,
    Span,
    Status,
    StatusCode,
    get_current_span,
)
from opentelemetry.util.types import AttributeValue

from mcp_servers.model_server.otlp import open_traces
from mcp_servers.request_spans import RequestSpans
from tests.helpers.model_service import scripted_models
from tests.helpers.scripted_chat_model import ScriptedTurn, play
from tests.helpers.web_service import HEADERS, ServedApp, open_app
from tools.errors import ConfigurationError

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
SECRET = {"model": "scripted", "messages": [{"role": "user", "content": "secret"}]}


class KeptSpan(NonRecordingSpan):
    """Remembers its name, attributes, status and parent."""

    def __init__(self, parent: int) -> None:
        super().__init__(INVALID_SPAN_CONTEXT)
        self.parent = parent
        self.name = ""
        self.attributes: dict[str, AttributeValue] = {}
        self.is_error = False

    def is_recording(self) -> bool:
        return True

    def update_name(self, name: str) -> None:
        self.name = name

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        self.attributes |= attributes

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        assert isinstance(status, Status)
        self.is_error = status.status_code is StatusCode.ERROR


class KeepingTracer(NoOpTracer):
    def __init__(self) -> None:
        self.spans: list[KeptSpan] = []

    @contextmanager
    def start_as_current_span(  # type: ignore[override]  # also a decorator there
        self, name: str, context: Context | None = None, **options: Any
    ) -> Iterator[Span]:
        parent = get_current_span(context).get_span_context().trace_id
        self.spans.append(KeptSpan(parent))
        yield self.spans[-1]


async def trace(method: str, path: str, body: object, **headers: str) -> list[KeptSpan]:
    tracer = KeepingTracer()
    async with open_app(scripted_models(play(ScriptedTurn("secret too")))) as app:
        traced = RequestSpans(app.web.asgi, lambda scope: scope["path"], tracer)
        web = type(app.web)(traced, app.web.end_streams)
        served = ServedApp(web, app.service)
        given = {**HEADERS, **headers}
        await served.request(method, path, given, json.dumps(body).encode())
    return tracer.spans


@pytest.mark.parametrize("stream", [False, True])
async def test_a_chat_has_a_span_as_the_conventions_name_it_without_its_content(
    stream: bool,
) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    (span,) = await trace("POST", CHAT, {**SECRET, "stream": stream}, traceparent=parent)
    assert span.name == "chat scripted"
    assert span.attributes == {
        "http.request.method": "POST",
        "http.route": CHAT,
        "http.response.status_code": 200,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "zonda",
        "gen_ai.request.model": "scripted",
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 5,
    }
    assert (span.parent, span.is_error) == (0x0AF7651916CD43DD8448EB211C80319C, False)


async def test_a_refusal_has_its_status_and_no_model_that_only_its_caller_knows() -> None:
    (span,) = await trace("POST", CHAT, {**SECRET, "model": "secret"}, traceparent="odd")
    assert span.name == f"POST {CHAT}"
    assert span.attributes["error.type"] == "404"
    assert "gen_ai.request.model" not in span.attributes
    assert "secret" not in str(span.attributes)
    assert (span.parent, span.is_error) == (0, False)


async def test_probes_and_mcp_have_no_span_of_ours() -> None:
    assert await trace("GET", "/health", {}) == []
    assert await trace("POST", "/mcp", {}) == []


def test_traces_that_cannot_be_sent_are_told_at_the_start() -> None:
    with (
        pytest.raises(ConfigurationError, match=r"must be an http\(s\) URL, not 'collector:4318'"),
        open_traces("collector:4318"),
    ):
        raise AssertionError("it is never open")
