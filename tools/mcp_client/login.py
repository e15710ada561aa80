"""A person's login at a tool server's authorization server, and the end of it.

PKCE, discovery, registration and the checks of issuers are the SDK's. The browser comes back to a
port of this machine; who calls `log_in` opens it, for only a person's command may.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Set
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import anyio
import httpx2
from mcp import Client, MCPError
from mcp.client.auth import OAuthClientProvider, OAuthFlowError
from mcp.client.auth.oauth2 import OAuthContext
from mcp.shared.auth import (
    AuthorizationCodeResult,
    OAuthClientInformationFull,
    OAuthClientMetadata,
)
from pydantic import AnyUrl

from tools.errors import ConfigurationError, ToolServerError
from tools.mcp_client.config import ServerConfig
from tools.mcp_client.loopback import Callback, open_callback
from tools.mcp_client.oauth_flow import (
    FLOW_ERRORS,
    FlowStorage,
    auth_client,
    context_of,
    drive,
    grant_of,
)
from tools.mcp_client.remote import RemoteServer
from tools.mcp_client.token_store import Challenge, Grant, ServerTokens, TokenStore

logger = logging.getLogger(__name__)

LOGIN_WITHIN_S = 300.0
CLIENT_NAME = "Zonda"

OpenUrl = Callable[[str], Awaitable[None]]
"""Shows a person an https or http URL."""


async def log_in(
    config: ServerConfig, store: TokenStore, open_url: OpenUrl, *, within_s: float = LOGIN_WITHIN_S
) -> Grant:
    """Let a person log in at a server, and keep what comes of it.

    Raises:
        ConfigurationError: the entry is none that a login is for.
        ToolServerError: the server wants no login, or it failed; the message says why.
    """
    _check(config)
    kept = store.load(config.url)
    challenge = await _challenge(config) or kept.challenge
    if challenge is None:
        raise ToolServerError(f"server {config.name!r} answers without a login")
    challenge = replace(challenge, scope=_wanted_scope(challenge, kept))
    try:
        with anyio.fail_after(within_s):
            grant = await _flow(config, kept.grant, challenge, open_url)
    except TimeoutError as exc:
        raise ToolServerError(f"nobody logged in within {within_s:g} s") from exc
    except FLOW_ERRORS as exc:
        raise ToolServerError(f"the login at server {config.name!r} failed: {exc}") from exc
    store.save_grant(config.url, grant)
    return grant


async def log_out(config: ServerConfig, store: TokenStore) -> bool:
    """Forget a server's tokens, after telling their issuer; return whether there were any.

    An issuer that cannot be told does not keep the tokens here.
    """
    kept = store.load(config.url)
    for grant in kept.grants.values():
        try:
            await _revoke(config, grant)
        except FLOW_ERRORS as exc:
            logger.warning("server=%s: %s was not told: %s", config.name, grant.issuer, exc)
    return store.forget(config.url)


def _check(config: ServerConfig) -> None:
    """Refuse an entry that nobody logs in to."""
    if not config.url or config.problem is not None:
        reason = config.problem or "it is a command that Zonda runs; only a URL has a login"
        raise ConfigurationError(f"server {config.name!r} cannot be logged in to: {reason}")
    has_key = any(name.lower() == "authorization" for name in config.headers)
    if has_key or config.oauth.grant != "authorization_code":
        raise ConfigurationError(
            f"server {config.name!r} has a key or a client of its own in its entry, so nobody "
            "logs in to it"
        )


async def _challenge(config: ServerConfig, *, is_sse: bool = False) -> Challenge | None:
    """Connect without a token, as any client does; return what the server then wants."""
    is_sse = is_sse or config.is_sse
    server = RemoteServer(config, is_sse=is_sse)
    try:
        with anyio.fail_after(config.timeouts.connect_s):
            async with Client(server.run(), mode="legacy" if is_sse else "auto"):
                return None
    except* (ToolServerError, MCPError, TimeoutError, httpx2.HTTPError) as group:
        is_told = server.auth is not None and server.auth.challenge is not None
        if not is_told and (is_sse or not server.is_older):
            raise ToolServerError(f"server {config.name!r} {server.describe_end()}") from group
    if server.auth is not None and server.auth.challenge is not None:
        return server.auth.challenge
    return await _challenge(config, is_sse=True)


async def _flow(
    config: ServerConfig, before: Grant | None, challenge: Challenge, open_url: OpenUrl
) -> Grant:
    """Go through the SDK's flow, with the client that we are known as, if we are."""
    known = _known_client(config, before)
    is_fixed = bool(config.oauth.redirect_port)
    async with open_callback(_port(config, known), is_fixed=is_fixed) as callback:
        if known is not None and not _still_fits(
            known, callback.url, {*challenge.scope.split(), *config.oauth.scopes}
        ):
            known = None
        provider = OAuthClientProvider(
            config.url,
            _metadata(callback.url),
            FlowStorage(known),
            client_metadata_url=config.oauth.client_metadata_url or None,
        )
        _ask_a_person(provider.context, config, callback, open_url)
        async with auth_client(config) as http:
            await drive(http, provider, config, challenge, is_step_up=False)
        return grant_of(provider.context)


