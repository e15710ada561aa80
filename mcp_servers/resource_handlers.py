"""Offers resources over MCP: lists, templates, reading, completion, subscriptions, cache hints.

What a resource says is data and functions of who registers it; nothing here knows models.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import mcp_types as types
from mcp import MCPError
from mcp.server import Server, ServerRequestContext
from mcp.shared.uri_template import UriTemplate

from mcp_servers.announcements import PrincipalOf
from tools.errors import InvalidRequestError, ZondaError, suggest

logger = logging.getLogger(__name__)

PAGE_SIZE = 100
"""Entries of one page of a list."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked for: a resource, the variables of its template, and by whom."""

    uri: str
    variables: Mapping[str, str]
    principal: str


@dataclass(frozen=True, slots=True)
class Listed:
    """One resource that a template stands for, as a list shows it."""

    variables: Mapping[str, str]
    description: str


@dataclass(frozen=True)
class Resource:
    """Something that a host can read, or a template of such things.

    Attributes:
        uri: an address, or a template of addresses (RFC 6570).
        read: makes the content anew each time, text or bytes; what it raises as
            `InvalidRequestError` says that there is no such resource.
        ttl_ms: milliseconds that a host may keep the content, or what says so.
        version: cheap; gives another value once `read` would say something else, and raises
            like it; None where the content never changes.
        values: by variable of a template, what there is for a principal, for completion.
        listed: what of a template stands in the list of resources for a principal.
    """

    uri: str
    name: str
    description: str
    mime_type: str
    read: Callable[[Asked], Awaitable[str | bytes]]
    title: str | None = None
    ttl_ms: int | Callable[[Asked], int] = 0
    version: Callable[[Asked], Hashable] | None = None
    values: Mapping[str, Callable[[str], Iterable[str]]] = field(default_factory=dict)
    listed: Callable[[str], Iterable[Listed]] | None = None

    @cached_property
    def template(self) -> UriTemplate | None:
        """The parsed template; None for one address."""
        return UriTemplate.parse(self.uri) if UriTemplate.is_template(self.uri) else None

    def match(self, uri: str) -> Mapping[str, str] | None:
        """The variables of an address of this resource; None for another's."""
        if self.template is None:
            return {} if uri == self.uri else None
        found = self.template.match(uri)
        if found is None:
            return None
        variables = {name: value for name, value in found.items() if isinstance(value, str)}
        return variables if all(variables.values()) else None


