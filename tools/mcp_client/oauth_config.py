"""What the operator says about the OAuth of one tool server; most servers need none of it.

```json
{"url": "https://example.org/mcp", "x-runtime": {"oauth": {
    "client_id": "zonda", "client_secret": "${SECRET}", "issuer": "https://login.example.org",
    "grant": "client_credentials", "scopes": ["files:read"]}}}
```

Claude Code's `oauth` (`clientId`, `callbackPort`) and Cursor's `auth` (`CLIENT_ID`,
`CLIENT_SECRET`, `scopes`) are read as well. Source: documentation of these hosts, November 2026.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

Grant = Literal["authorization_code", "client_credentials", "id_token"]


@dataclass(frozen=True, slots=True)
class OAuthConfig:
    """How tokens for one server are asked for.

    Attributes:
        grant: "authorization_code" is a person's login; "client_credentials" needs nobody;
            "id_token" exchanges what the company's identity provider says of a user.
        client_id: of a client that was registered by hand; else Zonda registers itself.
        client_secret: that client's, or "".
        private_key: PEM that signs that client's assertions, instead of a secret.
        key_algorithm: the JWS name of the signature, for `private_key`.
        client_metadata_url: https URL of a client id metadata document to be known by.
        issuer: the only authorization server that may see the above; "" takes the one that
            the tool server names.
        scopes: asked for besides those that a refusal of the server's names.
        redirect_port: loopback port that a login comes back to; 0 takes a free one.
        id_token: for the grant of that name, what the identity provider gave.
        id_token_endpoint: the identity provider's token endpoint.
        id_token_client_id: of the client at the identity provider that `id_token` is for.
    """

    grant: Grant = "authorization_code"
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    private_key: str = field(default="", repr=False)
    key_algorithm: str = "ES256"
    client_metadata_url: str = ""
    issuer: str = ""
    scopes: tuple[str, ...] = ()
    redirect_port: int = 0
    id_token: str = field(default="", repr=False)
    id_token_endpoint: str = ""
    id_token_client_id: str = ""


_Port = Annotated[int, Field(ge=0, le=65535)]
_Scope = Annotated[str, Field(pattern=r"^[\x21\x23-\x5b\x5d-\x7e]+$")]


class OAuthEntry(BaseModel):
    """`OAuthConfig` as it stands in a file, before variables are replaced."""

    model_config = ConfigDict(extra="forbid")

    grant: Grant = "authorization_code"
    client_id: str = ""
    client_secret: str = ""
    private_key: str = ""
    key_algorithm: Literal["ES256", "ES384", "RS256", "PS256", "EdDSA"] = "ES256"
    client_metadata_url: str = ""
    issuer: str = ""
    scopes: tuple[_Scope, ...] = ()
    redirect_port: _Port = 0
    id_token: str = ""
    id_token_endpoint: str = ""
    id_token_client_id: str = ""

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        """A client that needs nobody has to say who it is, and whom it may say it to."""
        if self.grant != "authorization_code":
            if not (self.client_id and self.issuer):
                raise ValueError(f'grant "{self.grant}" needs `client_id` and `issuer`')
            if not (self.client_secret or self.private_key):
                raise ValueError(f'grant "{self.grant}" needs `client_secret` or `private_key`')
        if self.grant == "id_token":
            named = (self.id_token, self.id_token_endpoint, self.id_token_client_id)
            if not (all(named) and self.client_secret):
                raise ValueError(
                    'grant "id_token" needs `client_secret`, `id_token`, `id_token_endpoint` and '
                    "`id_token_client_id`"
                )
        if self.client_metadata_url:
            parts = urlsplit(self.client_metadata_url)
            if parts.scheme != "https" or parts.path in {"", "/"}:
                raise ValueError("`client_metadata_url` has to be https://…/… with a path")
        return self


class _ClaudeCodeEntry(BaseModel):
    """The `oauth` of Claude Code's entries."""

    client_id: str = Field(default="", alias="clientId")
    redirect_port: _Port = Field(default=0, alias="callbackPort")


class _CursorEntry(BaseModel):
    """The `auth` of Cursor's entries."""

    client_id: str = Field(default="", alias="CLIENT_ID")
    client_secret: str = Field(default="", alias="CLIENT_SECRET")
    scopes: tuple[_Scope, ...] = ()


def read_oauth(own: OAuthEntry, auth: Any, oauth: Any, expand: Callable[[str], str]) -> OAuthConfig:
    """Return the settings with variables replaced by `expand`; ours win over the hosts'.

    Args:
        own: what stands under our own key.
        auth: what stands under Cursor's key, which other hosts use for other things.
        oauth: the same of Claude Code's.
        expand: replaces variables.

    Raises:
        ValidationError: a host's key is wrong.
        ConfigurationError: by `expand`, for a variable that is not set.
    """
    given: dict[str, Any] = {}
    for kind, value in ((_CursorEntry, auth), (_ClaudeCodeEntry, oauth)):
        if isinstance(value, dict):
            entry = kind.model_validate(value)
            given |= entry.model_dump(include=entry.model_fields_set)
    given |= own.model_dump(include=own.model_fields_set)
    texts = {name: expand(value) for name, value in given.items() if isinstance(value, str)}
    return OAuthConfig(**(given | texts))
