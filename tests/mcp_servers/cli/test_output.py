"""`zonda run` with a form for its answer: options, errors, and answers of a tiny model."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from mcp_servers.cli import app
from mcp_servers.cli.errors import exit_status
from mcp_servers.cli.output import Form, read_form
from runtime.agent.events import AgentEnd, StoppedBy
from runtime.chat.messages import Message, OutputSchema
from runtime.errors import GenerationError
from runtime.grammar.compile import from_choices, from_grammar, from_regex
from runtime.request import Usage
from tests.helpers.tiny_gguf import write_tiny_llama
from tools.errors import ConfigurationError, InvalidRequestError, ZondaError

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"n": {"enum": [1, 2]}, "ok": {"type": "boolean"}},
    "required": ["n", "ok"],
}


def form_of(
    schema: str | None = None,
    regex: str | None = None,
    grammar: Path | None = None,
    options: tuple[str, ...] = (),
) -> Form | None:
    return read_form(schema, regex, grammar, options)


def test_each_option_is_a_form(tmp_path: Path) -> None:
    schema, grammar = tmp_path / "schema.json", tmp_path / "grammar.gbnf"
    schema.write_text(json.dumps(SCHEMA), encoding="utf-8")
    grammar.write_text('root ::= "é"+', encoding="utf-8")
    assert form_of() is None
    for given in (json.dumps(SCHEMA), str(schema)):
        assert form_of(schema=given) == Form(OutputSchema(SCHEMA), schema=SCHEMA)
    assert form_of(regex="a+") == Form(from_regex("a+"))
    assert form_of(grammar=grammar) == Form(from_grammar('root ::= "é"+'))
    assert form_of(options=("a,b", "c")) == Form(from_choices(["a,b", "c"]), options=("a,b", "c"))


def test_model_is_told_the_schema_and_the_options_and_no_pattern() -> None:
    system, user = Message("system", "Be brief."), Message("user", "Which?")
    form = form_of(schema='{"type":"null"}')
    assert form is not None
    rule = 'Answer with one JSON value that fits this JSON Schema: {"type": "null"}'
    assert form.tell([user]) == [Message("system", rule), user]
    assert form.tell([system, user]) == [Message("system", f"Be brief.\n\n{rule}"), user]
    form = form_of(options=("a", "b"))
    assert form is not None
    asked = "Which?\n\nAnswer with exactly one of these options:\n- a\n- b"
    assert form.tell([system, user]) == [system, Message("user", asked)]
    form = form_of(regex="a")
    assert form is not None
    assert form.tell([system, user]) == [system, user]


WRONG: list[tuple[dict[str, Any], type[ZondaError], str]] = [
    (
        {"schema": "{}", "options": ("a",)},
        InvalidRequestError,
        "--schema and --choose exclude each other; give one of them",
    ),
    ({"schema": "{"}, InvalidRequestError, "--schema is no JSON: Expecting property name"),
    (
        {"schema": '{"type":"text"}'},
        InvalidRequestError,
        "--schema is no JSON Schema: $: the schema itself is invalid at $.type: 'text' is not",
    ),
    ({"schema": "/nowhere"}, ConfigurationError, "cannot read the schema in /nowhere: No such"),
    ({"grammar": Path("/")}, ConfigurationError, "cannot read the grammar in /: Is a directory"),
    ({"regex": "a("}, InvalidRequestError, "the regular expression is not supported: unclosed"),
    ({"options": ("a", "")}, InvalidRequestError, "options must be at least one, and none"),
]


@pytest.mark.parametrize(("given", "error", "message"), WRONG)
def test_wrong_option_is_told(given: dict[str, Any], error: type[ZondaError], message: str) -> None:
    with pytest.raises(error) as caught:
        form_of(**given)
    assert str(caught.value).startswith(message)


def test_wrong_files_are_told(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match="is not UTF-8"):
        form_of(grammar=file)
    file.write_text("[]", encoding="utf-8")
    with pytest.raises(InvalidRequestError, match="has to be a JSON object, not list"):
        form_of(schema=str(file))
    file.write_text("start: (", encoding="utf-8")
    with pytest.raises(InvalidRequestError, match="line 1, column 9: Expected token"):
        form_of(grammar=file)


@pytest.mark.parametrize(
    ("stopped_by", "answer", "message"),
    [
        ("done", '{"n":1,"ok":true}', None),
        ("steps", '{"n":1,"ok":true}', None),
        ("tokens", '{"n":1', "the answer was cut off (by: tokens) before it had its form"),
        ("time", "", "the answer was cut off (by: time) before it had its form"),
        ("done", '{"n":1', "the model's answer is no JSON"),
        ("done", '{"n":3,"ok":true}', "the model's value does not fit the schema: $.n: 3 is not"),
    ],
)
def test_answer_without_its_form_is_a_failure(
    stopped_by: StoppedBy, answer: str, message: str | None
) -> None:
    form = form_of(schema=json.dumps(SCHEMA))
    assert form is not None
    end = AgentEnd(answer, stopped_by, Usage(), 1, (), ())
    if message is None:
        form.check(end)
        return
    with pytest.raises(GenerationError) as caught:
        form.check(end)
    assert str(caught.value).startswith(message)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf", context_length=4096)


def run(capsys: pytest.CaptureFixture[str], tiny: Path, *arguments: str) -> tuple[int, str]:
    """Run in this process; return the exit status and what went to standard output."""
    given = ["run", "Say something.", "--model", str(tiny), *arguments]
    try:
        status = app(given, prog_name="zonda", standalone_mode=False) or 0
    except ZondaError as exc:
        status = exit_status(exc)
    return status, capsys.readouterr().out


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZONDA_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("ZONDA_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("ZONDA_KV_CACHE_MIB", "16")
    monkeypatch.setenv("ZONDA_DEVICE", "cpu")
    monkeypatch.setenv("ZONDA_THREADS", "1")


def test_answers_have_the_form_that_was_asked_for(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grammar = tmp_path / "grammar.lark"
    grammar.write_text('start: "<" /[a-c]{2,3}/ ">"', encoding="utf-8")
    for arguments, pattern in (
        (["--schema", json.dumps(SCHEMA)], r'\{"n":[12],"ok":(true|false)\}'),
        (["--regex", "[xy]{3}-[0-9]"], "[xy]{3}-[0-9]"),
        (["--grammar", str(grammar)], "<[a-c]{2,3}>"),
        (["--choose", "ja", "--choose", "nein"], "ja|nein"),
    ):
        status, answer = run(capsys, tiny, *arguments)
        assert status == 0
        assert re.fullmatch(pattern, answer.removesuffix("\n"))
    assert run(capsys, tiny, "--regex", "[xy]{9}", "--max-tokens", "2")[0] == 2
    assert run(capsys, tiny, "--regex", "(")[0] == 2


def test_final_answer_has_the_form_beside_tools(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    servers = tmp_path / "servers.json"
    entry = {"command": sys.executable, "args": ["-m", "mcp_servers", "workbench"]}
    servers.write_text(json.dumps({"mcpServers": {"bench": entry}}), encoding="utf-8")
    status, answer = run(capsys, tiny, "--mcp-config", str(servers), "--regex", "[xy]{3}")
    assert status == 0
    assert re.fullmatch("[xy]{3}\n", answer)
