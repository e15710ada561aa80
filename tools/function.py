"""Turns typed Python functions into tools: schemas from annotations, text from docstrings."""

from __future__ import annotations

import inspect
import json
import logging
import re
import typing
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, cast

import anyio.to_thread
from pydantic import (
    ConfigDict,
    Field,
    PydanticSchemaGenerationError,
    TypeAdapter,
    ValidationError,
    create_model,
)
from pydantic.json_schema import GenerateJsonSchema

from tools.errors import UnknownToolError, ZondaError
from tools.spec import JsonObject, TextContent, ToolAnnotations, ToolResult, ToolSpec
from tools.toolset import CallContext
from tools.validation import first_problem

logger = logging.getLogger(__name__)

Function = Callable[..., Any]
_T = TypeVar("_T")

_ANNOTATED: Any = Annotated  # built at run time, which type checkers do not follow
_SECTION = re.compile(r"^(Args|Returns|Raises|Yields|Source|Examples?):\s*$", re.MULTILINE)
_UNNAMED_KINDS = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.VAR_POSITIONAL,
    inspect.Parameter.VAR_KEYWORD,
)


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """A function and how it is offered. Built by `function_tool`."""

    spec: ToolSpec
    function: Function
    arguments: _Arguments
    output: _Output

    async def call(self, arguments: JsonObject, context: CallContext) -> ToolResult:
        """Check the arguments and call; whatever goes wrong is a result with `is_error`."""
        problem = first_problem(self.spec.input_schema, arguments)
        if problem is not None:
            return _error(f"Invalid arguments for {self.spec.name}: {problem}")
        try:
            keywords = self.arguments.parse(arguments, context)
        except ValidationError as exc:
            return _error(f"Invalid arguments for {self.spec.name}: {_first_error(exc)}")
        try:
            return self.output.to_result(await _call(self.function, keywords))
        except ZondaError as exc:
            return _error(str(exc))
        except Exception as exc:
            # A tool that failed is a value its caller reads. The text may quote what a user
            # wrote, so the log has it at DEBUG only.
            logger.debug("tool=%s failed", self.spec.name, exc_info=True)
            logger.warning("tool=%s raised %s", self.spec.name, type(exc).__name__)
            return _error(f"{self.spec.name} failed: {type(exc).__name__}: {exc}")


def function_tool(
    function: Function,
    *,
    name: str | None = None,
    title: str | None = None,
    annotations: ToolAnnotations | None = None,
) -> FunctionTool:
    """Build a tool from a typed function, sync (run in a thread) or async.

    Parameters become the input schema (`Annotated[int, Field(ge=0, description="…")]` says
    more), the return type the output schema; a return type that is no JSON object is wrapped
    as `{"result": …}`. A parameter of type `CallContext` is given the call's context and is no
    argument. The docstring up to its first section is the description.

    Raises:
        TypeError: a parameter has no annotation or cannot be passed by name, or a type has no
            JSON Schema.
    """
    hints = typing.get_type_hints(function, include_extras=True)
    arguments = _Arguments(function, hints)
    output = _Output(function, hints)
    spec = ToolSpec(
        name=name or function.__name__,
        description=_SECTION.split(inspect.getdoc(function) or "", maxsplit=1)[0].strip(),
        input_schema=arguments.schema,
        output_schema=output.schema,
        title=title,
        annotations=annotations or ToolAnnotations(),
    )
    return FunctionTool(spec, function, arguments, output)


class FunctionToolset:
    """Functions as a toolset, in the order given."""

    def __init__(self, *tools: FunctionTool | Function) -> None:
        made = [tool if isinstance(tool, FunctionTool) else function_tool(tool) for tool in tools]
        self._tools = {tool.spec.name: tool for tool in made}
        if len(self._tools) < len(made):
            raise ValueError(f"tool names must differ: {[tool.spec.name for tool in made]}")

    async def list_tools(self) -> Sequence[ToolSpec]:
        return [tool.spec for tool in self._tools.values()]

    async def call_tool(self, name: str, arguments: JsonObject, context: CallContext) -> ToolResult:
        if name not in self._tools:
            raise UnknownToolError(name, self._tools)
        return await self._tools[name].call(arguments, context)


