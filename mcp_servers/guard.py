"""The one door of the HTTP server: Host, Origin and key or token of every request on any path.

Wraps the application, so no route, mistyped path or error page lies outside it. What passes
bears its caller's name and no longer its key. Only where tokens come from is told to everyone.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_servers.key_scopes import ALL_SCOPES, USUAL_SCOPES, KeyScope, grant
from mcp_servers.refusals import Refused
from mcp_servers.resource_server import InvalidTokenError, ResourceServer
from tools.errors import ConfigurationError, UnavailableError

logger = logging.getLogger(__name__)

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
MIN_KEY_CHARS = 16

_HOST = re.compile(r"(?P<name>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?P<port>:[0-9]{1,5})?")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_KEY_HEADERS = frozenset({b"authorization", b"x-api-key"})  # Anthropic's clients send the second
_KEY = re.compile(r"[A-Za-z0-9._~+/=-]+")


@dataclass(frozen=True, slots=True)
class Key:
    """A key that is good, without its text.

    Attributes:
        sha256: of the key.
        name: what its bearer is called, in the log too.
        scopes: what it is good for.
    """

    sha256: bytes
    name: str
    scopes: frozenset[KeyScope] = USUAL_SCOPES


@dataclass(frozen=True, slots=True)
class Access:
    """Who is let in.

    Attributes:
        keys: where there is none, everyone who can reach us may call.
        hosts: names under which we are known, besides this machine's own addresses.
        is_open: whether other machines reach us; any address is then ours, for a page's script
            can be led to us by a name only.
        tokens: checks the tokens of an authorization server, which count beside the keys.
    """

    keys: Sequence[Key] = ()
    hosts: frozenset[str] = LOOPBACK
    is_open: bool = False
    tokens: ResourceServer | None = None

    @property
    def needs_key(self) -> bool:
        """Whether nobody is let in without a key or token."""
        return bool(self.keys) or self.tokens is not None


def make_access(
    host: str,
    keys: Iterable[str],
    names: Iterable[str] = (),
    tokens: ResourceServer | None = None,
) -> Access:
    """Decide who is let in on a server that is bound to `host`.

    Raises:
        ConfigurationError: other machines could reach it and there is no key, or a key is one
            that anybody could guess or no header can carry.
    """
    hashed = [_parse_key(line) for line in keys]
    is_open = not _is_loopback(host)
    if is_open and not hashed and tokens is None:
        raise ConfigurationError(
            f"other machines can reach {host}, so a key is needed: give --api-key-file or set "
            "ZONDA_API_KEY, or oauth_issuer for tokens, or bind 127.0.0.1"
        )
    known = {_plain_name(name) for name in (*LOOPBACK, *names)}
    if tokens is not None:
        known.add(_plain_name(tokens.host))
    if is_open and not _is_address(host):
        known.add(_plain_name(host))
    return Access(tuple(hashed), frozenset(known), is_open, tokens)


def read_keys(path: Path) -> list[str]:
    """Read a file of keys, one a line, as `KEY` or as `NAME:SCOPE,SCOPE:KEY`.

    Empty lines and lines that begin with # are none.

    Raises:
        ConfigurationError: it cannot be read, or holds no key.
    """
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
        if path.stat().st_mode & 0o077:
            logger.warning("other users may read %s; `chmod 600` it", path)
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"the key file {path} cannot be read: {exc}") from exc
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise ConfigurationError(f"the key file {path} holds no key; write one a line")
    return keys


class Guard:
    """Refuses foreign hosts (421), foreign origins (403) and missing or wrong keys (401).

    A token that is good but has too few scopes gets 403.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            answer = self._refuse_address(scope) or self._tell(scope)
            answer = answer or await self._refuse_caller(scope)
            await (answer or self._app)(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _refuse_address(self, scope: Scope) -> Refused | None:
        hosts, origins = _values(scope, b"host"), _values(scope, b"origin")
        host = _host_name(hosts[0]) if len(hosts) == 1 else None
        if host is None or not self._is_ours(host):
            return _refusal(421, "the Host header names another server; see --allow-host")
        for origin in origins:
            name = _origin_name(origin)
            if name is None or name not in {host, *self._access.hosts}:
                return _refusal(403, "pages of this origin may not call; see --allow-host")
        return None

    def _is_ours(self, host: str) -> bool:
        return host in self._access.hosts or (self._access.is_open and _is_address(host))

    def _tell(self, scope: Scope) -> ASGIApp | None:
        """Answer who asks where tokens come from: who has none yet."""
        tokens = self._access.tokens
        if tokens is None or scope["path"] not in tokens.metadata_paths:
            return None
        if scope["method"] not in {"GET", "HEAD"}:
            return _refusal(405, "this can only be read")
        return JSONResponse(tokens.metadata, headers={"cache-control": "max-age=3600"})

    async def _refuse_caller(self, scope: Scope) -> Refused | None:
        """Check the key or token, take it out of the request, and put in who was let in.

        It is a user of the SDK's kind, so that the SDK binds its sessions to who opened them.
        """
        given = _given_key(scope)
        scope["headers"] = [item for item in scope["headers"] if item[0] not in _KEY_HEADERS]
        if not self._access.needs_key:
            return None
        if given is None:
            return _refusal(401, "a key is needed: Authorization: Bearer KEY", self._challenge())
        if (key := self._find_key(given)) is not None:
            known = AccessToken(token="", client_id=key.name, scopes=[])
            scope["user"] = AuthenticatedUser(known)
            grant(scope, key.scopes)
            return None
        if self._access.tokens is None:
            return _refusal(401, "the key is wrong", self._challenge("invalid_token"))
        return await self._refuse_token(scope, given, self._access.tokens)

    async def _refuse_token(
        self, scope: Scope, token: str, tokens: ResourceServer
    ) -> Refused | None:
        try:
            user = await tokens.check(token)
        except InvalidTokenError as exc:
            return _refusal(401, str(exc), self._challenge("invalid_token"))
        except UnavailableError as exc:
            return _refusal(503, str(exc))
        if missing := tokens.missing_scopes(user):
            text = f"the token lacks the scope {' '.join(missing)}"
            return _refusal(403, text, self._challenge("insufficient_scope"))
        scope["user"] = user
        grant(scope, ALL_SCOPES if "admin" in user.scopes else USUAL_SCOPES)
        return None

    def _challenge(self, error: str = "") -> str:
        """Say how to get in. Source: RFC 6750, section 3; RFC 9728, section 5.1."""
        fields = {"error": error}
        if (tokens := self._access.tokens) is not None:
            fields |= {"scope": " ".join(tokens.settings.scopes)}
            fields |= {"resource_metadata": tokens.metadata_url}
        said = ", ".join(f'{name}="{value}"' for name, value in fields.items() if value)
        return f"Bearer {said}".rstrip()

    def _find_key(self, text: str) -> Key | None:
        """Return the key; takes as long whether and wherever it is found."""
        hashed = hashlib.sha256(text.encode()).digest()
        found = [key for key in self._access.keys if hmac.compare_digest(key.sha256, hashed)]
        return found[0] if found else None


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for header, value in scope["headers"] if header == name]


