"""A toolset behind MCP: errors, progress and cancellation cross the wire."""

from __future__ import annotations

import anyio
import mcp_types as types
import pytest
from mcp import Client, MCPError

from mcp_servers.toolset_server import build_server, throttle_progress
from tests.helpers.tool_servers import RecordingToolset
from tools.errors import ToolServerError
from tools.function import FunctionToolset
from tools.spec import JsonObject, MediaContent, ResourceLink, TextContent, ToolResult
from tools.toolset import CallContext

pytestmark = pytest.mark.anyio
MODES = ["legacy", "2026-07-28"]


class RaisingToolset(RecordingToolset):
    """Raises what it is given."""

    def __init__(self, error: Exception) -> None:
        super().__init__(["work"])
        self._error = error

    async def call_tool(self, name: str, arguments: JsonObject, context: CallContext) -> ToolResult:
        raise self._error


@pytest.mark.parametrize("mode", MODES)
async def test_an_unknown_tool_is_a_protocol_error(mode: str) -> None:
    with anyio.fail_after(5):
        async with Client(build_server("s", RecordingToolset(["work"])), mode=mode) as client:
            with pytest.raises(MCPError, match="did you mean 'work'") as caught:
                await client.call_tool("word", {})
    assert caught.value.error.code == types.INVALID_PARAMS


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ToolServerError("server 'x' is gone; try later"), "server 'x' is gone; try later"),
        (KeyError("private"), "work failed inside the server; see its log"),
    ],
)
async def test_whatever_else_goes_wrong_is_a_result_a_model_reads(
    error: Exception, text: str
) -> None:
    with anyio.fail_after(5):
        async with Client(build_server("s", RaisingToolset(error))) as client:
            result = await client.call_tool("work", {})
    assert result.is_error
    assert result.content == [types.TextContent(text=text)]


async def test_every_kind_of_content_is_carried() -> None:
    def look() -> ToolResult:
        return ToolResult(
            content=(
                TextContent("a"),
                MediaContent("image", b"\x01", "image/png"),
                MediaContent("audio", b"\x02", "audio/wav"),
                ResourceLink("file:///a", "a", "text/plain"),
            )
        )

    with anyio.fail_after(5):
        async with Client(build_server("s", FunctionToolset(look))) as client:
            result = await client.call_tool("look", {})
    assert result.content == [
        types.TextContent(text="a"),
        types.ImageContent(data="AQ==", mime_type="image/png"),
        types.AudioContent(data="Ag==", mime_type="audio/wav"),
        types.ResourceLink(uri="file:///a", name="a", mime_type="text/plain"),
    ]


@pytest.mark.parametrize("mode", MODES)
async def test_a_cancelled_call_is_cancelled_where_the_tool_awaits(mode: str) -> None:
    entered, cancelled = anyio.Event(), anyio.Event()

    async def wait() -> None:
        entered.set()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    with anyio.fail_after(5):
        async with (
            Client(build_server("s", FunctionToolset(wait)), mode=mode) as client,
            anyio.create_task_group() as group,
        ):
            group.start_soon(client.call_tool, "wait", {})
            await entered.wait()
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await cancelled.wait()


async def test_progress_is_throttled_but_its_end_always_arrives() -> None:
    reports: list[float] = []

    async def report(done: float, total: float | None, message: str | None) -> None:
        reports.append(done)

    times = iter([0.0, 0.1, 0.21, 0.3, 0.39, 0.4])
    throttled = throttle_progress(report, lambda: next(times))
    for done in range(1, 7):
        await throttled(done, 6, None)
    assert reports == [1, 3, 6]


@pytest.mark.parametrize("mode", MODES)
async def test_progress_crosses_the_wire(mode: str) -> None:
    seen, arrived = [], anyio.Event()

    async def work(context: CallContext) -> None:
        await context.report_progress(1, 1, "half way")

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total, message))
        arrived.set()

    with anyio.fail_after(5):
        async with Client(build_server("s", FunctionToolset(work)), mode=mode) as client:
            await client.call_tool("work", {}, progress_callback=on_progress)
            await arrived.wait()
    assert seen == [(1, 1, "half way")]
