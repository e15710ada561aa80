"""JSON with comments: what editors accept is read, and an edit touches one member only."""

from __future__ import annotations

import pytest

from tools.errors import ConfigurationError
from tools.mcp_client.jsonc import parse_jsonc, remove_member, set_member


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1, // one\n}', {"a": 1}),
        ("/* a\n b */ [1, 2, /* last */ ]", [1, 2]),
        (
            '{"url": "http://x/*", "b": "a,]", "c": "\\"//"}',
            {"url": "http://x/*", "b": "a,]", "c": '"//'},
        ),
        ("\ufeff{}", {}),
    ],
)
def test_comments_trailing_commas_and_a_byte_order_mark_are_read(text: str, value: object) -> None:
    assert parse_jsonc(text) == value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": // why\n ,}', "line 2, column 2: not JSON: Expecting value"),
        ("[,]", "line 1, column 2: not JSON: Expecting value"),
        ("[1,,]", "line 1, column 4: not JSON: Expecting value"),
        ("{} /* open", "line 1, column 4: not JSON: Extra data"),
        ("", "line 1, column 1: not JSON: Expecting value"),
        ("[" * 100_000, "not usable: nested too deeply"),
    ],
)
def test_anything_else_is_refused_with_its_place(text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_jsonc(text)
    assert str(caught.value) == problem


BEFORE = """{
\t// what I use
\t"servers": {
\t\t"time": {"command": "t"}, // mine
\t\t/* last */ "git": {"command": "g"},
\t},
\t"inputs": []
}
"""
AFTER = """{
\t// what I use
\t"servers": {
\t\t"time": {"command": "t"}, // mine
\t\t/* last */ "git": {"command": "g"},
\t\t"zonda": {
\t\t\t"command": "z"
\t\t},
\t},
\t"inputs": []
}
"""


def test_a_member_is_added_replaced_and_removed_and_the_rest_stays() -> None:
    assert set_member(BEFORE, "servers", "zonda", {"command": "z"}) == AFTER
    assert set_member(AFTER, "servers", "zonda", {"command": "z"}) == AFTER
    changed = set_member(AFTER, "servers", "zonda", {"command": "y"})
    assert changed == AFTER.replace('"z"', '"y"')
    assert remove_member(AFTER, "servers", "zonda") == BEFORE
    assert remove_member(BEFORE, "servers", "zonda") == BEFORE


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", '{\n  "s": {\n    "z": 1\n  }\n}\n'),
        ("{}", '{\n  "s": {\n    "z": 1\n  }\n}'),
        ("{\r\n}\r\n", '{\r\n  "s": {\r\n    "z": 1\r\n  }\r\n}\r\n'),
        ('{"a": 1}', '{"a": 1,\n  "s": {\n    "z": 1\n  }}'),
        ('{"s": {}}', '{"s": {\n    "z": 1\n  }}'),
        ('{"s": {"a": 1 // one\n}}', '{"s": {"a": 1,\n    "z": 1 // one\n}}'),
    ],
)
def test_a_member_is_added_where_its_object_is_empty_or_missing(before: str, after: str) -> None:
    assert set_member(before, "s", "z", 1) == after
    assert parse_jsonc(after)["s"]["z"] == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"s": {"z": 1}}', '{"s": {}}'),
        ('{"s": {"z": 1, "a": 2}}', '{"s": { "a": 2}}'),
        ('{"s": {"a": 2, /* c */ "z": 1}}', '{"s": {"a": 2 /* c */}}'),
        ('{"s": {"a": 2, "z": 1,}}', '{"s": {"a": 2,}}'),
    ],
)
def test_a_member_leaves_with_one_comma(before: str, after: str) -> None:
    assert remove_member(before, "s", "z") == after
    assert "z" not in parse_jsonc(after)["s"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "expected an object at the top"),
        ('{\n"s": []}', "line 2: expected an object, to hold 'z'"),
        ("{", "line 1, column 2: not JSON: Expecting property name enclosed in double quotes"),
    ],
)
def test_what_cannot_be_edited_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        set_member(text, "s", "z", 1)
    assert str(caught.value) == problem
    with pytest.raises(ConfigurationError) as caught:
        remove_member(text, "s", "z")
    assert str(caught.value) == problem
