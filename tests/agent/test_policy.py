"""Tests of which tool calls are allowed, asked about and denied."""

from __future__ import annotations

import pytest

from runtime.agent.policy import Decision, Policy, Verdict, denial
from tests.helpers.scripted_tools import make_spec
from tools.mcp_client.config import ServerConfig, ToolPolicy
from tools.mcp_client.names import exposed_name
from tools.spec import ToolSpec


@pytest.mark.parametrize(
    ("tool", "decision"),
    [
        (make_spec("anything_write", destructive=True), "allow"),
        (make_spec("fs__read_file", server="fs"), "allow"),
        (make_spec("fs__read_file", server="fs", read_only=False), "allow"),
        (make_spec("fs__write_file", server="fs"), "ask"),
        (make_spec("fs__write_file", server="fs", read_only=False), "ask"),
        (make_spec("fs__write_file", server="fs", read_only=True), "allow"),
        (make_spec("fs__write_file", server="fs", destructive=False), "allow"),
        (make_spec("fs__deleteAll", server="fs"), "ask"),
        (make_spec("fs__DELETE", server="fs"), "ask"),
        (make_spec("sh__run", server="sh"), "ask"),
        (make_spec("sh__trigger-long-running-operation", server="sh"), "allow"),
        (make_spec("run__look", server="run"), "allow"),
        (make_spec("fs__wipe", server="fs", destructive=True), "ask"),
        (make_spec("fs__wipe", server="fs", destructive=True, read_only=True), "allow"),
    ],
)
def test_tools_without_rules_get_the_default_of_their_kind(
    tool: ToolSpec, decision: Decision
) -> None:
    assert Policy().decide(tool).decision == decision


@pytest.mark.parametrize(
    ("rules", "decision"),
    [
        (ToolPolicy(allow=("wipe",)), "allow"),
        (ToolPolicy(allow=("fs__wipe",)), "allow"),
        (ToolPolicy(allow=("*",)), "allow"),
        (ToolPolicy(allow=("other",)), "ask"),
        (ToolPolicy(allow=("*",), ask=("wipe",)), "ask"),
        (ToolPolicy(allow=("wipe",), ask=("wipe",), deny=("*",)), "deny"),
    ],
)
def test_rules_go_before_the_default_and_the_strictest_wins(
    rules: ToolPolicy, decision: Decision
) -> None:
    tool = make_spec("fs__wipe", server="fs", destructive=True)
    assert Policy({"fs": rules}).decide(tool).decision == decision


def test_rules_of_one_server_do_not_touch_another() -> None:
    policy = Policy({"fs": ToolPolicy(deny=("*",))})
    assert policy.decide(make_spec("db__look", server="db")).decision == "allow"


def test_rules_name_tools_whose_offered_name_was_shortened() -> None:
    server, name = "a server", "x" * 80
    tool = make_spec(exposed_name(server, name), server=server)
    servers = {server: ServerConfig(server, policy=ToolPolicy(deny=(name,)))}
    assert Policy.of_servers(servers).decide(tool).decision == "deny"


def test_denial_names_the_line_that_refuses_or_would_allow() -> None:
    tool = make_spec("fs__wipe", server="fs")
    assert denial(tool, Verdict("deny", "is on the deny list")) == (
        "fs__wipe was not called, because it is on the deny list: "
        'mcpServers["fs"]["x-runtime"].tools.deny.'
    )
    assert denial(tool, Verdict("ask", "is on the ask list")) == (
        "fs__wipe was not called, because it is on the ask list and nobody can be asked; "
        'mcpServers["fs"]["x-runtime"].tools.allow: ["wipe"] would allow it.'
    )


def test_line_that_a_denial_names_allows_the_call() -> None:
    for name in ["wipe", "x" * 80, "a.b"]:
        tool = make_spec(exposed_name("my fs", name), server="my fs", destructive=True)
        reason = denial(tool, Policy().decide(tool))
        rule = reason.partition('allow: ["')[2].partition('"]')[0]
        assert Policy({"my fs": ToolPolicy(allow=(rule,))}).decide(tool).decision == "allow"
