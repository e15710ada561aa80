"""Tests of the policy file: what it says, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.agent.patterns import Pattern
from runtime.agent.rules import PolicyFile, Rule, ServerRules, load_policy, parse_policy
from tools.errors import ConfigurationError

PATH = Path("/p/policy.toml")
AT_RULE = ": servers.fs.allow[1] must be"
AT_PATH = ": servers.fs.deny[0].arguments.path must be"
WHOLE = """
[servers."my files"]
deny = [{ tool = "*", arguments = { path = ["**/.ssh/**", "**/.gnupg/**"] } }]
ask = ["move_file"]
allow = ["read_*", { tool = "write_file", arguments = { path = "~/notes/**", mode = 3 } }]
default = "ask"

[servers."*"]
taints = false
when_tainted = "deny"
"""


def test_every_key_is_read() -> None:
    of = "of /p/policy.toml"
    place = "servers.my files"
    ssh = {"path": (Pattern("**/.ssh/**"), Pattern("**/.gnupg/**"))}
    notes = {"path": (Pattern("~/notes/**"),), "mode": (Pattern(3),)}
    files = ServerRules(
        place=f"{place} {of}",
        rules={
            "allow": (
                Rule("read_*", f"{place}.allow[0] {of}"),
                Rule("write_file", f"{place}.allow[1] {of}", notes),
            ),
            "ask": (Rule("move_file", f"{place}.ask[0] {of}"),),
            "deny": (Rule("*", f"{place}.deny[0] {of}", ssh),),
        },
        default="ask",
    )
    everywhere = ServerRules(
        place=f"servers.* {of}",
        rules={"allow": (), "ask": (), "deny": ()},
        taints=False,
        when_tainted="deny",
    )
    expected = PolicyFile(PATH, {"my files": files, "*": everywhere})
    assert parse_policy(WHOLE, PATH) == expected
    assert expected.unknown_servers(["my file"]) == ["my files"]


@pytest.mark.parametrize("text", ["", "# nothing", "[servers]", "servers = {}"])
def test_a_file_without_rules_has_none(text: str) -> None:
    assert parse_policy(text, PATH) == PolicyFile(PATH)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "[servers",
            "is no TOML: Expected ']' at the end of a table declaration (at end of document)",
        ),
        ("server = 3", ": no key is named 'server'; did you mean 'servers'?"),
        ("servers = 3", ": servers must be a table, not 3"),
        ("servers.fs = 3", ": servers.fs must be a table, not 3"),
        (
            "servers.fs.alow = []",
            ": servers.fs: no key is named 'alow'; did you mean 'allow'?",
        ),
        ("servers.fs.allow = 'x'", ": servers.fs.allow must be a list of tools, not 'x'"),
        (
            "servers.fs.allow = ['a', 3]",
            f'{AT_RULE} a tool\'s name or {{ tool = "…", arguments = {{ … }} }}, not 3',
        ),
        ("servers.fs.deny = [{}]", ": servers.fs.deny[0].tool must be a tool's name, not nothing"),
        (
            "servers.fs.deny = [{tool = 'a', argument = {}}]",
            ": servers.fs.deny[0]: no key is named 'argument'; did you mean 'arguments'?",
        ),
        (
            "servers.fs.deny = [{tool = 'a', arguments = 'x'}]",
            ": servers.fs.deny[0].arguments must be a table, not 'x'",
        ),
        (
            "servers.fs.deny = [{tool = 'a', arguments = {path = ['/x', []]}}]",
            f"{AT_PATH} a text, number or truth value, or a list of them, not []",
        ),
        (
            "servers.fs.deny = [{tool = 'a', arguments = {path = '../x'}}]",
            f"{AT_PATH} a path that begins with /, ~/ or **/, not '../x'",
        ),
        (
            "servers.fs.deny = [{tool = 'a', arguments = {path = '~me/x'}}]",
            f"{AT_PATH} a path that begins with /, ~/ or **/, not '~me/x'",
        ),
        ("servers.fs.taints = 1", ": servers.fs.taints must be true or false, not 1"),
        ("servers.fs.default = 'no'", ": servers.fs.default must be allow, ask or deny, not 'no'"),
        (
            "servers.fs.when_tainted = true",
            ": servers.fs.when_tainted must be allow, ask or deny, not True",
        ),
    ],
)
def test_errors_name_file_and_place(text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse_policy(text, PATH)
    assert str(raised.value) == f"/p/policy.toml{problem if problem[0] == ':' else ' ' + problem}"


def test_whatever_is_cut_or_flipped_is_an_error_of_ours_or_a_policy() -> None:
    for at in range(len(WHOLE)):
        for text in (WHOLE[:at], WHOLE[:at] + chr(ord(WHOLE[at]) ^ 1) + WHOLE[at + 1 :]):
            try:
                assert parse_policy(text, PATH).path == PATH
            except ConfigurationError as exc:
                assert str(exc).startswith("/p/policy.toml")  # noqa: PT017 - most raise, not all


def test_a_file_that_is_not_there_or_no_text_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    with pytest.raises(ConfigurationError, match="cannot read the policy"):
        load_policy(path)
    path.write_bytes(b"# \xff")
    with pytest.raises(ConfigurationError, match="not UTF-8 at byte 2"):
        load_policy(path)
    path.write_text(WHOLE, encoding="utf-8")
    assert load_policy(path) == parse_policy(WHOLE, path)
