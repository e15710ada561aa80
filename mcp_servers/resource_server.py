"""Checks access tokens that an authorization server gave to our callers.

Zonda is an OAuth resource server: it says who gives tokens for it (RFC 9728) and takes JWTs
(RFC 9068) that were made for it, by that issuer, with the scopes it needs. It gives none itself.
Knows no requests; `guard` asks.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx2
import jwt
from mcp.client.auth.utils import (
    build_oauth_authorization_server_metadata_discovery_urls,
    issuers_match,
)
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken

from runtime.config import Config
from tools.errors import ConfigurationError, UnavailableError
from tools.mcp_client.addresses import is_inner, place_of
from tools.mcp_client.checked_http import CheckedTransport

logger = logging.getLogger(__name__)

METADATA_PATH = "/.well-known/oauth-protected-resource"

_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA")
"""Those whose keys can be published: with a shared secret, whoever checks could also sign."""

_TYPES = frozenset({"", "jwt", "at+jwt", "application/at+jwt"})
_LEEWAY_S = 30
_KEYS_GOOD_FOR_S = 3600.0
_ASK_AGAIN_AFTER_S = 30.0
"""Tokens of unknown keys make us ask the issuer for new ones this often at most."""

_TRY_AGAIN_AFTER_S = 1.0
"""An issuer that cannot be asked is asked this often at most, whoever calls meanwhile."""

_FETCH_WITHIN_S = 5.0
_MAX_KEYS_BYTES = 256 * 1024
_MAX_TOKEN_CHARS = 16 * 1024


class InvalidTokenError(Exception):
    """A token that is not good here; the message is fit for its bearer."""


@dataclass(frozen=True, slots=True)
class ResourceSettings:
    """Whose tokens count, and what they have to say.

    Attributes:
        issuer: the authorization server's issuer identifier.
        resource: the URL at which clients reach us, which tokens have to name as their audience.
        scopes: that each token needs.
        keys: URL or path of the issuer's JWK Set; "" asks the issuer where it is.
    """

    issuer: str
    resource: str
    scopes: tuple[str, ...] = ()
    keys: str = ""


class TokenUser(AuthenticatedUser):
    """Who a token speaks for: an issuer's subject, whatever client it uses."""

    def __init__(self, token: AccessToken, issuer: str) -> None:
        super().__init__(token)
        self.username = f"{issuer} {token.subject}"