def _wanted_scope(challenge: Challenge, kept: ServerTokens) -> str:
    """What a connection lacks, and a call lacked, besides what was granted; "" if none is named."""
    before = "" if kept.challenge is None else kept.challenge.scope
    tokens = None if kept.grant is None else kept.grant.tokens
    if not (challenge.scope or before):
        return ""
    granted = "" if tokens is None else tokens.scope or ""
    return " ".join(dict.fromkeys(f"{granted} {challenge.scope} {before}".split()))


def _ask_a_person(
    context: OAuthContext, config: ServerConfig, callback: Callback, open_url: OpenUrl
) -> None:
    async def show(url: str) -> None:
        issuer = "" if context.oauth_metadata is None else str(context.oauth_metadata.issuer)
        wanted = config.oauth.issuer
        if wanted and issuer.rstrip("/") != wanted.rstrip("/"):
            raise OAuthFlowError(f"the server leads to the issuer {issuer!r}, not to {wanted!r}")
        callback.state = parse_qs(urlsplit(url).query)["state"][0]
        await open_url(url)

    async def wait() -> AuthorizationCodeResult:
        return await callback.result()

    context.redirect_handler, context.callback_handler = show, wait


def _metadata(redirect_url: str) -> OAuthClientMetadata:
    return OAuthClientMetadata(
        client_name=CLIENT_NAME,
        redirect_uris=[AnyUrl(redirect_url)],
        grant_types=["authorization_code", "refresh_token"],
        response_types=["code"],
    )


def _known_client(config: ServerConfig, before: Grant | None) -> OAuthClientInformationFull | None:
    """The client of the entry, or else the one that Zonda registered at an earlier login."""
    oauth = config.oauth
    if oauth.client_id:
        return OAuthClientInformationFull(
            client_id=oauth.client_id,
            client_secret=oauth.client_secret or None,
            token_endpoint_auth_method="client_secret_basic" if oauth.client_secret else "none",
            issuer=oauth.issuer or None,
        )
    return None if before is None else before.client


def _port(config: ServerConfig, known: OAuthClientInformationFull | None) -> int:
    """The port that a registered client comes back to, or any."""
    if config.oauth.redirect_port or known is None or not known.redirect_uris:
        return config.oauth.redirect_port
    return known.redirect_uris[0].port or 0


def _still_fits(known: OAuthClientInformationFull, url: str, scopes: Set[str]) -> bool:
    """Whether a client may come back to `url` and ask for these scopes.

    What is not said of one that was registered by hand is the operator's affair.
    """
    if known.redirect_uris and url not in map(str, known.redirect_uris):
        return False
    return known.scope is None or scopes <= {*known.scope.split()}


async def _revoke(config: ServerConfig, grant: Grant) -> None:
    """Tell an issuer that a grant is over, where it can be told. Source: RFC 7009."""
    endpoint = None if grant.metadata is None else grant.metadata.revocation_endpoint
    if endpoint is None or grant.tokens is None:
        return
    token = grant.tokens.refresh_token or grant.tokens.access_token
    data = {"token": token, "client_id": grant.client.client_id}
    data, headers = context_of(config, grant).prepare_token_auth(data, {})
    async with auth_client(config) as http:
        response = await http.post(str(endpoint), data=data, headers=headers)
    if not response.is_success:
        raise OAuthFlowError(f"HTTP status {response.status_code}")
