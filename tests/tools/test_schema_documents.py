"""Documents that schemas refer to are read from the user's folder, and from nowhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import UnsupportedSchemaError
from runtime.grammar.compile import grade_schema
from tests.helpers.tiny_tokenizer import tiny_tokenizer
from tests.helpers.vocabularies import vocabulary_of
from tools.schema_documents import MAX_DOCUMENT_BYTES, schemas_folder
from tools.spec import JsonObject
from tools.validation import first_problem

VOCABULARY = vocabulary_of(tiny_tokenizer())
ADDRESS = "https://shop.example/v1/address.json"


@pytest.fixture(autouse=True)
def documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder of documents, with one in it."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    street = {"$id": ADDRESS, "type": "object", "properties": {"street": {"$ref": "text.json"}}}
    write("shop.example/v1/address.json", json.dumps(street))
    write("shop.example/v1/text.json", '{"type": "string"}')
    return schemas_folder()


def write(name: str, content: str) -> None:
    path = schemas_folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def is_known(reference: str) -> bool:
    """Whether the grammar and the final check agree that it is."""
    schema: JsonObject = {"$ref": reference}
    problem = first_problem(schema, {})
    if problem is None:
        grade_schema(schema, VOCABULARY)
        return True
    assert "is not part of it" in problem
    with pytest.raises(UnsupportedSchemaError, match="is not part of the schema"):
        grade_schema(schema, VOCABULARY)
    return False


def test_what_a_document_and_those_it_refers_to_say_is_enforced() -> None:
    schema: JsonObject = {"properties": {"to": {"$ref": ADDRESS}}}
    assert grade_schema(schema, VOCABULARY).level == "strict"
    assert first_problem(schema, {"to": {"street": "Elm"}}) is None
    assert first_problem(schema, {"to": {"street": 5}}) == "$.to.street: 5 is not of type 'string'"


def test_the_drafts_own_schemas_are_known() -> None:
    schema = {"$ref": "https://json-schema.org/draft/2020-12/schema"}
    assert first_problem(schema, {"type": "string"}) is None
    assert first_problem(schema, {"type": 5}) is not None
    assert grade_schema(schema, VOCABULARY).level == "lenient"


@pytest.mark.parametrize(
    "reference",
    [
        "https://shop.example/v1/other.json",
        "https://shop.example/v1/",
        "https://shop.example",
        "https:///etc/passwd",
        "https://shop.example/../../secret.json",
        "https://shop.example/%2e%2e/%2E%2E/secret.json",
        "https://shop.example/v1/..%2f..%2f..%2fsecret.json",
        "https://../secret.json",
        "https://shop.example/v1/a\0b",
        "https://shop.example/v1/" + "long" * 100,
        "file:///etc/passwd",
        "urn:shop:address",
        "https://[broken/address.json",
    ],
)
def test_nothing_outside_of_the_folder_is_read(documents: Path, reference: str) -> None:
    (documents.parent / "secret.json").write_text("{}", encoding="utf-8")
    assert not is_known(reference)


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"', "null", "[" * 100_000, "\ud800"])
def test_what_is_no_schema_is_as_good_as_not_there(documents: Path, content: str) -> None:
    path = documents / "shop.example/broken.json"
    path.write_bytes(content.encode(errors="surrogatepass"))
    assert not is_known("https://shop.example/broken.json")


def test_documents_have_a_size() -> None:
    whole: dict[str, Any] = {"description": "x" * (MAX_DOCUMENT_BYTES - 100)}
    write("shop.example/large.json", json.dumps(whole))
    write("shop.example/larger.json", json.dumps({**whole, "title": "y" * 100}))
    assert is_known("https://shop.example/large.json")
    assert not is_known("https://shop.example/larger.json")
