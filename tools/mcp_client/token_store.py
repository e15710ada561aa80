"""Keeps what authorization servers gave us, by resource and issuer, in files for our eyes only.

One file of the state folder for each resource (a tool server's URL), mode 0600, replaced at once;
in it one grant for each issuer, and the issuer that was used last. Several processes may use one
folder: the last one to write wins. Knows no HTTP.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mcp.shared.auth import (
    OAuthClientInformationFull,
    OAuthMetadata,
    OAuthToken,
    ProtectedResourceMetadata,
)
from mcp.shared.auth_utils import resource_url_from_server_url

from tools.errors import ConfigurationError

logger = logging.getLogger(__name__)

_EXPIRY_MARGIN_S = 15.0
"""Tokens are renewed this long before they expire: requests take a while to arrive."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What one issuer let us have for one resource.

    Attributes:
        expires_at: Unix time in seconds, or None where the issuer did not say.
    """

    issuer: str
    client: OAuthClientInformationFull
    tokens: OAuthToken | None = None
    expires_at: float | None = None
    metadata: OAuthMetadata | None = None
    resource: ProtectedResourceMetadata | None = None

    @property
    def is_usable(self) -> bool:
        """Whether there is an access token that has not expired."""
        if self.tokens is None:
            return False
        return self.expires_at is None or time.time() < self.expires_at - _EXPIRY_MARGIN_S


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a server wanted when it refused us: where its metadata is, and which scopes."""

    resource_metadata: str = ""
    scope: str = ""


@dataclass(frozen=True, slots=True)
class ServerTokens:
    """All that is kept about one resource.

    Attributes:
        issuer: whose grant is in use, or "".
        challenge: the last refusal, for the login that follows it.
    """

    issuer: str = ""
    grants: Mapping[str, Grant] = field(default_factory=dict)
    challenge: Challenge | None = None

    @property
    def grant(self) -> Grant | None:
        """The grant in use."""
        return self.grants.get(self.issuer)


class TokenStore:
    """The files in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, url: str) -> ServerTokens:
        """Return what is kept about a server; nothing where its file is missing or damaged."""
        path = self._path(url)
        try:
            return _read(path)
        except FileNotFoundError:
            return ServerTokens()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
            logger.warning("the tokens in %s cannot be read: %s", path, type(exc).__name__)
            return ServerTokens()

    def save_grant(self, url: str, grant: Grant) -> None:
        """Keep a grant as the one in use; a challenge that it answered is forgotten.

        Raises:
            ConfigurationError: the file cannot be written.
        """
        kept = self.load(url)
        grants = {**kept.grants, grant.issuer: grant}
        self._write(url, ServerTokens(grant.issuer, grants))

    def save_challenge(self, url: str, challenge: Challenge) -> None:
        """Keep why a server refused us.

        Raises:
            ConfigurationError: the file cannot be written.
        """
        kept = self.load(url)
        if kept.challenge != challenge:
            self._write(url, replace(kept, challenge=challenge))

    def stamp(self, url: str) -> int:
        """Return a number that is another one once something was kept about a server."""
        try:
            return self._path(url).stat().st_mtime_ns
        except OSError:
            return 0

    def forget(self, url: str) -> bool:
        """Forget a server; return whether there was something to forget."""
        path = self._path(url)
        is_there = path.exists()
        path.unlink(missing_ok=True)
        return is_there

    def _path(self, url: str) -> Path:
        resource = resource_url_from_server_url(url)
        host = urlsplit(resource).hostname or "server"
        stem = "".join(char if char.isalnum() else "-" for char in host)[:40]
        return self._folder / f"{stem}-{hashlib.sha256(resource.encode()).hexdigest()[:24]}.json"

    def _write(self, url: str, kept: ServerTokens) -> None:
        path = self._path(url)
        value = {
            "resource": resource_url_from_server_url(url),
            "issuer": kept.issuer,
            "grants": [_grant_to_json(grant) for grant in kept.grants.values()],
            "challenge": kept.challenge
            and {
                "resource_metadata": kept.challenge.resource_metadata,
                "scope": kept.challenge.scope,
            },
        }
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Made with mode 0600, before anything is in it.
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as draft:
                draft.write(json.dumps(value).encode())
            try:
                Path(draft.name).replace(path)
            finally:
                Path(draft.name).unlink(missing_ok=True)
        except OSError as exc:
            raise ConfigurationError(
                f"the tokens of {value['resource']} cannot be kept in {path}: {exc.strerror}"
            ) from exc


def _read(path: Path) -> ServerTokens:
    value: Any = json.loads(path.read_bytes())
    grants = [_grant_from_json(one) for one in value["grants"]]
    challenge = value["challenge"]
    return ServerTokens(
        str(value["issuer"]),
        {grant.issuer: grant for grant in grants},
        None if challenge is None else Challenge(**challenge),
    )


def _grant_to_json(grant: Grant) -> dict[str, Any]:
    models = {
        "client": grant.client,
        "tokens": grant.tokens,
        "metadata": grant.metadata,
        "resource": grant.resource,
    }
    dumped = {
        name: None if model is None else model.model_dump(mode="json", exclude_none=True)
        for name, model in models.items()
    }
    return {"issuer": grant.issuer, "expires_at": grant.expires_at, **dumped}


def _grant_from_json(value: Any) -> Grant:
    expires_at = value["expires_at"]
    tokens, metadata, resource = value["tokens"], value["metadata"], value["resource"]
    return Grant(
        issuer=str(value["issuer"]),
        client=OAuthClientInformationFull.model_validate(value["client"]),
        tokens=None if tokens is None else OAuthToken.model_validate(tokens),
        expires_at=None if expires_at is None else float(expires_at),
        metadata=None if metadata is None else OAuthMetadata.model_validate(metadata),
        resource=None if resource is None else ProtectedResourceMetadata.model_validate(resource),
    )
