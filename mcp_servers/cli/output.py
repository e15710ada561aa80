"""The options of `zonda run` that constrain its answer."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tools.errors import ConfigurationError, InvalidRequestError
from tools.spec import JsonObject

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtime.agent.events import AgentEnd
    from runtime.chat.messages import Message
    from runtime.chat.model import Output

Schema = Annotated[
    str | None,
    typer.Option(metavar="FILE|JSON", help="JSON Schema of the answer: a file, or JSON itself."),
]
Regex = Annotated[
    str | None, typer.Option(help="Regular expression that the whole answer matches.")
]
Grammar = Annotated[
    Path | None, typer.Option(help="File with a grammar of the answer, in Lark or GBNF.")
]
Choose = Annotated[
    list[str] | None,
    typer.Option(metavar="ANSWER", help="An answer to choose from; give it once for each."),
]


@dataclass(frozen=True, slots=True)
class Form:
    """What an answer has to look like, for the decoder and for the model."""

    output: Output
    schema: JsonObject | None = None
    options: Sequence[str] = ()

    def tell(self, messages: Sequence[Message]) -> list[Message]:
        """Return the conversation with what the model should know about the form."""
        from mcp_servers.answers import schema_rule, with_options
        from runtime.chat.messages import Message

        if self.options:
            question = with_options(messages[-1].content, self.options)
            return [*messages[:-1], replace(messages[-1], content=question)]
        if self.schema is None:
            return list(messages)
        rule = schema_rule(self.schema)
        if messages[0].role != "system":
            return [Message("system", rule), *messages]
        told = f"{messages[0].content}\n\n{rule}"
        return [replace(messages[0], content=told), *messages[1:]]

    def check(self, end: AgentEnd) -> None:
        """Refuse an answer that is not whole.

        Raises:
            GenerationError: it was cut off, or does not fit the schema.
        """
        from mcp_servers.answers import read_value
        from runtime.errors import GenerationError

        if end.stopped_by in {"tokens", "time", "cancelled"}:
            raise GenerationError(
                f"the answer was cut off (by: {end.stopped_by}) before it had its form; try a"
                " larger --max-tokens"
            )
        if self.schema is not None:
            read_value(self.schema, end.answer)


def read_form(
    schema: str | None, regex: str | None, grammar: Path | None, options: Sequence[str]
) -> Form | None:
    """Return the form that the options ask for; None when there are none.

    Raises:
        InvalidRequestError: two options exclude each other, or one is wrong; says what, where.
        ConfigurationError: a file cannot be read.
    """
    from runtime.chat.messages import OutputSchema
    from runtime.grammar.compile import from_choices, from_grammar, from_regex

    given = {"--schema": schema, "--regex": regex, "--grammar": grammar, "--choose": options}
    names = [name for name, value in given.items() if value not in (None, ())]
    if len(names) > 1:
        raise InvalidRequestError(f"{' and '.join(names)} exclude each other; give one of them")
    if schema is not None:
        read = _read_schema(schema)
        return Form(OutputSchema(read), schema=read)
    if regex is not None:
        return Form(from_regex(regex))
    if grammar is not None:
        return Form(from_grammar(_read_text(grammar, "grammar")))
    return Form(from_choices(options), options=options) if options else None


def _read_schema(given: str) -> JsonObject:
    from tools.validation import schema_problem

    is_json = given.lstrip().startswith("{")
    where = "--schema" if is_json else f"the schema in {given}"
    text = given if is_json else _read_text(Path(given), "schema")
    try:
        schema: Any = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise InvalidRequestError(f"{where} is no JSON: {exc}") from exc
    if not isinstance(schema, dict):
        raise InvalidRequestError(f"{where} has to be a JSON object, not {type(schema).__name__}")
    if (problem := schema_problem(schema)) is not None:
        raise InvalidRequestError(f"{where} is no JSON Schema: {problem}")
    return schema


def _read_text(path: Path, what: str) -> str:
    try:
        return path.read_bytes().decode()
    except OSError as exc:
        raise ConfigurationError(f"cannot read the {what} in {path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"the {what} in {path} is not UTF-8: {exc}") from exc
