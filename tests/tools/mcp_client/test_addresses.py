"""Tests of which addresses are inside a network, however they are written."""

from __future__ import annotations

import pytest

from tools.mcp_client.addresses import is_inner, is_reachable

INNER = [
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0"),
    *("100.64.0.1", "100.100.100.200", "192.0.0.1", "198.18.0.1", "240.0.0.1", "224.0.0.1"),
    *("::1", "::", "fe80::1", "fe80::1%eth0", "fd00::1", "fd00:ec2::254", "ff02::1", "[::1]"),
    *("::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "64:ff9b::169.254.169.254", "2002:7f00:1::"),
    *("255.255.255.255", "2001:db8::1", "localhost", "a.localhost"),
]
GLOBAL = ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]
NEVER_NAMED = ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "fe80::1%2", "0.0.0.0", "::"]
NEVER_NAMED += ["224.0.0.1", "100.100.100.200", "fd00:ec2::254", "64:ff9b::169.254.169.254"]


@pytest.mark.parametrize("address", INNER)
def test_what_a_network_knows_by_itself_is_inside_it(address: str) -> None:
    assert is_inner(address)


@pytest.mark.parametrize("address", [*GLOBAL, "example.com", "127.0.0.1.example.com"])
def test_what_all_know_is_not_and_no_name_is(address: str) -> None:
    assert not is_inner(address)


@pytest.mark.parametrize("address", [*GLOBAL, "127.0.0.1", "10.0.0.1", "fd00::1"])
def test_a_name_that_the_operator_wrote_may_be_inside(address: str) -> None:
    assert is_reachable(address, host="tools.corp", may_be_inner=True)
    assert is_reachable(address, host="tools.corp", may_be_inner=False) == (address in GLOBAL)


@pytest.mark.parametrize("address", NEVER_NAMED)
def test_some_addresses_are_gone_to_only_where_they_are_written(address: str) -> None:
    assert not is_reachable(address, host="tools.corp", may_be_inner=True)
    assert not is_reachable(address, host=address, may_be_inner=False)
    assert is_reachable(address, host=address, may_be_inner=True)


def test_what_is_no_address_is_gone_to_by_nobody() -> None:
    for may_be_inner in (False, True):
        assert not is_reachable("tools.corp", host="tools.corp", may_be_inner=may_be_inner)
