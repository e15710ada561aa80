"""HTTP that connects to what was checked: a name is looked up once, and its address is used.

A name that means another address the next time it is looked up gains nothing.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence

import anyio
import httpcore2
import httpx2
from httpcore2 import SOCKET_OPTION, AnyIOBackend, AsyncNetworkBackend, AsyncNetworkStream

from tools.mcp_client.addresses import MayBeInner, is_address, is_reachable

_NEXT_AFTER_S = 1.0
"""Seconds after which the next address of a name is tried."""


class _CheckedBackend(AsyncNetworkBackend):
    """Connects to addresses that may be reached, whatever their names are."""

    def __init__(self, may_be_inner: MayBeInner) -> None:
        self._may_be_inner = may_be_inner
        self._inner = AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the library's
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> AsyncNetworkStream:
        try:
            with anyio.fail_after(timeout):
                addresses = await self._resolve(host, port)
        except TimeoutError as exc:
            raise httpcore2.ConnectTimeout(f"{host} was not found in time") from exc
        except (OSError, UnicodeError) as exc:
            raise httpcore2.ConnectError(f"{host} cannot be found: {exc}") from exc
        for address in addresses[:-1]:
            within_s = _NEXT_AFTER_S if timeout is None else min(timeout, _NEXT_AFTER_S)
            try:
                return await self._inner.connect_tcp(
                    address, port, within_s, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
        return await self._inner.connect_tcp(
            addresses[-1], port, timeout, local_address, socket_options
        )

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    async def _resolve(self, host: str, port: int) -> Sequence[str]:
        """The addresses of a host that may be reached.

        Raises:
            httpcore2.ConnectError: there are none.
        """
        may_be_inner = self._may_be_inner(host, port)
        found = [host.strip("[]")]
        if not is_address(host):
            looked_up = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found = list(dict.fromkeys(str(info[4][0]) for info in looked_up))
        passed = [one for one in found if is_reachable(one, host=host, may_be_inner=may_be_inner)]
        if not passed:
            raise httpcore2.ConnectError(
                f"{host} is {', '.join(found[:3])}, inside this network, where only what the "
                "configuration names may be"
            )
        return passed


class CheckedTransport(httpx2.AsyncHTTPTransport):
    """HTTP to where it may go, without proxies of the environment."""

    def __init__(self, may_be_inner: MayBeInner) -> None:
        super().__init__(trust_env=False)
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=httpx2.create_ssl_context(trust_env=False),
            max_connections=100,
            max_keepalive_connections=20,
            keepalive_expiry=5.0,
            network_backend=_CheckedBackend(may_be_inner),
        )
