"""The resources of the model server as data: `grammar://support`. Knows nothing of MCP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from runtime.chat.support import ToolSupport
from tools.spec import JsonObject, ToolSpec

SUPPORT_URI = "grammar://support"

OUTPUTS: Sequence[JsonObject] = (
    {"kind": "json_schema", "used_by": ["extract: schema", "agent_run: schema"]},
    {
        "kind": "regex",
        "syntax": "Rust regex; matched as a whole; no look-around, no back-references",
        "used_by": ["generate: regex"],
    },
    {
        "kind": "lark",
        "syntax": "Lark as llguidance reads it; the first rule is start",
        "used_by": ["generate: grammar"],
    },
    {
        "kind": "gbnf",
        "syntax": "GBNF as llama.cpp reads it; the first rule is root",
        "used_by": ["generate: grammar"],
    },
    {"kind": "options", "syntax": "2 to 64 texts", "used_by": ["choose: options"]},
)

# What the grammar enforces as it stands; `oneOf` where its alternatives exclude each other.
KEYWORDS = (
    *("type", "enum", "const", "anyOf", "allOf", "oneOf", "$ref", "$defs", "definitions"),
    *("properties", "required", "additionalProperties", "patternProperties"),
    *("minProperties", "maxProperties"),
    *("items", "prefixItems", "minItems", "maxItems"),
    *("minLength", "maxLength", "pattern", "format"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
)

FORMATS = (
    *("date", "date-time", "time", "duration", "email", "hostname"),
    *("ipv4", "ipv6", "uri", "uuid"),
)

LEVELS: Mapping[str, str] = {
    "strict": "the grammar enforces all of the schema",
    "coerced": "the grammar enforces a schema made easier, such as anyOf for oneOf",
    "lenient": "the grammar leaves keywords out; they are checked after decoding",
    "refused": "calls cannot be decoded; the tool is not offered to the model",
}


def describe_support(
    tools: Sequence[ToolSpec], support: Mapping[str, ToolSupport], problem: str | None
) -> JsonObject:
    """Return what `grammar://support` says, given the tools of the tool servers.

    `problem` says why the tools could not be graded.
    """
    servers: dict[str, list[JsonObject]] = {}
    for tool in tools:
        if tool.server is not None and tool.name in support:
            graded = {"tool": tool.name, **asdict(support[tool.name])}
            servers.setdefault(tool.server, []).append(graded)
    report: JsonObject = {
        "outputs": list(OUTPUTS),
        "json_schema": {"keywords": list(KEYWORDS), "formats": list(FORMATS)},
        "levels": dict(LEVELS),
        "servers": servers,
    }
    return report if problem is None else {**report, "problem": problem}
