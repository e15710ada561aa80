"""The pieces of OAuth that the SDK's flows leave to us: running them, and whom they may ask.

Knows neither where tokens are kept nor who asks for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from urllib.parse import urljoin

import httpx2
from mcp.client.auth import OAuthFlowError
from mcp.client.auth.oauth2 import OAuthContext
from mcp.client.auth.utils import (
    extract_field_from_www_auth,
    extract_resource_metadata_from_www_auth,
    extract_scope_from_www_auth,
    union_scopes,
)
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from mcp.shared.auth_utils import calculate_token_expiry

from tools.mcp_client.addresses import is_inner, place_of
from tools.mcp_client.bounded_http import BoundedTransport
from tools.mcp_client.config import ServerConfig
from tools.mcp_client.token_store import Challenge, Grant

UNAUTHORIZED, FORBIDDEN, _OK, _TOO_MANY = 401, 403, 200, 429
FLOW_ERRORS = (OAuthFlowError, httpx2.HTTPError, ValueError)
"""What a flow raises when an authorization server cannot be used."""


def read_challenge(response: httpx2.Response) -> Challenge | None:
    """Return what a refusal asks for: a login (401) or more scopes (403); None for all else."""
    is_scope = (
        response.status_code == FORBIDDEN
        and extract_field_from_www_auth(response, "error") == "insufficient_scope"
    )
    if response.status_code != UNAUTHORIZED and not is_scope:
        return None
    return Challenge(
        extract_resource_metadata_from_www_auth(response) or "",
        extract_scope_from_www_auth(response) or "",
    )


async def refresh(http: httpx2.AsyncClient, config: ServerConfig, kept: Grant) -> Grant:
    """Exchange a refresh token at the issuer that gave it.

    Raises:
        OAuthFlowError: the issuer has no token endpoint, or refuses.
        httpx2.HTTPError: it cannot be reached, or not now.
        ValidationError: it answers with what is no token.
    """
    assert kept.tokens is not None
    assert kept.tokens.refresh_token is not None
    context = context_of(config, kept)
    data = {
        "grant_type": "refresh_token",
        "refresh_token": kept.tokens.refresh_token,
        "client_id": kept.client.client_id,
    }
    if context.should_include_resource_param():
        data["resource"] = context.get_resource_url()
    data, headers = context.prepare_token_auth(data, {})
    response = await http.post(token_endpoint(config, kept), data=data, headers=headers)
    if response.is_server_error or response.status_code == _TOO_MANY:
        told = f"it answered with HTTP status {response.status_code}"
        raise httpx2.HTTPStatusError(told, request=response.request, response=response)
    if response.status_code != _OK:
        raise OAuthFlowError(f"HTTP status {response.status_code}: {response.text[:200]}")
    tokens = OAuthToken.model_validate_json(response.content)
    kept_on = {"scope": kept.tokens.scope, "refresh_token": kept.tokens.refresh_token}
    given = tokens.model_dump(exclude_none=True)  # what an answer leaves out stays as it was
    renewed = OAuthToken.model_validate(kept_on | given)
    return replace(kept, tokens=renewed, expires_at=calculate_token_expiry(renewed.expires_in))


def context_of(config: ServerConfig, kept: Grant) -> OAuthContext:
    """Return the SDK's view of a grant, for the requests that it knows how to make."""
    return OAuthContext(
        server_url=config.url,
        client_metadata=OAuthClientMetadata(redirect_uris=None),
        storage=FlowStorage(),
        redirect_handler=None,
        callback_handler=None,
        client_info=kept.client,
        current_tokens=kept.tokens,
        oauth_metadata=kept.metadata,
        protected_resource_metadata=kept.resource,
    )


def token_endpoint(config: ServerConfig, kept: Grant) -> str:
    """Where a grant's issuer gives tokens; without metadata, where revision 2025-03-26 says."""
    return (
        urljoin(config.url, "/token")
        if kept.metadata is None
        else str(kept.metadata.token_endpoint)
    )