class _Schema(GenerateJsonSchema):
    """JSON Schema without the titles that only repeat names: a model reads every token."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


class _Arguments:
    """The parameters of a function: their schema, and JSON values to keyword arguments."""

    def __init__(self, function: Function, hints: dict[str, Any]) -> None:
        self._names: dict[str, str] = {}  # field of the model -> parameter
        self._context_name: str | None = None
        fields: dict[str, Any] = {}
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind in _UNNAMED_KINDS or parameter.name not in hints:
                raise TypeError(
                    f"{function.__name__}: parameter {parameter} needs a type and must be "
                    "passable by name"
                )
            if hints[parameter.name] is CallContext:
                self._context_name = parameter.name
                continue
            # Fields get names of our own, so that a parameter may be called `schema` or `_x`.
            field = f"field_{len(fields)}"
            self._names[field] = parameter.name
            default = ... if parameter.default is inspect.Parameter.empty else parameter.default
            annotation = _ANNOTATED[hints[parameter.name], Field(alias=parameter.name)]
            fields[field] = (annotation, default)
        config = ConfigDict(extra="forbid")
        self._model = _build(
            function, lambda: create_model("Arguments", __config__=config, **fields)
        )
        self.schema = self._model.model_json_schema(schema_generator=_Schema)
        self.schema.pop("title", None)
        self.schema.setdefault("properties", {})

    def parse(self, arguments: JsonObject, context: CallContext) -> dict[str, Any]:
        """Turn JSON values into the types that the function declares.

        Raises:
            ValidationError: of pydantic; a value does not fit.
        """
        values = self._model.model_validate(arguments)
        keywords = {name: getattr(values, field) for field, name in self._names.items()}
        if self._context_name is not None:
            keywords[self._context_name] = context
        return keywords


class _Output:
    """The return type of a function: its schema, and a returned value to a result."""

    def __init__(self, function: Function, hints: dict[str, Any]) -> None:
        declared = hints.get("return", Any)
        self._is_result = declared is ToolResult
        self.schema: JsonObject | None = None
        if self._is_result:
            return
        self._adapter: TypeAdapter[Any] = _build(function, lambda: TypeAdapter(declared))
        schema = self._adapter.json_schema(mode="serialization", schema_generator=_Schema)
        self._is_object = _is_object(schema)
        if declared is Any or declared is type(None):
            return
        if not self._is_object:
            definitions = schema.pop("$defs", None)
            schema = {"type": "object", "properties": {"result": schema}, "required": ["result"]}
            schema |= {"$defs": definitions} if definitions else {}
        schema.pop("title", None)
        self.schema = {"type": "object"} | schema  # MCP wants the type at the root, `$ref` or not

    def to_result(self, value: Any) -> ToolResult:
        if self._is_result:
            return cast(ToolResult, value)
        data = self._adapter.dump_python(self._adapter.validate_python(value), mode="json")
        text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
        structured = None
        if self.schema is not None:
            structured = data if self._is_object else {"result": data}
        return ToolResult(content=(TextContent(text),), structured=structured)


def _is_object(schema: JsonObject) -> bool:
    if "$ref" in schema:
        schema = schema["$defs"][schema["$ref"].rsplit("/", 1)[-1]]
    return schema.get("type") == "object"


def _build(function: Function, build: Callable[[], _T]) -> _T:
    try:
        return build()
    except PydanticSchemaGenerationError as exc:
        raise TypeError(f"{function.__name__}: {exc}") from exc


async def _call(function: Function, keywords: dict[str, Any]) -> Any:
    if inspect.iscoroutinefunction(function):
        return await cast(Awaitable[Any], function(**keywords))
    return await anyio.to_thread.run_sync(lambda: function(**keywords), abandon_on_cancel=True)


def _first_error(exc: ValidationError) -> str:
    error = exc.errors(include_url=False, include_context=False)[0]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"])
    return f"${path}: {error['msg']}"


def _error(text: str) -> ToolResult:
    return ToolResult.from_text(text, is_error=True)
