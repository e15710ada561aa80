"""Any number of tools that could be somebody's: verbs times things, spread over servers."""

from __future__ import annotations

import itertools

from tests.helpers.scripted_tools import Behaviour, ScriptedToolset, echo
from tools.mcp_client.names import exposed_name
from tools.spec import ToolAnnotations, ToolSpec

_VERBS = {
    "get": "Returns one {} by its number.",
    "list": "Lists every {} that there is, the newest first.",
    "count": "Says how many of {} there are.",
    "find": "Looks for a {} by a text that is in it.",
    "compare": "Says in what two of {} differ.",
    "archive": "Puts a {} away, where it can be found again.",
}
_THINGS = (
    "invoice customer order shipment contract ticket employee meeting recipe song photo book film"
    " flight hotel train weather city country river mountain garden tree flower bird fish dog cat"
    " horse car engine battery bridge house window door chair table lamp carpet kitchen spoon plate"
    " bottle coffee tea bread butter honey cheese"
)


def many_specs(number: int) -> list[ToolSpec]:
    """That many tools, at most 300, on servers of about a dozen tools each."""
    pairs = itertools.product(_THINGS.split(), _VERBS.items())
    return [
        _make_spec(f"server{at // 12}", thing, verb, told.format(thing))
        for at, (thing, (verb, told)) in enumerate(itertools.islice(pairs, number))
    ]


def many_tools(number: int, behaviour: Behaviour = echo) -> ScriptedToolset:
    """`many_specs`, each of which does the same."""
    return ScriptedToolset([(spec, behaviour) for spec in many_specs(number)])


def _make_spec(server: str, thing: str, verb: str, description: str) -> ToolSpec:
    return ToolSpec(
        exposed_name(server, f"{verb}_{thing}"),
        description,
        {
            "type": "object",
            "properties": {
                "number": {"type": "integer", "minimum": 1, "maximum": 999},
                "language": {"type": "string", "enum": ["en", "de", "fr"]},
                "fields": {"type": "array", "items": {"type": "string", "maxLength": 12}},
            },
            "required": ["number"],
        },
        annotations=ToolAnnotations(read_only=True, open_world=False),
        server=server,
    )
