"""A real authorization server on a loopback port, and a tool server that takes its tokens.

The SDK's routes over grants in memory; tokens are JWTs, whose keys it publishes.
"""

from __future__ import annotations

import base64
import secrets
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from mcp.server.auth.provider import (
    AccessToken,
    AuthorizationCode,
    AuthorizationParams,
    RefreshToken,
    construct_redirect_uri,
)
from mcp.server.auth.routes import create_auth_routes
from mcp.server.auth.settings import ClientRegistrationOptions, RevocationOptions
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
from pydantic import AnyHttpUrl
from starlette.applications import Starlette
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_servers.request_limits import replay_body
from mcp_servers.toolset_server import build_server
from tests.helpers.http_tool_servers import serve_app
from tools.toolset import Toolset

USER = "ada"
METADATA_PATH = "/.well-known/oauth-authorization-server"


@dataclass
class AuthorizationServer:
    """Grants whatever is asked for, to its only user, `USER`.

    Attributes:
        lifetime_s: of access tokens; None leaves it unsaid.
        refusal: an OAuth error that every authorization request gets, or None.
        is_away: whether it fails whatever it is asked.
        keys_url: where its metadata say that its keys are; the SDK's say nothing.
        requests: what came, as "METHOD path".
        heads: the headers of what came.
    """

    issuer: str
    lifetime_s: int | None = 3600
    refusal: str | None = None
    keys_url: str | None = None
    is_away: bool = False
    requests: list[str] = field(default_factory=list)
    heads: list[httpx2.Headers] = field(default_factory=list)
    clients: dict[str, OAuthClientInformationFull] = field(default_factory=dict)
    asked_scopes: list[Sequence[str]] = field(default_factory=list)
    _codes: dict[str, AuthorizationCode] = field(default_factory=dict)
    _refreshes: dict[str, RefreshToken] = field(default_factory=dict)
    _revoked: set[str] = field(default_factory=set)
    _key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )

    @property
    def key_set(self) -> dict[str, Any]:
        """The public keys, as RFC 7517 has them."""
        key: dict[str, Any] = jwt.algorithms.ECAlgorithm.to_jwk(
            self._key.public_key(), as_dict=True
        )
        return {"keys": [{**key, "kid": "k1", "alg": "ES256", "use": "sig"}]}

    def sign(self, **claims: Any) -> str:
        """Make an access token of these claims, over what is usual; None leaves one out."""
        now = int(time.time())
        usual = {"iss": self.issuer, "sub": USER, "iat": now, "exp": now + 3600, "jti": f"{now}"}
        given = {name: value for name, value in {**usual, **claims}.items() if value is not None}
        return jwt.encode(given, self._key, algorithm="ES256", headers={"kid": "k1"})

    def read(self, token: str) -> dict[str, Any] | None:
        """Return the claims of a token of ours that is good."""
        try:
            claims: dict[str, Any] = jwt.decode(
                token, self._key.public_key(), ["ES256"], options={"verify_aud": False}
            )
        except jwt.PyJWTError:
            return None
        return None if token in self._revoked else claims

    def revoke_all(self, *, refresh: bool = False) -> None:
        """End every access token, and with `refresh` what could renew them."""
        self._revoked |= set(self._issued)
        if refresh:
            self._refreshes.clear()

    _issued: list[str] = field(default_factory=list)

    def _issue(
        self, client: OAuthClientInformationFull, scopes: list[str], resource: str | None
    ) -> OAuthToken:
        access = self.sign(
            aud=resource,
            client_id=client.client_id,
            scope=" ".join(scopes),
            jti=secrets.token_hex(8),
        )
        refresh = secrets.token_urlsafe(18)
        self._issued.append(access)
        self._refreshes[refresh] = RefreshToken(
            token=refresh, client_id=client.client_id, scopes=scopes, resource=resource
        )
        return OAuthToken(
            access_token=access,
            expires_in=self.lifetime_s,
            scope=" ".join(scopes),
            refresh_token=refresh,
        )

    def _give_to_client(self, request: Request, form: FormData) -> Response:
        """Give a token to a client for itself, which the SDK's routes do not."""
        given = base64.b64decode(request.headers["authorization"].removeprefix("Basic "))
        client_id, _, secret = given.decode().partition(":")
        client = self.clients.get(client_id)
        if client is None or client.client_secret != secret:
            return JSONResponse({"error": "invalid_client"}, 401)
        scopes = str(form.get("scope", "")).split()
        self.asked_scopes.append(scopes)
        token = self._issue(client, scopes, str(form["resource"]))
        return JSONResponse(token.model_dump(exclude={"refresh_token"}))

    async def get_client(self, client_id: str) -> OAuthClientInformationFull | None:
        return self.clients.get(client_id)

    async def register_client(self, client_info: OAuthClientInformationFull) -> None:
        self.clients[client_info.client_id] = client_info

    async def authorize(
        self, client: OAuthClientInformationFull, params: AuthorizationParams
    ) -> str:
        self.asked_scopes.append(params.scopes or [])
        back, said = str(params.redirect_uri), {"state": params.state, "iss": self.issuer}
        if self.refusal is not None:
            return construct_redirect_uri(back, error=self.refusal, **said)
        code = secrets.token_urlsafe(24)
        self._codes[code] = AuthorizationCode(
            code=code,
            scopes=params.scopes or [],
            expires_at=time.time() + 60,
            client_id=client.client_id,
            code_challenge=params.code_challenge,
            redirect_uri=params.redirect_uri,
            redirect_uri_provided_explicitly=True,
            resource=params.resource,
        )
        return construct_redirect_uri(back, code=code, **said)

    async def load_authorization_code(
        self, client: OAuthClientInformationFull, authorization_code: str
    ) -> AuthorizationCode | None:
        return self._codes.get(authorization_code)

    async def exchange_authorization_code(
        self, client: OAuthClientInformationFull, authorization_code: AuthorizationCode
    ) -> OAuthToken:
        del self._codes[authorization_code.code]
        return self._issue(client, authorization_code.scopes, authorization_code.resource)

    async def load_refresh_token(
        self, client: OAuthClientInformationFull, refresh_token: str
    ) -> RefreshToken | None:
        return self._refreshes.get(refresh_token)

    async def exchange_refresh_token(
        self, client: OAuthClientInformationFull, refresh_token: RefreshToken, scopes: list[str]
    ) -> OAuthToken:
        del self._refreshes[refresh_token.token]  # each is good once
        return self._issue(client, scopes or refresh_token.scopes, refresh_token.resource)

    async def load_access_token(self, token: str) -> AccessToken | None:
        if (claims := self.read(token)) is None:
            return None
        return AccessToken(token=token, client_id=claims["client_id"], scopes=[])

    async def revoke_token(self, token: AccessToken | RefreshToken) -> None:
        if isinstance(token, RefreshToken):
            self._refreshes.pop(token.token, None)
        self._revoked.add(token.token)

    async def exchange_identity_assertion(self, *arguments: object) -> OAuthToken:
        raise NotImplementedError

    def app(self) -> ASGIApp:
        """The server as an application that notes what comes."""
        routes = create_auth_routes(
            self,
            AnyHttpUrl(self.issuer),
            client_registration_options=ClientRegistrationOptions(enabled=True),
            revocation_options=RevocationOptions(enabled=True),
        )

        async def keys(request: Request) -> Response:
            return JSONResponse(self.key_set)

        async def metadata(request: Request) -> Response:
            names = {"authorization": "authorize", "token": "token", "registration": "register"}
            places = {f"{name}_endpoint": self.issuer + path for name, path in names.items()}
            return JSONResponse({"issuer": self.issuer, "jwks_uri": self.keys_url, **places})

        routes.append(Route("/keys", keys))
        inner = Starlette(routes=routes)
        with_keys = Starlette(routes=[Route(METADATA_PATH, metadata), *routes])

        async def noting(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and self.is_away:
                await Response("away", 503)(scope, receive, send)
                return
            if scope["type"] == "http":
                self.requests.append(f"{scope['method']} {scope['path']}")
                self.heads.append(httpx2.Headers(scope["headers"]))
            if scope["type"] == "http" and scope["path"] == "/token":
                form = await (request := Request(scope, receive)).form()
                if form.get("grant_type") == "client_credentials":
                    response = self._give_to_client(request, form)
                    await response(scope, receive, send)
                    return
                receive = replay_body(urlencode(list(form.items())).encode(), receive)
            await (with_keys if self.keys_url else inner)(scope, receive, send)

        return noting


@dataclass
class Protected:
    """A tool server's application that takes the tokens of one authorization server.

    Attributes:
        scopes: that a token needs; may be changed while it runs.
        heads: the headers of what came.
    """

    inner: ASGIApp
    url: str
    authority: AuthorizationServer
    scopes: list[str] = field(default_factory=list)
    heads: list[httpx2.Headers] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.inner(scope, receive, send)
        elif scope["path"] == "/whereabouts":
            metadata = {"resource": self.url, "authorization_servers": [self.authority.issuer]}
            await JSONResponse(metadata)(scope, receive, send)
        else:
            self.heads.append(httpx2.Headers(scope["headers"]))
            await (self._refusal(self.heads[-1]) or self.inner)(scope, receive, send)

    def _refusal(self, headers: httpx2.Headers) -> Response | None:
        claims = self.authority.read(headers.get("authorization", "").removeprefix("Bearer "))
        place = f'resource_metadata="{urlsplit(self.url)._replace(path="/whereabouts").geturl()}"'
        wanted = f'scope="{" ".join(self.scopes)}"'
        if claims is None or claims.get("aud") != self.url:
            return Response("no", 401, {"www-authenticate": f"Bearer {place}, {wanted}"})
        if not {*self.scopes} <= {*claims["scope"].split()}:
            told = f'Bearer error="insufficient_scope", {wanted}, {place}'
            return Response("no", 403, {"www-authenticate": told})
        return None


@asynccontextmanager
async def serve_authority() -> AsyncIterator[AuthorizationServer]:
    """Run an authorization server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        authority = AuthorizationServer(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        async with serve_app(authority.app(), listener):
            yield authority


@asynccontextmanager
async def serve_protected(
    toolset: Toolset, authority: AuthorizationServer, *scopes: str
) -> AsyncIterator[Protected]:
    """Run a tool server that takes the tokens of `authority`."""
    app = build_server("protected", toolset).streamable_http_app()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
        protected = Protected(app, url, authority, list(scopes))
        async with serve_app(protected, listener):
            yield protected


@dataclass
class Browser:
    """A person's browser: goes where it is sent, and where it is sent from there.

    Attributes:
        visited: the pages that it was told to open.
        answers: what the last page of each visit said.
    """

    visited: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)

    async def __call__(self, url: str) -> None:
        self.visited.append(url)
        async with httpx2.AsyncClient(follow_redirects=True, trust_env=False) as client:
            self.answers.append((await client.get(url)).text)

    @property
    def asked(self) -> dict[str, str]:
        """What the last authorization request said."""
        return {
            name: values[0] for name, values in parse_qs(urlsplit(self.visited[-1]).query).items()
        }