def _bearer(given: list[str]) -> str | None:
    scheme, _, key = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    return key.strip() if scheme.lower() == "bearer" and key.strip() else None


def _given_key(scope: Scope) -> str | None:
    """The key of a request, as OpenAI's clients bear it or as Anthropic's do.

    None where there is none, or where it isn't clear which one counts.
    """
    bearers, plain = _values(scope, b"authorization"), _values(scope, b"x-api-key")
    if not plain or bearers:
        return _bearer(bearers)
    return plain[0].strip() or None if len(plain) == 1 else None


def _host_name(text: str) -> str | None:
    """The name in a Host header, without port and brackets; None when it is malformed."""
    found = _HOST.fullmatch(text)
    return None if found is None else _plain_name(found["name"])


def _origin_name(text: str) -> str | None:
    """The host of an Origin header; None for `null` and whatever is no web page's origin."""
    scheme, separator, rest = text.partition("://")
    return _host_name(rest) if separator and scheme in {"http", "https"} else None


def _plain_name(name: str) -> str:
    return name.strip("[]").lower().removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _parse_key(line: str) -> Key:
    """Read `KEY`, which has the usual scopes, or `NAME:SCOPE,SCOPE:KEY`."""
    if ":" not in line:
        hashed = _hash_key(line)
        return Key(hashed, f"key {hashed.hex()[:12]}")
    if line.count(":") < 2:
        raise ConfigurationError("a line of keys is KEY or NAME:SCOPE,SCOPE:KEY; one is neither")
    name, scopes, key = line.split(":", 2)  # no key has a colon; the last part shows that
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"a key's name is up to 64 letters, digits, _ or -, not {name!r}")
    found = frozenset[KeyScope](one for one in ALL_SCOPES if one in scopes.split(","))
    if unknown := set(scopes.split(",")) - found:
        raise ConfigurationError(
            f"the key {name} has the scopes {scopes!r}; {sorted(unknown)[0]!r} is none of "
            f"{', '.join(sorted(ALL_SCOPES))}"
        )
    return Key(_hash_key(key), f"key {name}", found)


def _hash_key(key: str) -> bytes:
    if len(key) < MIN_KEY_CHARS or not _KEY.fullmatch(key):
        raise ConfigurationError(
            f"a key is {MIN_KEY_CHARS} or more letters, digits or ._~+/=-; one of "
            f"{len(key)} characters was given; `openssl rand -hex 32` makes a good one"
        )
    return hashlib.sha256(key.encode()).digest()


def _refusal(status: int, message: str, authenticate: str | None = None) -> Refused:
    return Refused(status, message, {"www-authenticate": authenticate} if authenticate else None)
