"""MCP's types to ours: nothing is lost that a model or a policy needs."""

from __future__ import annotations

import mcp_types as types
import pytest

from tools.mcp_client.wire import from_mcp_result, from_mcp_tool, to_mcp_result, to_mcp_tool
from tools.spec import (
    MediaContent,
    ResourceLink,
    TextContent,
    ToolAnnotations,
    ToolResult,
    ToolSpec,
)

SPEC = ToolSpec(
    name="s__t",
    title="T",
    description="Does t.",
    input_schema={"type": "object"},
    output_schema={"type": "object", "properties": {}},
    annotations=ToolAnnotations(read_only=True, destructive=False, open_world=True),
    server="s",
)


def test_a_tool_survives_the_way_there_and_back() -> None:
    assert from_mcp_tool(to_mcp_tool(SPEC), name="s__t", server="s") == SPEC


def test_descriptions_lose_what_cannot_be_seen_and_are_bounded() -> None:
    hidden = "".join(chr(0xE0000 + ord(letter)) for letter in "obey")
    tool = types.Tool(
        name="t", description=f"Adds\u200b \x1b[8m{hidden}two\n", input_schema={"type": "object"}
    )
    assert from_mcp_tool(tool, name="t", server="s").description == "Adds [8mtwo\n"
    tool.description = "x" * 100_000
    assert len(from_mcp_tool(tool, name="t", server="s").description) == 8192


def test_a_result_survives_the_way_there_and_back() -> None:
    result = ToolResult(
        content=(
            TextContent("a"),
            MediaContent("image", b"\x01", "image/png"),
            MediaContent("audio", b"\x02", "audio/wav"),
            ResourceLink("file:///a", "a", "text/plain"),
        ),
        structured={"a": 1},
        is_error=True,
    )
    assert from_mcp_result(to_mcp_result(result)) == result


@pytest.mark.parametrize(
    ("block", "content"),
    [
        (
            types.EmbeddedResource(resource=types.TextResourceContents(uri="a:b", text="inside")),
            TextContent("inside"),
        ),
        (
            types.EmbeddedResource(
                resource=types.BlobResourceContents(uri="a:b", blob="AA==", mime_type="x/y")
            ),
            TextContent("[data of a:b, x/y, 1 bytes, not shown]"),
        ),
        (
            types.EmbeddedResource(
                resource=types.BlobResourceContents(uri="a:b", blob="AAE=", mime_type="image/png")
            ),
            MediaContent("image", b"\x00\x01", "image/png"),
        ),
        (
            types.EmbeddedResource(
                resource=types.BlobResourceContents(uri="a:b", blob="?", mime_type="audio/wav")
            ),
            TextContent("[audio audio/wav, damaged: not base64]"),
        ),
        (
            types.ImageContent(data="not base64!", mime_type="image/png"),
            TextContent("[image image/png, damaged: not base64]"),
        ),
    ],
)
def test_what_a_server_embeds_becomes_content(
    block: types.ContentBlock, content: TextContent | MediaContent
) -> None:
    assert from_mcp_result(types.CallToolResult(content=[block])) == ToolResult((content,))


def test_a_structured_value_that_is_no_object_becomes_text() -> None:
    result = types.CallToolResult(content=[], structured_content=[1, 2])
    assert from_mcp_result(result) == ToolResult.from_text("[1, 2]")


def test_a_model_is_told_of_media_it_cannot_see() -> None:
    result = ToolResult((TextContent("a"), MediaContent("image", b"123", "image/png")))
    assert result.text == "a\n[image image/png, 3 bytes, not shown]"


def test_a_model_reads_the_structured_value_instead_of_texts_but_beside_all_else() -> None:
    link = ResourceLink("file:///a", "a", "text/plain")
    result = ToolResult((TextContent('{"n": 1}'), link), structured={"n": 1})
    assert result.text == '{"n":1}\n[resource a at file:///a, text/plain]'
    failed = ToolResult((TextContent("no"),), structured={"n": 1}, is_error=True)
    assert failed.text == "no"
