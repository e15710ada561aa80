"""Offered names: plain where they can be, legal, short and unique always."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.mcp_client.names import exposed_name, server_prefix

WORDS = st.text(alphabet="ab_-. é", min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("server", "tool", "name"),
    [
        ("time", "get_current_time", "time__get_current_time"),
        ("fs-1", "a__b", "fs-1__a__b"),
        ("my server", "read", "my_server__read_62b412"),
        ("x", "y.z", "x__y_z_0d7089"),
        ("x", "y" * 70, "x__" + "y" * 54 + "_9d8781"),
    ],
)
def test_names_are_kept_where_they_can_be(server: str, tool: str, name: str) -> None:
    assert exposed_name(server, tool) == name


@given(st.lists(st.tuples(WORDS, WORDS), unique=True, max_size=8))
def test_names_are_legal_and_no_two_tools_share_one(tools: list[tuple[str, str]]) -> None:
    names = [exposed_name(server, tool) for server, tool in tools]
    assert len(set(names)) == len(names)
    for name, (server, _) in zip(names, tools, strict=True):
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name)
        assert name.startswith(server_prefix(server))


def test_one_server_cannot_pose_as_another() -> None:
    assert exposed_name("a", "b__c") != exposed_name("a__b", "c")
    assert exposed_name("a_", "b") != exposed_name("a", "_b")