async def drive(
    http: httpx2.AsyncClient,
    provider: httpx2.Auth,
    config: ServerConfig,
    challenge: Challenge,
    *,
    is_step_up: bool,
) -> None:
    """Run the SDK's flow as if a request had just been refused, until it has a token.

    As an `httpx2.Auth` of the client's, the flow would hold a lock while the server answers, and
    so let one call wait for another.
    """
    request = httpx2.Request("POST", config.url)
    flow = provider.async_auth_flow(request)
    try:
        await anext(flow)
        refusal = _refusal(request, challenge, config.oauth.scopes, is_step_up=is_step_up)
        outgoing = await flow.asend(refusal)
        while outgoing is not request:
            outgoing = await flow.asend(await http.send(outgoing, follow_redirects=False))
    finally:
        await flow.aclose()


def _refusal(
    request: httpx2.Request, challenge: Challenge, scopes: Sequence[str], *, is_step_up: bool
) -> httpx2.Response:
    """Return the refusal that a challenge stands for, with the scopes of the entry."""
    error = "insufficient_scope" if is_step_up else "invalid_token"
    scope = union_scopes(challenge.scope, " ".join(scopes))
    fields = {"error": error, "resource_metadata": challenge.resource_metadata, "scope": scope}
    header = ", ".join(f'{name}="{value}"' for name, value in fields.items() if value)
    status = FORBIDDEN if is_step_up else UNAUTHORIZED
    return httpx2.Response(
        status, headers={"www-authenticate": f"Bearer {header}"}, request=request
    )


def grant_of(context: OAuthContext) -> Grant:
    """Return what a flow that ended well has got."""
    assert context.client_info is not None
    metadata = context.oauth_metadata
    origin = context.auth_server_url or context.get_authorization_base_url(context.server_url)
    return Grant(
        issuer=origin if metadata is None else str(metadata.issuer),
        client=context.client_info,
        tokens=context.current_tokens,
        expires_at=context.token_expiry_time,
        metadata=metadata,
        resource=context.protected_resource_metadata,
    )


def auth_client(config: ServerConfig) -> AbstractAsyncContextManager[httpx2.AsyncClient]:
    """Open connections to authorization servers that `config`'s server may lead us to."""
    return httpx2.AsyncClient(
        timeout=config.timeouts.connect_s,
        transport=_CheckedTransport(
            [config.url, config.oauth.issuer, config.oauth.id_token_endpoint]
        ),
        headers={"accept-encoding": "identity"},
        trust_env=False,
    )


class FlowStorage:
    """The SDK's storage for the length of one flow; `TokenStore` keeps what comes out of it."""

    def __init__(self, client: OAuthClientInformationFull | None = None) -> None:
        self._client = client
        self._tokens: OAuthToken | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self._tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self._tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self._client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self._client = client_info


def target_problem(chosen: Sequence[httpx2.URL], url: httpx2.URL) -> str | None:
    """Say why a tool server must not send us to a URL: it is not https, or inside our network.

    The operator chose the origins of `chosen`; where the first, the server, is at an inner address,
    it may lead elsewhere inside. What a name stands for is seen when it is connected to.
    """
    if any((url.scheme, url.host, url.port) == (one.scheme, one.host, one.port) for one in chosen):
        return None
    if is_inner(url.host):
        is_fine = is_inner(chosen[0].host) and url.scheme in {"http", "https"}
        return None if is_fine else f"the server leads to {url.host}, inside this network"
    return None if url.scheme == "https" else f"the server leads to {url}, which is not https"


class _CheckedTransport(httpx2.AsyncBaseTransport):
    """Refuses URLs that a tool server on the internet must not send us to."""

    def __init__(self, chosen: Sequence[str]) -> None:
        self._chosen = [httpx2.URL(url) for url in chosen if url]
        self._places = set(map(place_of, self._chosen))
        self._inner = BoundedTransport(self._may_be_inner)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url
        if (problem := target_problem(self._chosen, url)) is not None:
            raise OAuthFlowError(problem)
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()

    def _may_be_inner(self, host: str, port: int) -> bool:
        return (host, port) in self._places or is_inner(self._chosen[0].host)
