"""`grammar://support` through an MCP client, both protocol eras; its claims hold."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mcp_types as t
import pytest
from mcp import Client, MCPError

from mcp_servers.model_server.resources import FORMATS, KEYWORDS, LEVELS, OUTPUTS, SUPPORT_URI
from mcp_servers.model_server.tools import list_specs
from runtime.chat.support import ToolSupport
from runtime.errors import ModelFileError
from runtime.grammar.compile import compile_grammar, from_json_schema
from tests.helpers.model_service import (
    ERAS,
    ScriptedModels,
    ServedModel,
    agent_over,
    connect,
    scripted_models,
)
from tests.helpers.scripted_chat_model import ScriptedTurn, play
from tests.helpers.scripted_tools import ScriptedToolset, echo, make_spec
from tests.helpers.tiny_tokenizer import tiny_tokenizer
from tests.helpers.vocabularies import accepts, vocabulary_of
from tools.spec import ToolSpec

HELLO = play(ScriptedTurn("hello"))
GRADES = {
    "files__read": ToolSupport("strict"),
    "files__find": ToolSupport("lenient", ("uniqueItems", "not")),
    "clock__now": ToolSupport("refused", problem="keyword 'pattern' at $.a is not supported"),
}
TOOLS = ScriptedToolset(
    [(make_spec(name, server=name.partition("__")[0]), echo) for name in GRADES]
)


@dataclass
class GradingModel(ServedModel):
    """A scripted model that grades tools as it is told."""

    grades: Mapping[str, ToolSupport] = field(default_factory=dict)

    async def support_of(self, tools: Sequence[ToolSpec]) -> Mapping[str, ToolSupport]:
        return {tool.name: self.grades[tool.name] for tool in tools}


async def read_support(client: Client) -> dict[str, Any]:
    (content,) = (await client.read_resource(SUPPORT_URI)).contents
    assert isinstance(content, t.TextResourceContents)
    assert (content.uri, content.mime_type) == (SUPPORT_URI, "application/json")
    report: dict[str, Any] = json.loads(content.text)
    return report


@pytest.mark.anyio
@pytest.mark.parametrize("era", ERAS)
async def test_resource_is_listed_and_read_without_opening_a_model(era: str) -> None:
    models = scripted_models(HELLO)
    async with connect(models, era=era) as client:
        listed = (await client.list_resources()).resources
        (resource,) = [one for one in listed if one.uri == SUPPORT_URI]
        assert (resource.uri, resource.mime_type) == (SUPPORT_URI, "application/json")
        assert await read_support(client) == {
            "outputs": list(OUTPUTS),
            "json_schema": {"keywords": list(KEYWORDS), "formats": list(FORMATS)},
            "levels": dict(LEVELS),
            "servers": {},
        }
    assert models.num_opened == 0


@pytest.mark.anyio
@pytest.mark.parametrize("era", ERAS)
async def test_tools_of_tool_servers_are_graded(era: str) -> None:
    models = ScriptedModels(GradingModel(HELLO, grades=GRADES))
    async with connect(models, agent_over(TOOLS, "files", "clock"), era=era) as client:
        report = await read_support(client)
    assert "problem" not in report
    assert report["servers"] == {
        "files": [
            {"tool": "files__read", "level": "strict", "dropped": [], "problem": None},
            {
                "tool": "files__find",
                "level": "lenient",
                "dropped": ["uniqueItems", "not"],
                "problem": None,
            },
        ],
        "clock": [
            {
                "tool": "clock__now",
                "level": "refused",
                "dropped": [],
                "problem": "keyword 'pattern' at $.a is not supported",
            }
        ],
    }


@pytest.mark.anyio
async def test_model_that_cannot_be_loaded_is_the_problem_that_is_told() -> None:
    models = scripted_models(HELLO)
    models.broken = ModelFileError("damaged at byte 7")
    async with connect(models, agent_over(TOOLS, "files")) as client:
        report = await read_support(client)
    assert (report["servers"], report["problem"]) == ({}, "damaged at byte 7")


@pytest.mark.anyio
async def test_our_own_failure_is_an_error_without_its_details() -> None:
    models = ScriptedModels(GradingModel(HELLO))  # grades no tool: a KeyError
    async with connect(models, agent_over(TOOLS, "files")) as client:
        with pytest.raises(MCPError, match="failed inside the server; see its log"):
            await client.read_resource(SUPPORT_URI)


@pytest.mark.anyio
@pytest.mark.parametrize("era", ERAS)
async def test_unknown_resource_is_a_protocol_error(era: str) -> None:
    async with connect(scripted_models(HELLO), era=era) as client:
        with pytest.raises(MCPError, match="did you mean 'grammar://support'") as caught:
            await client.read_resource("grammar://suport")
    assert caught.value.error.code == t.INVALID_PARAMS


def test_what_uses_an_output_kind_is_a_parameter_of_that_tool() -> None:
    specs = {spec.name: spec for spec in list_specs(["m"], ["files"])}
    for output in OUTPUTS:
        for use in output["used_by"]:
            tool, _, parameter = use.partition(": ")
            assert parameter in specs[tool].input_schema["properties"]


NULL = {"type": "null"}
A: dict[str, Any] = {"type": "object", "properties": {"a": NULL}, "additionalProperties": False}
MANY = {"type": "object", "additionalProperties": NULL}

# A schema with the keyword, a value of it, and one that the keyword alone excludes.
CLAIMS: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "type": ({"type": ["string", "null"]}, None, 1),
    "enum": ({"enum": [1, "a", None]}, "a", "b"),
    "const": ({"const": {"a": 1}}, {"a": 1}, {"a": 2}),
    "anyOf": ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, 1, None),
    "allOf": ({"allOf": [{"type": "integer", "minimum": 1}, {"maximum": 9}]}, 9, 10),
    "oneOf": ({"oneOf": [{"type": "integer"}, {"type": "string"}]}, "a", None),
    "$ref": ({"$ref": "#/$defs/a", "$defs": {"a": NULL}}, None, 1),
    "$defs": ({"$ref": "#/$defs/a", "$defs": {"a": NULL}}, None, 1),
    "definitions": ({"$ref": "#/definitions/a", "definitions": {"a": NULL}}, None, 1),
    "properties": (A, {"a": None}, {"a": 1}),
    "required": ({**A, "required": ["a"]}, {"a": None}, {}),
    "additionalProperties": (MANY, {"b": None}, {"b": 1}),
    "patternProperties": ({**A, "patternProperties": {"^x": NULL}}, {"x": None}, {"x": 1}),
    "minProperties": ({**MANY, "minProperties": 1}, {"b": None}, {}),
    "maxProperties": ({**MANY, "maxProperties": 1}, {"b": None}, {"b": None, "c": None}),
    "items": ({"type": "array", "items": NULL}, [None], [1]),
    "prefixItems": ({"type": "array", "prefixItems": [NULL]}, [None], [1]),
    "minItems": ({"type": "array", "items": NULL, "minItems": 2}, [None, None], [None]),
    "maxItems": ({"type": "array", "items": NULL, "maxItems": 1}, [None], [None, None]),
    "minLength": ({"type": "string", "minLength": 2}, "ab", "a"),
    "maxLength": ({"type": "string", "maxLength": 2}, "ab", "abc"),
    "pattern": ({"type": "string", "pattern": "^[a-c]+$"}, "abc", "abd"),
    "format": ({"type": "string", "format": "date"}, "2024-01-31", "yesterday"),
    "minimum": ({"type": "integer", "minimum": 3}, 3, 2),
    "maximum": ({"type": "number", "maximum": 3}, 3, 3.5),
    "exclusiveMinimum": ({"type": "number", "exclusiveMinimum": 3}, 3.5, 3),
    "exclusiveMaximum": ({"type": "integer", "exclusiveMaximum": 3}, 2, 3),
    "multipleOf": ({"type": "integer", "multipleOf": 5}, 15, 12),
}
EXAMPLES = {
    "date": "2024-01-31",
    "date-time": "2024-01-31T10:00:00Z",
    "time": "10:00:00Z",
    "duration": "P1D",
    "email": "a@b.org",
    "hostname": "b.org",
    "ipv4": "127.0.0.1",
    "ipv6": "::1",
    "uri": "http://b.org/",
    "uuid": "123e4567-e89b-12d3-a456-426614174000",
}
TOKENIZER = tiny_tokenizer()
VOCABULARY = vocabulary_of(TOKENIZER)


def allows(schema: dict[str, Any], value: Any) -> bool:
    constraint = compile_grammar(from_json_schema(schema), VOCABULARY).constraint()
    return accepts(constraint, TOKENIZER.encode(json.dumps(value, separators=(",", ":"))))


def test_every_keyword_that_is_claimed_is_enforced() -> None:
    assert tuple(CLAIMS) == KEYWORDS
    for keyword, (schema, valid, invalid) in CLAIMS.items():
        assert allows(schema, valid), keyword
        assert not allows(schema, invalid), keyword


def test_every_format_that_is_claimed_is_enforced() -> None:
    assert tuple(EXAMPLES) == FORMATS
    for name, example in EXAMPLES.items():
        schema = {"type": "string", "format": name}
        assert allows(schema, example), name
        assert not allows(schema, "a b"), name