class ResourceHandlers:
    """The request handlers over a fixed sequence of resources; the first that matches counts."""

    def __init__(self, resources: Sequence[Resource], principal_of: PrincipalOf) -> None:
        self._resources = resources
        self._principal_of = principal_of

    def attach(self, server: Server[Any]) -> None:
        """Serve lists and reading."""
        paged = types.PaginatedRequestParams
        server.add_request_handler("resources/list", paged, self._list)
        server.add_request_handler("resources/templates/list", paged, self._list_templates)
        server.add_request_handler("resources/read", types.ReadResourceRequestParams, self._read)

    def values(self, uri: str, variable: str, principal: str) -> Iterable[str]:
        """What a variable of a template may be, for completion.

        Raises:
            MCPError: no template is written so.
        """
        for resource in self._resources:
            if resource.uri == uri and resource.template is not None:
                known = resource.values.get(variable)
                return () if known is None else known(principal)
        templates = [one.uri for one in self._resources if one.template is not None]
        message = f"no resource template is {uri!r}{suggest(uri, templates)}"
        raise MCPError(types.INVALID_PARAMS, message)

    def version(self, uri: str, principal: str) -> Hashable:
        """A value that changes with what a principal sees there; see `announcements.VersionOf`.

        Raises:
            MCPError: the principal has no such resource.
        """
        resource, asked = self._find(uri, principal)
        try:
            return None if resource.version is None else resource.version(asked)
        except InvalidRequestError as exc:
            raise MCPError(types.INVALID_PARAMS, str(exc), {"uri": uri}) from exc

    async def _list(
        self, context: ServerRequestContext, params: types.PaginatedRequestParams
    ) -> types.ListResourcesResult:
        principal = self._principal_of(context)
        found = [one for resource in self._resources for one in _entries(resource, principal)]
        shown, cursor = page_of(found, params.cursor)
        return types.ListResourcesResult(resources=shown, next_cursor=cursor)

    async def _list_templates(
        self, context: ServerRequestContext, params: types.PaginatedRequestParams
    ) -> types.ListResourceTemplatesResult:
        found = [
            types.ResourceTemplate(
                uri_template=resource.uri,
                name=resource.name,
                title=resource.title,
                description=resource.description,
                mime_type=resource.mime_type,
            )
            for resource in self._resources
            if resource.template is not None
        ]
        shown, cursor = page_of(found, params.cursor)
        return types.ListResourceTemplatesResult(resource_templates=shown, next_cursor=cursor)

    async def _read(
        self, context: ServerRequestContext, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        resource, asked = self._find(params.uri, self._principal_of(context))
        content = to_contents(asked.uri, resource.mime_type, await _read(resource, asked))
        ttl_ms = resource.ttl_ms if isinstance(resource.ttl_ms, int) else resource.ttl_ms(asked)
        return types.ReadResourceResult(contents=[content], ttl_ms=ttl_ms, cache_scope="private")

    def _find(self, uri: str, principal: str) -> tuple[Resource, Asked]:
        for resource in self._resources:
            if (variables := resource.match(uri)) is not None:
                return resource, Asked(uri, variables, principal)
        known = [resource.uri for resource in self._resources]
        message = f"no resource is at {uri!r}{suggest(uri, known)}"
        raise MCPError(types.INVALID_PARAMS, message, {"uri": uri})


def to_contents(
    uri: str, mime_type: str, content: str | bytes
) -> types.TextResourceContents | types.BlobResourceContents:
    """What an MCP client gets of a resource."""
    if isinstance(content, str):
        return types.TextResourceContents(uri=uri, mime_type=mime_type, text=content)
    blob = base64.b64encode(content).decode("ascii")
    return types.BlobResourceContents(uri=uri, mime_type=mime_type, blob=blob)


def page_of(entries: Sequence[T], cursor: str | None) -> tuple[list[T], str | None]:
    """Cut the page that a cursor stands for out of a list; return it and the next cursor.

    Raises:
        MCPError: the cursor is none of ours.
    """
    if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) < 10):
        raise MCPError(types.INVALID_PARAMS, f"the cursor {cursor[:40]!r} is none of this list")
    start = int(cursor or 0)
    end = start + PAGE_SIZE
    return list(entries[start:end]), str(end) if end < len(entries) else None


def _entries(resource: Resource, principal: str) -> Iterable[types.Resource]:
    entry = types.Resource(
        uri=resource.uri,
        name=resource.name,
        title=resource.title,
        description=resource.description,
        mime_type=resource.mime_type,
    )
    if resource.template is None:
        yield entry
        return
    for listed in resource.listed(principal) if resource.listed is not None else ():
        uri = resource.template.expand(listed.variables)
        name = " ".join([resource.name, *listed.variables.values()])
        named = {"uri": uri, "name": name, "title": None, "description": listed.description}
        yield entry.model_copy(update=named)


async def _read(resource: Resource, asked: Asked) -> str | bytes:
    """Read a resource; the one place where its failures become what a client sees."""
    try:
        return await resource.read(asked)
    except InvalidRequestError as exc:
        raise MCPError(types.INVALID_PARAMS, str(exc), {"uri": asked.uri}) from exc
    except ZondaError as exc:
        raise MCPError(types.INTERNAL_ERROR, str(exc)) from exc
    except Exception as exc:
        logger.exception("resource=%s failed", resource.uri)
        message = f"{resource.uri} failed inside the server; see its log"
        raise MCPError(types.INTERNAL_ERROR, message) from exc
