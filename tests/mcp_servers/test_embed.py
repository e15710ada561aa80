"""`embed` through an MCP client, both protocol eras: vectors inline, or as a resource."""

from __future__ import annotations

import base64

import mcp_types as t
import numpy as np
import pytest
from mcp import MCPError

from mcp_servers.model_server.embed import MAX_KEPT_BYTES, VectorStore
from mcp_servers.model_server.tools import list_specs
from runtime.errors import UnknownRunError
from tests.helpers.model_service import ERAS, connect, scripted_models
from tests.helpers.scripted_chat_model import ScriptedTurn, play
from tests.helpers.web_service import connect as connect_to
from tests.helpers.web_service import on_port, open_app

HELLO = play(ScriptedTurn("hello"))


@pytest.mark.anyio
@pytest.mark.parametrize("era", ERAS)
async def test_few_vectors_are_in_the_result(era: str) -> None:
    async with connect(scripted_models(HELLO), era=era) as client:
        result = await client.call_tool("embed", {"texts": ["abc", "a"]})
    content = result.structured_content or {}
    assert content["usage"].pop("seconds") >= 0
    assert content == {
        "model": "scripted",
        "dimensions": 4,
        "vectors": [[0.948683, 0.316228, 0, 0], [0.707107, 0.707107, 0, 0]],
        "usage": {"prompt_tokens": 4},
    }
    assert result.content == [t.TextContent(text="2 vectors of 4 numbers")]


@pytest.mark.anyio
@pytest.mark.parametrize("era", ERAS)
async def test_many_vectors_are_a_resource_of_their_principal(
    era: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_servers.model_server.embed.MAX_INLINE_NUMBERS", 7)
    async with (
        open_app(scripted_models(HELLO), ["key-of-one-12345678", "key-of-two-12345678"]) as app,
        on_port(app) as url,
        connect_to(url, era, "key-of-one-12345678") as one,
        connect_to(url, era, "key-of-two-12345678") as two,
    ):
        result = await one.call_tool("embed", {"texts": ["abc", "a"]})
        content = result.structured_content or {}
        (blob,) = (await one.read_resource(content["uri"])).contents
        with pytest.raises(MCPError, match="no vectors have this id"):
            await two.read_resource(content["uri"])
    assert "vectors" not in content
    link = result.content[1]
    assert isinstance(link, t.ResourceLink)
    assert (str(link.uri), link.mime_type) == (content["uri"], "application/octet-stream")
    assert isinstance(blob, t.BlobResourceContents)
    vectors = np.frombuffer(base64.b64decode(blob.blob), "<f4").reshape(2, 4)
    assert vectors[0] == pytest.approx([0.948683, 0.316228, 0, 0], abs=1e-6)


@pytest.mark.anyio
@pytest.mark.parametrize("texts", [[], [""], ["a"] * 257, [3]])
async def test_what_is_no_list_of_texts_is_refused(texts: list[object]) -> None:
    async with connect(scripted_models(HELLO)) as client:
        result = await client.call_tool("embed", {"texts": texts})
    assert result.is_error


def test_embed_is_offered_only_where_a_model_gives_vectors() -> None:
    assert "embed" not in [spec.name for spec in list_specs(["a", "b"], [], None, [])]
    specs = {spec.name: spec for spec in list_specs(["a", "b"], [], None, ["b"])}
    assert specs["embed"].input_schema["properties"]["model"]["enum"] == ["b"]
    assert specs["embed"].input_schema["properties"]["model"]["default"] == "b"


def test_the_oldest_vectors_go_first() -> None:
    store = VectorStore()
    third = bytes(MAX_KEPT_BYTES // 3)
    first, *others = [store.keep("me", third) for _ in range(4)]
    with pytest.raises(UnknownRunError, match="no vectors have this id"):
        store.read(first, "me")
    assert [store.read(one, "me") for one in others] == 3 * [third]
