"""Which addresses are inside a network, and may be gone to only where the operator says so.

Source: RFC 6890, which addresses are global; RFC 4291, RFC 3056 and RFC 6052, those of IPv4 inside
of IPv6.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

import httpx2

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
MayBeInner = Callable[[str, int], bool]
"""Whether the operator wrote this host and port, so that it may be inside this network."""

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_METADATA = frozenset(map(ipaddress.ip_address, ("100.100.100.200", "fd00:ec2::254")))
"""Where clouds tell a machine its secrets, besides the link-local 169.254.169.254."""


def place_of(url: httpx2.URL) -> tuple[str, int]:
    """The host and port that a URL is connected at."""
    return url.raw_host.decode(), url.port or (443 if url.scheme == "https" else 80)


def is_inner(host: str) -> bool:
    """Whether a host is this machine or an address that only this network knows; no name is."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _read(host)
    return address is not None and (not address.is_global or address.is_multicast)


def is_address(host: str) -> bool:
    """Whether a host is written as an address, not as a name."""
    return _read(host) is not None


def is_reachable(address: str, *, host: str, may_be_inner: bool) -> bool:
    """Whether a connection may go to an address that a host stands for.

    Those that no honest name has, such as link-local ones, have to be written as they are.
    """
    found = _read(address)
    if found is None or not may_be_inner:
        return found is not None and not is_inner(address)
    if is_address(host):
        return True
    is_odd = found.is_link_local or found.is_multicast or found.is_unspecified
    return not is_odd and found not in _METADATA


def _read(host: str) -> Address | None:
    """Read an address, an IPv4 one also inside of an IPv6 one; None for a name."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address
