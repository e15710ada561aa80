"""Tests of which tool calls are allowed, asked about and denied."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.agent.policy import Policy, denial
from runtime.agent.rules import Decision, parse_policy
from tests.helpers.scripted_tools import make_spec
from tools.mcp_client.config import ServerConfig, ToolPolicy
from tools.mcp_client.names import exposed_name
from tools.mcp_client.resource_tools import resource_tools
from tools.spec import JsonObject, ToolSpec

PATH = Path("/p/policy.toml")


def with_file(text: str) -> Policy:
    return Policy(file=parse_policy(text, PATH))


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


@pytest.mark.parametrize(
    ("policy", "decisions"),
    [
        (Policy(), ["allow", "allow"]),
        (Policy({"db": ToolPolicy(deny=("read_resource",))}), ["allow", "deny"]),
        (Policy({"db": ToolPolicy(deny=("*",))}), ["deny", "deny"]),
        (Policy({"other": ToolPolicy(deny=("*",))}), ["allow", "allow"]),
        (with_file('[servers.db]\nask = ["*_resource"]'), ["allow", "ask"]),
    ],
)
def test_rules_of_a_server_hold_for_our_tools_that_read_its_resources(
    policy: Policy, decisions: list[Decision]
) -> None:
    tools = resource_tools("db")
    assert [policy.decide(tool).decision for tool in tools] == decisions
    assert [policy.taints(tool) for tool in tools] == [True, True]


def test_denial_names_the_line_that_refuses_or_would_allow() -> None:
    tool = make_spec("fs__wipe", server="fs", destructive=True)
    tools = 'mcpServers["fs"]["x-runtime"].tools'
    assert [
        denial(tool, policy.decide(tool))
        for policy in (
            Policy({"fs": ToolPolicy(deny=("wipe",))}),
            Policy({"fs": ToolPolicy(ask=("wipe",))}),
            Policy(),
            with_file('servers.fs.deny = ["wipe"]'),
            with_file(""),
            with_file('servers.fs.default = "deny"'),
        )
    ] == [
        (
            "fs__wipe was not called, because it is on the deny list"
            f" ({tools}.deny); taking it from there would allow it."
        ),
        (
            "fs__wipe was not called, because it is on the ask list"
            f" ({tools}.ask) and nobody can be asked;"
            " moving it to the allow list beside it would allow it."
        ),
        (
            "fs__wipe was not called, because it is marked destructive and nobody can be asked;"
            f' {tools}.allow: ["wipe"] would allow it.'
        ),
        (
            "fs__wipe was not called, because it is on the deny list"
            " (servers.fs.deny[0] of /p/policy.toml); taking it from there would allow it."
        ),
        (
            "fs__wipe was not called, because it is marked destructive and nobody can be asked;"
            ' allow = ["wipe"] under [servers."fs"] in /p/policy.toml would allow it.'
        ),
        (
            "fs__wipe was not called, because it has no rule (default of servers.fs of"
            ' /p/policy.toml); allow = ["wipe"] under [servers."fs"] in /p/policy.toml'
            " would allow it."
        ),
    ]


def test_line_that_a_denial_names_allows_the_call() -> None:
    for name in ["wipe", "x" * 80, "a.b"]:
        tool = make_spec(exposed_name("my fs", name), server="my fs", destructive=True)
        reason = denial(tool, Policy().decide(tool))
        rule = reason.partition('allow: ["')[2].partition('"]')[0]
        assert Policy({"my fs": ToolPolicy(allow=(rule,))}).decide(tool).decision == "allow"


@pytest.mark.parametrize(
    "arguments",
    [
        {"path": "/etc/passwd"},
        {"path": 'a "quoted" \\ name'},
        {"path": ["/a", "/b"]},
        {"path": ["/a", None]},
        {"path": "../a"},
        {"path": None},
        {"path": {"a": 1}},
        {"path": "x" * 500},
        {"path": True, "other": 1},
        {},
    ],
)
def test_line_of_a_file_that_a_denial_names_allows_the_call(arguments: JsonObject) -> None:
    tool = make_spec("my_fs__put", server="my fs")
    text = '[servers."my fs"]\nallow = [{ tool = "put", arguments = { path = "/notes/**" } }]'
    verdict = with_file(text).decide(tool, arguments)
    assert verdict.decision == "ask"
    assert verdict.reason == (
        "is allowed with other arguments only (servers.my fs.allow[0] of /p/policy.toml)"
    )
    line, _, section = verdict.remedy.removesuffix(" in /p/policy.toml").partition(" under ")
    assert with_file(f"{section}\n{line}").decide(tool, arguments).decision == "allow"


NOTES = """
[servers.fs]
deny = [{ tool = "*", arguments = { path = "**/.ssh/**" } }]
ask = [{ tool = "put", arguments = { path = "/notes/shared/**" } }]
allow = ["get", { tool = "put", arguments = { path = "/notes/**" } }]
"""


@pytest.mark.parametrize(
    ("name", "path", "decision"),
    [
        ("put", "/notes/a", "allow"),
        ("put", "/notes/shared/a", "ask"),
        ("put", "/notes/shared/../a", "allow"),
        ("put", "/notes/../etc/a", "ask"),
        ("put", "/notes/.ssh/a", "deny"),
        ("put", ["/notes/a", "/notes/.ssh/a"], "deny"),
        ("get", "/etc/a", "allow"),
        ("get", "/home/.SSH/a", "deny"),
        ("look", "/etc/a", "allow"),
    ],
)
def test_arguments_decide(name: str, path: object, decision: Decision) -> None:
    tool = make_spec(f"fs__{name}", server="fs")
    assert with_file(NOTES).decide(tool, {"path": path}).decision == decision
    other = make_spec(f"db__{name}", server="db")
    assert with_file(NOTES).decide(other, {"path": path}).decision == "allow"


def test_tool_is_offered_unless_it_is_denied_whatever_the_arguments() -> None:
    put, get = make_spec("fs__put", server="fs"), make_spec("fs__get", server="fs")
    assert with_file(NOTES).decide(put).decision == "ask"
    strict = with_file(NOTES + 'default = "deny"')
    assert [strict.decide(tool).decision for tool in (put, get)] == ["ask", "allow"]
    assert strict.decide(put, {"path": "/etc/a"}).decision == "deny"
    assert strict.decide(make_spec("fs__look", server="fs")).decision == "deny"


@pytest.mark.parametrize(
    ("listed", "in_file", "decision"),
    [
        (ToolPolicy(allow=("wipe",)), 'ask = ["*"]', "ask"),
        (ToolPolicy(deny=("w*",)), 'allow = ["wipe"]', "deny"),
        (ToolPolicy(), 'allow = ["fs__w?pe"]', "allow"),
        (ToolPolicy(), 'default = "deny"', "deny"),
        (ToolPolicy(allow=("wipe",)), 'default = "deny"', "allow"),
    ],
)
def test_file_and_list_of_servers_hold_together(
    listed: ToolPolicy, in_file: str, decision: Decision
) -> None:
    file = parse_policy(f"[servers.fs]\n{in_file}", PATH)
    tool = make_spec("fs__wipe", server="fs", destructive=True)
    assert Policy({"fs": listed}, file).decide(tool).decision == decision


def test_rules_of_all_servers_come_after_a_servers_own_and_spare_functions() -> None:
    policy = with_file('servers."*".default = "deny"\nservers.fs.default = "allow"')
    decisions = [
        policy.decide(tool).decision
        for tool in (
            make_spec("fs__wipe", server="fs", destructive=True),
            make_spec("db__look", server="db"),
            make_spec("own"),
        )
    ]
    assert decisions == ["allow", "deny", "allow"]


def test_rules_of_a_server_that_is_not_there_are_told(caplog: pytest.LogCaptureFixture) -> None:
    file = parse_policy('servers.files.deny = ["*"]\nservers."*".taints = true', PATH)
    Policy.of_servers({"file": ServerConfig("file")}, file)
    assert [record.getMessage() for record in caplog.records] == [
        "/p/policy.toml: servers.files is no configured server; did you mean 'file'?"
    ]


@pytest.mark.parametrize(
    ("tool", "taints", "sends"),
    [
        (make_spec("a__get", server="a", read_only=True, open_world=True), True, False),
        (make_spec("a__put", server="a", read_only=False, open_world=True), True, True),
        (make_spec("a__send_mail", server="a", read_only=False, open_world=False), False, False),
        (make_spec("a__send", server="a", read_only=True, open_world=None), False, False),
        (make_spec("a__fetch", server="a"), True, False),
        (make_spec("a__webSearch", server="a"), True, False),
        (make_spec("a__send_message", server="a"), False, True),
        (make_spec("a__httpRequest", server="a"), True, True),
        (make_spec("web__look", server="web"), False, False),
        (make_spec("fetch"), False, False),
        (make_spec("fetch", read_only=False, open_world=True), True, True),
    ],
)
def test_hints_and_else_names_say_what_brings_text_and_what_sends(
    tool: ToolSpec, taints: bool, sends: bool
) -> None:
    policy = Policy()
    assert policy.taints(tool) == taints
    assert policy.decide(tool, {}, "x").decision == ("ask" if sends else "allow")


def test_strangers_text_makes_what_sends_ask_as_each_server_is_set() -> None:
    tool = make_spec("chat__post", server="chat")
    verdicts = [
        with_file(text).decide(tool, {}, "web__fetch")
        for text in (
            "",
            'servers.chat.allow = ["post"]',
            'servers.chat.when_tainted = "allow"',
            'servers."*".when_tainted = "deny"',
            'servers."*".when_tainted = "deny"\nservers.chat.when_tainted = "allow"',
            'servers.chat.deny = ["post"]',
        )
    ]
    assert [verdict.decision for verdict in verdicts] == [
        *("ask", "ask", "allow", "deny", "allow", "deny"),
    ]
    assert denial(tool, verdicts[0]) == (
        "chat__post was not called, because it can send data out after a result of web__fetch"
        " that strangers may have written and nobody can be asked;"
        ' when_tainted = "allow" under [servers."chat"] in /p/policy.toml would allow it.'
    )
    without_file = Policy().decide(tool, {}, "web__fetch")
    assert without_file.remedy == (
        'when_tainted = "allow" under [servers."chat"] in a policy file (--policy)'
    )


def test_which_servers_results_are_trusted_can_be_set() -> None:
    fetch, look = make_spec("a__fetch", server="a"), make_spec("b__look", server="b")
    policy = with_file('servers."*".taints = true\nservers.a.taints = false')
    assert [policy.taints(tool) for tool in (fetch, look)] == [False, True]
