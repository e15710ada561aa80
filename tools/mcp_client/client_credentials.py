"""Tokens for a client of the operator's own, which needs no person.

Apart from the rest because signing costs an import that most never need.
"""

from __future__ import annotations

from jwt import PyJWTError
from mcp.client.auth import OAuthClientProvider, OAuthFlowError
from mcp.client.auth.extensions.client_credentials import (
    ClientCredentialsOAuthProvider,
    PrivateKeyJWTOAuthProvider,
    SignedJWTParameters,
)

from tools.mcp_client.config import ServerConfig
from tools.mcp_client.oauth_flow import FlowStorage, auth_client, drive, grant_of
from tools.mcp_client.token_store import Challenge, Grant


async def obtain(config: ServerConfig, challenge: Challenge, *, is_step_up: bool) -> Grant:
    """Get a token from the issuer that the entry names, and from no other.

    Raises:
        OAuthFlowError: the server leads to another issuer, the issuer refuses, or the private
            key is none.
        httpx2.HTTPError: the issuer cannot be reached.
        ValueError: it answers with what is no token.
    """
    provider = _provider(config)
    try:
        async with auth_client(config) as http:
            await drive(http, provider, config, challenge, is_step_up=is_step_up)
    except PyJWTError as exc:
        raise OAuthFlowError(f"`private_key` cannot sign by {config.oauth.key_algorithm}") from exc
    return grant_of(provider.context)


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
