"""The official tests of JSON Schema 2020-12, its required part, against the grammar.

The grammar fixes the order of keys: a valid value counts as refused only if it is in every
order. It enforces `format`, which the draft leaves to the implementation: a value is not
missed where it is valid for that reason alone. Nothing is fetched: what the tests refer to is
in the folder of documents, where a user would put it. A `$schema` that we do not know means
2020-12, as in the final check.

`json_schema_suite.json` holds the outcome. It is exact: what gets worse is an error, and what
gets better has to be written down, with `python -m tests.grammar.test_json_schema_suite`.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from runtime.errors import UnsupportedSchemaError
from runtime.grammar.compile import compile_grammar, from_json_schema, grade_schema
from runtime.grammar.ladder import SchemaLevel
from runtime.grammar.schema import Schema
from tests.helpers.json_spellings import spellings, whole
from tests.helpers.tiny_tokenizer import tiny_tokenizer
from tests.helpers.vocabularies import accepts, vocabulary_of
from tools.schema_documents import schemas_folder
from tools.validation import first_problem

FOLDER = Path(".venv/json-schema-test-suite").resolve()
SUITE = FOLDER / "tests/draft2020-12"
OUTCOME = Path(__file__).with_name("json_schema_suite.json")
TOKENIZER = tiny_tokenizer()
VOCABULARY = vocabulary_of(TOKENIZER)


def test_the_official_suite_comes_out_as_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    _put_documents()
    outcome = _run()
    assert outcome == json.loads(OUTCOME.read_text(encoding="utf-8"))


def test_nearly_all_schemas_are_usable_and_what_they_say_is_what_is_enforced() -> None:
    outcome = json.loads(OUTCOME.read_text(encoding="utf-8"))
    usable = sum(outcome["levels"].values())
    assert usable / outcome["num_schemas"] >= 0.97
    assert usable + sum(map(len, outcome["refused"].values())) == outcome["num_schemas"]
    assert outcome["disagreements"] == []


def _put_documents() -> None:
    """What the tests refer to, as if a user had put it there."""
    schemas_folder().mkdir(parents=True)
    (schemas_folder() / "localhost:1234").symlink_to(FOLDER / "remotes")


def _run() -> dict[str, Any]:
    levels: Counter[str] = Counter()
    refused: dict[str, list[str]] = {"refers elsewhere": [], "unsatisfiable": [], "other": []}
    disagreements: list[str] = []
    num_narrowed = 0
    groups = list(_groups())
    for name, schema, cases in groups:
        try:
            level = grade_schema(schema, VOCABULARY).level
        except UnsupportedSchemaError as exc:
            refused[_reason(str(exc), cases)].append(name)
            continue
        levels[level] += 1
        for case in cases:
            verdict = _judge(schema, level, case)
            num_narrowed += verdict == "narrowed"
            if verdict not in ("agrees", "narrowed"):
                disagreements.append(f"{name}: {verdict}: {case['description']}")
    return {
        "num_schemas": len(groups),
        "levels": dict(sorted(levels.items())),
        "refused": refused,
        "num_narrowed_by_format": num_narrowed,
        "disagreements": disagreements,
    }


def _groups() -> Iterator[tuple[str, Schema, list[dict[str, Any]]]]:
    files = sorted(SUITE.glob("*.json"))
    if not files:
        pytest.fail(f"no tests in {SUITE}; `make {SUITE.parent}` fetches them")
    for path in files:
        for group in json.loads(path.read_text(encoding="utf-8")):
            yield f"{path.stem}: {group['description']}", group["schema"], group["tests"]


def _reason(message: str, cases: list[dict[str, Any]]) -> str:
    if "is not part of the schema" in message:
        return "refers elsewhere"
    return "other" if any(case["valid"] for case in cases) else "unsatisfiable"


def _judge(schema: Schema, level: SchemaLevel, case: dict[str, Any]) -> str:
    value = whole(case["data"])
    is_accepted = _grammar_takes(schema, level, value)
    if case["valid"]:
        if is_accepted:
            return "agrees"
        is_narrowed = _grammar_takes(_without_format(schema), level, value)
        return "narrowed" if is_narrowed else "valid value refused"
    if is_accepted and level == "strict":
        return "invalid value accepted"
    is_refused = not is_accepted or first_problem({"allOf": [schema]}, value) is not None
    return "agrees" if is_refused else "invalid value passes the final check"


def _without_format(schema: Schema) -> Schema:
    if isinstance(schema, bool):
        return schema
    return {keyword: value for keyword, value in schema.items() if keyword != "format"}


def _grammar_takes(schema: Schema, level: SchemaLevel, value: Any) -> bool:
    constraint = compile_grammar(from_json_schema(schema, level=level), VOCABULARY).constraint()
    return any(accepts(constraint, TOKENIZER.encode(text)) for text in spellings(value))


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        os.environ["XDG_CONFIG_HOME"] = folder
        _put_documents()
        OUTCOME.write_text(json.dumps(_run(), indent=1) + "\n", encoding="utf-8")