class ResourceServer:
    """Says what we are and checks tokens; keys are fetched when first needed, and kept an hour."""

    def __init__(
        self, settings: ResourceSettings, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Check the settings, and read the keys if they are a file.

        Raises:
            ConfigurationError: a setting is wrong.
        """
        _check(settings)
        self.settings = settings
        self._now = now
        self._keys: Sequence[jwt.PyJWK] = ()
        self._is_file = bool(settings.keys) and not _is_url(settings.keys)
        if self._is_file:
            self._keys = _read_file(Path(settings.keys).expanduser())
        self._asked_at = -_KEYS_GOOD_FOR_S
        self._lock = anyio.Lock()

    @property
    def host(self) -> str:
        """The name under which clients reach us."""
        return urlsplit(self.settings.resource).hostname or ""

    @property
    def metadata(self) -> dict[str, Any]:
        """What clients are told. Source: RFC 9728, section 2."""
        told: dict[str, Any] = {
            "resource": self.settings.resource,
            "authorization_servers": [self.settings.issuer],
            "bearer_methods_supported": ["header"],
            "resource_name": "Zonda",
        }
        if self.settings.scopes:
            told["scopes_supported"] = list(self.settings.scopes)
        return told

    @property
    def metadata_paths(self) -> frozenset[str]:
        """Where clients look for it."""
        return frozenset({METADATA_PATH, METADATA_PATH + self._path})

    @property
    def metadata_url(self) -> str:
        parts = urlsplit(self.settings.resource)
        return f"{parts.scheme}://{parts.netloc}{METADATA_PATH}{self._path}"

    async def check(self, token: str) -> TokenUser:
        """Return whom a token speaks for; whether its scopes are enough is `missing_scopes`.

        Raises:
            InvalidTokenError: it is not good here.
            UnavailableError: the issuer's keys cannot be had.
        """
        try:
            if len(token) > _MAX_TOKEN_CHARS:
                raise InvalidTokenError("the token is too long")
            key = await self._find_key(_read_header(token))
            claims = jwt.decode(
                token,
                key,
                audience=[self.settings.resource, self.settings.resource.rstrip("/")],
                issuer=[self.settings.issuer, self.settings.issuer.rstrip("/")],
                leeway=_LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
                algorithms=[key.algorithm_name],
            )
            return self._user(claims)
        except jwt.ExpiredSignatureError as exc:
            raise InvalidTokenError("the token has expired") from exc
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as exc:
            logger.info("a token was refused: %s", type(exc).__name__)
            raise InvalidTokenError("the token is not one for this server") from exc

    def missing_scopes(self, user: TokenUser) -> Sequence[str]:
        """Return the scopes that a token lacks."""
        return [scope for scope in self.settings.scopes if scope not in user.scopes]

    def _user(self, claims: dict[str, Any]) -> TokenUser:
        client = claims.get("client_id", claims.get("azp", claims["sub"]))
        token = AccessToken(
            token="",  # nobody behind the guard gets it
            client_id=str(client),
            scopes=_scopes(claims),
            expires_at=int(claims["exp"]),
            resource=self.settings.resource,
            subject=claims["sub"],
            claims={"iss": self.settings.issuer},
        )
        return TokenUser(token, self.settings.issuer)

    @property
    def _path(self) -> str:
        return urlsplit(self.settings.resource).path.rstrip("/")

    async def _find_key(self, header: dict[str, Any]) -> jwt.PyJWK:
        """Return the key that a token names, asking the issuer again for one that is new."""
        async with self._lock:
            age = self._now() - self._asked_at
            if not self._is_file:
                is_old = not self._keys or age > _KEYS_GOOD_FOR_S
                if is_old or (age > _ASK_AGAIN_AFTER_S and _pick(self._keys, header) is None):
                    await self._load()
            found = _pick(self._keys, header)
        if found is None:
            raise InvalidTokenError("the token is signed with a key that is not its issuer's")
        return found

    async def _load(self) -> None:
        """Fetch the keys; where that fails, those that we have go on to count.

        Raises:
            UnavailableError: it failed, and we have none.
        """
        if not self._keys and self._now() - self._asked_at < _TRY_AGAIN_AFTER_S:
            raise UnavailableError("the issuer's keys cannot be had; try again later")
        try:
            async with httpx2.AsyncClient(
                timeout=_FETCH_WITHIN_S,
                transport=CheckedTransport(self._may_be_inner),
                headers={"accept": "application/json"},
            ) as client:
                place = self.settings.keys or await _find_keys(client, self.settings.issuer)
                self._keys = _parse_keys(await _get_json(client, place))
        except (httpx2.HTTPError, ValueError, KeyError) as exc:
            logger.warning("the keys of %s cannot be had: %s", self.settings.issuer, exc)
            if not self._keys:
                text = "the issuer's keys cannot be had; try again later"
                raise UnavailableError(text) from exc
        finally:
            self._asked_at = self._now()

    def _may_be_inner(self, host: str, port: int) -> bool:
        """An issuer leads to its keys, and not from outside to what is inside this network."""
        issuer, keys = httpx2.URL(self.settings.issuer), self.settings.keys
        chosen = [place_of(issuer), *([place_of(httpx2.URL(keys))] if keys else [])]
        return is_inner(issuer.host) or (host, port) in chosen


def make_resource_server(config: Config) -> ResourceServer | None:
    """Return what checks tokens by the settings `oauth_*`; None where no issuer is set.

    Raises:
        ConfigurationError: a setting is wrong.
    """
    if not config.oauth_issuer:
        return None
    scopes = tuple(config.oauth_scopes.split())
    settings = ResourceSettings(
        config.oauth_issuer, config.oauth_resource, scopes, config.oauth_keys
    )
    return ResourceServer(settings)


def _check(settings: ResourceSettings) -> None:
    for name, value in (("oauth_issuer", settings.issuer), ("oauth_resource", settings.resource)):
        if not _is_url(value) or urlsplit(value).query or urlsplit(value).fragment:
            raise ConfigurationError(f"{name} must be https://…, without a query, not {value!r}")
        if not _is_safe(value):
            raise ConfigurationError(f"{name} must be https://…, or on this machine, not {value!r}")
    if settings.keys and "://" in settings.keys and not _is_safe(settings.keys):
        raise ConfigurationError(f"oauth_keys must be https://… or a file, not {settings.keys!r}")


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and not parts.username
    except ValueError:
        return False


def _is_safe(url: str) -> bool:
    """Whether nobody on the way can change what is said there."""
    if not _is_url(url):
        return False
    parts = urlsplit(url)
    return parts.scheme == "https" or parts.hostname in {"localhost", "127.0.0.1", "::1"}


def _read_file(path: Path) -> Sequence[jwt.PyJWK]:
    try:
        return _parse_keys(json.loads(path.read_bytes()))
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"oauth_keys: {path} holds no JWK Set: {exc}") from exc


def _parse_keys(value: Any) -> Sequence[jwt.PyJWK]:
    """Return the keys of a JWK Set that we can use; others may be for others.

    Raises:
        ValueError: there are none.
    """
    given = value.get("keys") if isinstance(value, dict) else None
    keys = []
    for one in given if isinstance(given, list) else ():
        with suppress(jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError):
            keys.append(jwt.PyJWK.from_dict(one))
    usable = [key for key in keys if key.algorithm_name in _ALGORITHMS]
    if not usable:
        raise ValueError(f"it has no public key for {', '.join(_ALGORITHMS)}")
    return usable


def _read_header(token: str) -> dict[str, Any]:
    header = jwt.get_unverified_header(token)
    if header.get("alg") not in _ALGORITHMS:
        raise InvalidTokenError("the token is signed in a way that is not taken here")
    if str(header.get("typ", "")).lower() not in _TYPES:
        raise InvalidTokenError("this is no access token")
    return header


def _pick(keys: Sequence[jwt.PyJWK], header: dict[str, Any]) -> jwt.PyJWK | None:
    """Return the key of the token's id and algorithm; without an id, the only one that fits."""
    fitting = [
        key
        for key in keys
        if key.algorithm_name == header["alg"] and key.public_key_use in {None, "sig"}
    ]
    if (wanted := header.get("kid")) is not None:
        return next((key for key in fitting if key.key_id == wanted), None)
    return fitting[0] if len(fitting) == 1 else None


async def _find_keys(client: httpx2.AsyncClient, issuer: str) -> str:
    """Ask an issuer where its keys are. Source: RFC 8414; OpenID Connect Discovery 1.0."""
    for url in build_oauth_authorization_server_metadata_discovery_urls(issuer, issuer):
        try:
            metadata = await _get_json(client, url)
        except httpx2.HTTPStatusError:
            continue
        if not issuers_match(str(metadata["issuer"]), issuer):
            raise ValueError(f"{url} is about another issuer, {metadata['issuer']!r}")
        place = str(metadata["jwks_uri"])
        if not _is_safe(place):
            raise ValueError(f"its keys are at {place!r}, which is not https")
        return place
    raise ValueError("it publishes no metadata; give oauth_keys")


async def _get_json(client: httpx2.AsyncClient, url: str) -> dict[str, Any]:
    """Return the object at a URL.

    Raises:
        httpx2.HTTPError: it cannot be had.
        ValueError: it is too large, or no object.
    """
    body = bytearray()
    async with client.stream("GET", url) as response:
        response.raise_for_status()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > _MAX_KEYS_BYTES:
                raise ValueError(f"{url} is over {_MAX_KEYS_BYTES} bytes")
    value = json.loads(body)
    if not isinstance(value, dict):
        raise ValueError(f"{url} holds no JSON object")
    return value


def _scopes(claims: dict[str, Any]) -> list[str]:
    """The scopes of a token: `scope` of RFC 9068, or `scp` as some issuers have it."""
    given = claims.get("scope", claims.get("scp", ""))
    return given.split() if isinstance(given, str) else [str(one) for one in given]
