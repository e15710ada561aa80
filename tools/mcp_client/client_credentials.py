"""Tokens that need no person: of a client of the operator's own, or by an identity provider.

Apart from the rest because signing costs an import that most never need.
"""

from __future__ import annotations

import httpx2
import jwt
from mcp.client.auth import OAuthClientProvider, OAuthFlowError
from mcp.client.auth.extensions.client_credentials import (
    ClientCredentialsOAuthProvider,
    PrivateKeyJWTOAuthProvider,
    SignedJWTParameters,
)
from mcp.client.auth.extensions.identity_assertion import IdentityAssertionOAuthProvider
from mcp.shared.auth import OAuthClientInformationFull
from mcp.shared.auth_utils import calculate_token_expiry

from tools.mcp_client.config import ServerConfig
from tools.mcp_client.oauth_config import OAuthConfig
from tools.mcp_client.oauth_flow import FlowStorage, auth_client, drive, grant_of
from tools.mcp_client.token_store import Challenge, Grant

_OK = 200
_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:"  # noqa: S105  a name


async def obtain(config: ServerConfig, challenge: Challenge, *, is_step_up: bool) -> Grant:
    """Get a token from the issuer that the entry names, and from no other.

    Raises:
        OAuthFlowError: the server leads to another issuer, the issuer refuses, or the private
            key is none.
        httpx2.HTTPError: the issuer cannot be reached.
        ValueError: it answers with what is no token.
    """
    async with auth_client(config) as http:
        if config.oauth.grant == "id_token":
            return await _obtain_by_id_token(http, config, challenge, is_step_up=is_step_up)
        provider = _provider(config)
        await drive(http, provider, config, challenge, is_step_up=is_step_up)
        return grant_of(provider.context)


async def _obtain_by_id_token(
    http: httpx2.AsyncClient, config: ServerConfig, challenge: Challenge, *, is_step_up: bool
) -> Grant:
    """Get a token for a user of the company's. Source: MCP enterprise-managed authorization."""
    oauth, storage = config.oauth, FlowStorage()

    async def exchange(audience: str, resource: str) -> str:
        return await _exchange_id_token(http, oauth, audience, resource)

    provider = IdentityAssertionOAuthProvider(
        config.url,
        storage,
        oauth.client_id,
        oauth.client_secret,
        oauth.issuer,
        exchange,
        scope=" ".join(oauth.scopes) or None,
        token_endpoint_auth_method="client_secret_basic",  # noqa: S106  a name
    )
    await drive(http, provider, config, challenge, is_step_up=is_step_up)
    if (tokens := await storage.get_tokens()) is None:
        raise OAuthFlowError("no token came of it")
    client = OAuthClientInformationFull(client_id=oauth.client_id, issuer=oauth.issuer)
    expires_at = calculate_token_expiry(tokens.expires_in)
    return Grant(oauth.issuer, client, tokens, expires_at)


async def _exchange_id_token(
    http: httpx2.AsyncClient, oauth: OAuthConfig, audience: str, resource: str
) -> str:
    """Let the identity provider say the same to an issuer. Source: RFC 8693; ID-JAG draft."""
    data = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "requested_token_type": f"{_TOKEN_TYPE}id-jag",
        "subject_token": oauth.id_token,
        "subject_token_type": f"{_TOKEN_TYPE}id_token",
        "audience": audience,
        "resource": resource,
        "client_id": oauth.id_token_client_id,
    }
    response = await http.post(oauth.id_token_endpoint, data=data)
    if response.status_code != _OK:
        raise OAuthFlowError(f"the identity provider answered {response.status_code}")
    assertion = response.json().get("access_token")
    if not isinstance(assertion, str):
        raise OAuthFlowError("the identity provider gave no assertion")
    return assertion


def _provider(config: ServerConfig) -> OAuthClientProvider:
    oauth, storage = config.oauth, FlowStorage()
    scope = " ".join(oauth.scopes) or None
    if not oauth.private_key:
        return ClientCredentialsOAuthProvider(
            config.url,
            storage,
            oauth.client_id,
            oauth.client_secret,
            scope=scope,
            issuer=oauth.issuer,
        )
    try:
        jwt.get_algorithm_by_name(oauth.key_algorithm).prepare_key(oauth.private_key)
    except (jwt.PyJWTError, ValueError, TypeError) as exc:
        raise OAuthFlowError(f"`private_key` cannot sign by {oauth.key_algorithm}") from exc
    key = SignedJWTParameters(
        issuer=oauth.client_id,
        subject=oauth.client_id,
        signing_key=oauth.private_key,
        signing_algorithm=oauth.key_algorithm,
    )
    return PrivateKeyJWTOAuthProvider(
        config.url,
        storage,
        oauth.client_id,
        key.create_assertion_provider(),
        scope=scope,
        issuer=oauth.issuer,
    )
