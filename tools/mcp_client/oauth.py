"""Bears tokens to a tool server: kept ones, renewed ones, and new ones that need no person.

A refusal that only a person can mend becomes an error that names `zonda mcp login`; nothing here
opens a browser. What authorization servers are asked goes through a connection of its own, without
the entry's headers.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator

import anyio
import httpx2

from tools.errors import ConfigurationError
from tools.mcp_client.config import ServerConfig
from tools.mcp_client.oauth_flow import (
    FLOW_ERRORS,
    FORBIDDEN,
    auth_client,
    read_challenge,
    refresh,
)
from tools.mcp_client.token_store import Challenge, Grant, TokenStore

logger = logging.getLogger(__name__)

REFUSED = -32090
"""The code of the JSON-RPC error that stands for a refusal which only an operator can mend."""


class ServerAuth(httpx2.Auth):
    """Puts a token on each request to one server; used for one connection.

    Attributes:
        problem: why the server refuses us, as the rest of a sentence about it, or None.
        challenge: what it wanted when it refused us last.
    """

    def __init__(self, config: ServerConfig, store: TokenStore | None) -> None:
        self.problem: str | None = None
        self.challenge: Challenge | None = None
        self._outage: str | None = None
        self._config = config
        self._store = store
        self._lock = anyio.Lock()
        self._kept = None if store is None else usable_grant(config, store)

    async def async_auth_flow(
        self, request: httpx2.Request
    ) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        """Send a request with the token that we have, and once more with a better one."""
        self._sign(request, await self._token())
        response = yield request
        challenge = read_challenge(response)
        if challenge is not None and (better := await self._renewed(request, response)):
            await response.aread()
            self._sign(request, better)
            response = yield request
            challenge = read_challenge(response)
        if challenge is None:
            self.problem = None if response.is_success else self.problem
        else:
            self._tell(request, response, challenge)

    def _sign(self, request: httpx2.Request, token: str | None) -> None:
        if token is not None:
            request.headers["authorization"] = f"Bearer {token}"

    async def _token(self) -> str | None:
        """Return the token that we have, renewed where its time is over."""
        async with self._lock:
            if self._kept is not None and not self._kept.is_usable:
                await self._refresh(self._kept)
            return _token_of(self._kept)

    async def _renewed(self, request: httpx2.Request, refused: httpx2.Response) -> str | None:
        """Return another token than the refused one, if there is one to be had unasked."""
        used = request.headers.get("authorization", "").removeprefix("Bearer ")
        is_scope = refused.status_code == FORBIDDEN
        async with self._lock:
            if self._config.oauth.grant != "authorization_code":
                if (_token_of(self._kept) or "") == used:  # else another call was faster
                    await self._obtain(refused)
            elif self._store is not None:
                if (found := usable_grant(self._config, self._store)) is not None:
                    self._kept = found  # another process may have been faster
                if _token_of(self._kept) == used and self._kept is not None and not is_scope:
                    await self._refresh(self._kept)
            token = _token_of(self._kept)
        return None if token == used else token

    async def _refresh(self, kept: Grant) -> None:
        """Take a new token for the refresh token; without one, or refused, keep none."""
        self._kept, self._outage = None, None
        if kept.tokens is None or kept.tokens.refresh_token is None:
            return
        try:
            async with auth_client(self._config) as http:
                self._keep(await refresh(http, self._config, kept))
        except httpx2.HTTPError as exc:  # it may be there again: the login still counts
            self._kept = kept
            self._outage = f"wants a new token, and {kept.issuer} cannot be used: {exc}"
            logger.warning("server=%s %s", self._config.name, self._outage)
        except FLOW_ERRORS as exc:
            logger.warning("server=%s: its token was not renewed: %s", self._config.name, exc)
            found = None if self._store is None else usable_grant(self._config, self._store)
            if found is not None and _token_of(found) != _token_of(kept):
                self._kept = found

    async def _obtain(self, refused: httpx2.Response) -> None:
        """Take a token as the client that the entry names."""
        # Imported where it is used: most servers have no client of their own.
        from tools.mcp_client.client_credentials import obtain  # noqa: PLC0415

        challenge = read_challenge(refused) or Challenge()
        is_step_up = refused.status_code == FORBIDDEN
        try:
            self._keep(await obtain(self._config, challenge, is_step_up=is_step_up))
        except FLOW_ERRORS as exc:
            self.problem = f"was refused a token: {exc}"

    def _keep(self, grant: Grant) -> None:
        self._kept = grant
        if self._store is not None:
            try:
                self._store.save_grant(self._config.url, grant)
            except ConfigurationError as exc:
                logger.warning("server=%s: %s", self._config.name, exc)

    def _tell(
        self, request: httpx2.Request, response: httpx2.Response, challenge: Challenge
    ) -> None:
        """Say what helps, to the log of states and, as JSON-RPC, to who waits for an answer."""
        self.challenge = challenge
        if self._config.oauth.grant != "authorization_code":
            self.problem = self.problem or "does not take our token"
        elif self._store is None:
            return  # a login would come to nothing
        elif self._outage is not None:
            self.problem = self._outage
        else:
            what = "a login with more rights" if response.status_code == FORBIDDEN else "login"
            self.problem = f"needs {what}: run `zonda mcp login {self._config.name}`"
            self._remember(challenge)
        if request.method == "POST":
            _answer(response, f"it {self.problem}")

    def _remember(self, challenge: Challenge) -> None:
        if self._store is not None:
            try:
                self._store.save_challenge(self._config.url, challenge)
            except ConfigurationError as exc:
                logger.warning("server=%s: %s", self._config.name, exc)


def usable_grant(config: ServerConfig, store: TokenStore) -> Grant | None:
    """Return what is kept for an entry, unless it is another client's or another issuer's."""
    grant = store.load(config.url).grant
    oauth = config.oauth
    if grant is None or grant.tokens is None:
        return None
    if oauth.client_id and grant.client.client_id != oauth.client_id:
        return None
    if oauth.issuer and grant.issuer.rstrip("/") != oauth.issuer.rstrip("/"):
        return None
    return grant


class _Told(httpx2.AsyncByteStream):
    """A body of ours in place of a refusal's."""

    def __init__(self, inner: httpx2.AsyncByteStream, body: bytes) -> None:
        self._inner = inner
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body

    async def aclose(self) -> None:
        await self._inner.aclose()


def _answer(response: httpx2.Response, message: str) -> None:
    """Make a refusal a JSON-RPC error, which the SDK hands to who waits for the answer."""
    error = {"code": REFUSED, "message": message}
    body = json.dumps({"jsonrpc": "2.0", "id": None, "error": error}).encode()
    response.headers["content-type"] = "application/json"
    response.headers["content-length"] = str(len(body))
    if isinstance(response.stream, httpx2.AsyncByteStream):
        response.stream = _Told(response.stream, body)


def _token_of(grant: Grant | None) -> str | None:
    return None if grant is None or grant.tokens is None else grant.tokens.access_token
