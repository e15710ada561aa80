"""What schemas may refer to by its address: the drafts' own schemas, and a user's files.

Nothing is fetched. For `https://example.com/shop/address.json` the folder `schemas`, beside
zonda.toml, may have the file `example.com/shop/address.json`.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from urllib.parse import unquote, urlsplit

import jsonschema_specifications  # type: ignore[import-untyped]
import platformdirs
from referencing import Registry, Resource
from referencing.exceptions import NoSuchResource
from referencing.jsonschema import DRAFT202012, SchemaRegistry, SchemaResource

MAX_DOCUMENT_BYTES = 1024 * 1024


def schemas_folder() -> Path:
    """Where the documents are, in a folder for each host; it need not be there."""
    return platformdirs.user_config_path("zonda") / "schemas"


@functools.cache
def known_documents() -> SchemaRegistry:
    """All documents that schemas may refer to; whoever looks one up reads it."""
    documents: SchemaRegistry = Registry(retrieve=_read)  # type: ignore[call-arg]  # as below
    return documents.combine(jsonschema_specifications.REGISTRY)


def _read(uri: str) -> SchemaResource:
    """Read the document of an address.

    Raises:
        NoSuchResource: there is none, or it is no JSON Schema.
    """
    return _read_file(schemas_folder(), uri)


@functools.lru_cache(maxsize=256)
def _read_file(folder: Path, uri: str) -> SchemaResource:
    address = urlsplit(uri)
    names = [address.netloc, *unquote(address.path).split("/")[1:]]
    if address.scheme not in {"http", "https"} or not all(_is_name(name) for name in names):
        raise _missing(uri)
    try:
        with folder.joinpath(*names).open("rb") as file:
            content = file.read(MAX_DOCUMENT_BYTES + 1)
        schema = json.loads(content) if len(content) <= MAX_DOCUMENT_BYTES else None
    except (OSError, ValueError, RecursionError) as exc:
        raise _missing(uri) from exc
    if not isinstance(schema, dict | bool):
        raise _missing(uri)
    return Resource.from_contents(schema, default_specification=DRAFT202012)


def _missing(uri: str) -> NoSuchResource:
    return NoSuchResource(ref=uri)  # type: ignore[call-arg]  # attrs makes its constructor


def _is_name(text: str) -> bool:
    return text not in {"", ".", ".."} and not any(sign in text for sign in "/\\\0")
