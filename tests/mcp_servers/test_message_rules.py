"""Tests of the rules for messages that no transport adds to; the others are HTTP's tests."""

from __future__ import annotations

import json

import pytest

from mcp_servers.message_rules import find_id

CALL = {"method": "tools/call", "params": {"id": 9, "text": "x" * 5000}}
IDS = [
    # (message, the id that is found)
    ({"jsonrpc": "2.0", "id": 5, **CALL}, 5),
    ({"id": "five", "jsonrpc": "2.0", **CALL}, "five"),
    ({"method": "tools/call", "id": -1, "jsonrpc": "2.0", "params": CALL["params"]}, -1),
    ({**CALL, "jsonrpc": "2.0", "id": 5}, 5),
    ({**CALL, "id": "five", "jsonrpc": "2.0"}, "five"),
    ({**CALL, "jsonrpc": "2.0"}, None),
    ({"params": {"id": 9}, "method": "x" * 5000, "jsonrpc": "2.0"}, None),
    ({"jsonrpc": "2.0", "method": "m", "params": "x" * 5000 + ',"id":5'}, None),
    ({"jsonrpc": "2.0", "id": None, **CALL}, None),
    ({"jsonrpc": "2.0", "id": 1.5, **CALL}, None),
]


@pytest.mark.parametrize(("message", "expected"), IDS)
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_id_of_a_message_too_long_is_found_first_or_last(
    message: object, expected: object, separators: tuple[str, str]
) -> None:
    line = json.dumps(message, separators=separators).encode()
    assert find_id(line[:1000], line[-1000:]) == expected
