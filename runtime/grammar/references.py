"""What a `$ref` in a schema means, and which draft is spoken where. Fetches nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urldefrag

from referencing.exceptions import NoSuchResource, Unresolvable, Unretrievable
from referencing.jsonschema import (
    DRAFT4,
    DRAFT6,
    DRAFT7,
    DRAFT201909,
    DRAFT202012,
)

from runtime.errors import UnsupportedSchemaError
from runtime.grammar.schema import Schema
from tools.schema_documents import known_documents
from tools.spec import JsonObject

if TYPE_CHECKING:
    from referencing._core import Resolver

_DRAFTS = {
    "http://json-schema.org/draft-04/schema": (4, DRAFT4),
    "http://json-schema.org/draft-06/schema": (6, DRAFT6),
    "http://json-schema.org/draft-07/schema": (7, DRAFT7),
    "https://json-schema.org/draft/2019-09/schema": (2019, DRAFT201909),
    "https://json-schema.org/draft/2020-12/schema": (2020, DRAFT202012),
}
_VALIDATION = "https://json-schema.org/draft/2020-12/vocab/validation"
_ROOT_URI = "urn:zonda:schema"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a schema stands: its path for messages, its draft, and how its references resolve."""

    path: str
    draft: int
    resolver: Resolver[Any]

    def below(self, suffix: str) -> Place:
        """The place of a sub-schema in the same resource."""
        return Place(self.path + suffix, self.draft, self.resolver)

    def entering(self, schema: JsonObject) -> Place:
        """This place once `schema`'s own `$schema` and `$id` are taken into account."""
        if "$schema" not in schema and "$id" not in schema and "id" not in schema:
            return self
        draft = _DRAFTS.get(_bare(schema.get("$schema")), (self.draft, None))[0]
        resolver = self.resolver
        if isinstance(schema.get("$id", schema.get("id")), str):
            resolver = resolver.in_subresource(_specification(draft).create_resource(schema))
        return Place(self.path, draft, resolver)


class Document:
    """A whole schema whose references can be followed."""

    def __init__(self, schema: JsonObject) -> None:
        """Read it.

        Raises:
            UnsupportedSchemaError: its `$schema` is known and lacks what we take for granted, or
                this or its address is no string.
        """
        _check_dialect(schema.get("$schema", ""))
        draft, specification = _DRAFTS.get(_bare(schema.get("$schema")), (2020, DRAFT202012))
        resource = specification.create_resource(schema)
        try:
            uri = resource.id() or _ROOT_URI
        except AttributeError as exc:
            raise UnsupportedSchemaError("keyword '$id' at $ must be a string") from exc
        registry = known_documents().with_resource(uri, resource)
        self._schema = schema
        self.root = Place("$", draft, registry.resolver(uri))

    @property
    def has_recursive_anchor(self) -> bool:
        return any(part.get("$recursiveAnchor") is True for part, _ in self._objects.values())

    @cached_property
    def _objects(self) -> dict[int, tuple[JsonObject, str]]:
        """All objects of the document and their paths, by identity."""
        return {id(part): (part, path) for path, part in _objects(self._schema)}

    def follow(self, reference: Any, place: Place) -> tuple[Schema, Place]:
        """Return the schema that `reference` names, and where it stands.

        Raises:
            UnsupportedSchemaError: it names nothing in this document.
        """
        if not isinstance(reference, str):
            raise UnsupportedSchemaError(
                f"keyword '$ref' at {place.path} must be a string, not {reference!r}"
            )
        try:
            found = place.resolver.lookup(reference)
        except (Unresolvable, ValueError) as exc:
            raise UnsupportedSchemaError(
                f"keyword '$ref' at {place.path} is not supported: {reference[:200]!r} is not part"
                " of the schema, and nothing is fetched; put it under '$defs', or as a file into"
                " the user's folder of schemas"
            ) from exc
        except (AttributeError, TypeError) as exc:  # so it fails where an anchor is a list
            raise UnsupportedSchemaError(
                f"keyword '$ref' at {place.path} cannot be followed: an anchor or an '$id' of the"
                " schema is no string"
            ) from exc
        target = found.contents
        stated = target.get("$schema") if isinstance(target, dict) else None
        draft = _DRAFTS.get(_bare(stated), (place.draft, None))[0]
        _, path = self._objects.get(id(target), (target, reference))
        return target, Place(path, draft, found.resolver)

    def is_static(self, reference: str, place: Place) -> bool:
        """Whether a `$dynamicRef` names the same schema from wherever it is reached."""
        target, _ = self.follow(reference, place)
        name = urldefrag(reference).fragment
        if not isinstance(target, dict) or target.get("$dynamicAnchor") != name:
            return True
        anchors = [part.get("$dynamicAnchor") for part, _ in self._objects.values()]
        return anchors.count(name) == 1


def check_progress(schemas: dict[str, Schema], paths: dict[str, str]) -> None:
    """Refuse references that lead back to themselves without taking a step into the value."""
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise UnsupportedSchemaError(
                f"keyword '$ref' at {paths[name]} is not supported: it leads back to itself"
                " without a step into the value"
            )
        if name not in done:
            for target in _targets_in_place(schemas[name]):
                visit(target, (*above, name))
            done.add(name)

    for name in schemas:
        visit(name, ())


def _targets_in_place(schema: Schema) -> set[str]:
    """Names of what `schema` refers to for the very value that it describes."""
    if isinstance(schema, bool):
        return set()
    targets = {schema["$ref"].removeprefix("#/$defs/")} if "$ref" in schema else set()
    for keyword in ("allOf", "anyOf", "oneOf"):
        for part in schema.get(keyword, ()):
            targets |= _targets_in_place(part)
    return targets


def _check_dialect(uri: Any) -> None:
    """Refuse a dialect in which `type` and the like mean nothing; one that is not known is 2020-12.

    Source: JSON Schema 2020-12 core, section 8.1.2 ("$vocabulary").
    """
    if not isinstance(uri, str):
        raise UnsupportedSchemaError(f"keyword '$schema' at $ must be a string, not {uri!r}")
    if _bare(uri) in _DRAFTS:
        return
    try:
        metaschema = known_documents().get_or_retrieve(uri).value.contents
    except (NoSuchResource, Unretrievable, ValueError):
        return
    vocabularies = metaschema.get("$vocabulary") if isinstance(metaschema, dict) else None
    if isinstance(vocabularies, dict) and _VALIDATION not in vocabularies:
        raise UnsupportedSchemaError(
            f"keyword '$schema' at $ is not supported: {uri[:200]!r} lacks the vocabulary"
            f" {_VALIDATION!r}"
        )


def _specification(draft: int) -> Any:
    return next(specification for number, specification in _DRAFTS.values() if number == draft)


def _bare(uri: Any) -> str:
    return uri.rstrip("#") if isinstance(uri, str) else ""


def _objects(schema: JsonObject) -> Iterator[tuple[str, JsonObject]]:
    """Every object of the document with its path, whether or not it is a schema."""
    pending: list[tuple[str, Any]] = [("$", schema)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, dict):
            yield path, value
            pending += [(f"{path}.{name}", item) for name, item in value.items()]
        elif isinstance(value, list):
            pending += [(f"{path}[{index}]", item) for index, item in enumerate(value)]
