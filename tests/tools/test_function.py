"""Functions as tools: schemas, conversion, and failures as values."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Literal

import anyio
import pytest
from pydantic import BaseModel, Field

from tools.errors import InvalidArgumentsError, UnknownToolError
from tools.function import FunctionToolset, function_tool
from tools.spec import JsonObject, TextContent, ToolAnnotations, ToolResult, ToolSpec
from tools.toolset import CallContext

pytestmark = pytest.mark.anyio
CONTEXT = CallContext()


@dataclass(frozen=True)
class Point:
    x: int
    y: int


class Tree(BaseModel):
    children: list[Tree] = []


def scale(point: Point, factor: Annotated[float, Field(gt=0)] = 2.0) -> Point:
    """Scale a point.

    Args:
        point: not part of the description.
    """
    return Point(int(point.x * factor), int(point.y * factor))


async def test_annotations_become_schemas_and_the_docstring_the_description() -> None:
    hints = ToolAnnotations(read_only=True)
    toolset = FunctionToolset(function_tool(scale, title="Scale", annotations=hints))
    point = {
        "title": "Point",
        "type": "object",
        "properties": {"x": {"type": "integer"}, "y": {"type": "integer"}},
        "required": ["x", "y"],
        "additionalProperties": False,
    }
    returned_point = {key: point[key] for key in ("type", "properties", "required")}
    assert await toolset.list_tools() == [
        ToolSpec(
            name="scale",
            title="Scale",
            description="Scale a point.",
            input_schema={
                "type": "object",
                "$defs": {"Point": point},
                "properties": {
                    "point": {"$ref": "#/$defs/Point"},
                    "factor": {"type": "number", "exclusiveMinimum": 0, "default": 2.0},
                },
                "required": ["point"],
                "additionalProperties": False,
            },
            output_schema=returned_point,
            annotations=hints,
        )
    ]


async def test_arguments_arrive_as_the_declared_types_and_results_leave_as_json() -> None:
    toolset = FunctionToolset(scale)
    result = await toolset.call_tool("scale", {"point": {"x": 1, "y": 2}, "factor": 3}, CONTEXT)
    assert result == ToolResult((TextContent('{"x": 3, "y": 6}'),), {"x": 3, "y": 6})


async def test_a_value_that_is_no_object_is_wrapped() -> None:
    def repeat(text: str, times: int = 2) -> str:
        return text * times

    toolset = FunctionToolset(repeat)
    [spec] = await toolset.list_tools()
    assert spec.output_schema == {
        "type": "object",
        "properties": {"result": {"type": "string"}},
        "required": ["result"],
    }
    result = await toolset.call_tool("repeat", {"text": "ab"}, CONTEXT)
    assert result == ToolResult((TextContent("abab"),), {"result": "abab"})


@pytest.mark.parametrize(
    ("returned", "schema"),
    [(None, None), (Any, None), (ToolResult, None)],
)
def test_what_says_nothing_about_its_type_has_no_output_schema(
    returned: object, schema: object
) -> None:
    def tool() -> object:
        raise AssertionError("never called")

    tool.__annotations__["return"] = returned
    assert function_tool(tool).spec.output_schema == schema


def test_a_recursive_type_still_has_an_object_at_its_root() -> None:
    def grow(depth: int) -> Tree:
        return Tree()

    schema = function_tool(grow).spec.output_schema
    assert schema is not None
    assert schema["type"] == "object"


async def test_any_parameter_name_works() -> None:
    async def tool(schema: int, _x: int, model_config: int, self: int) -> list[int]:
        return [schema, _x, model_config, self]

    arguments = {"schema": 1, "_x": 2, "model_config": 3, "self": 4}
    result = await FunctionToolset(tool).call_tool("tool", arguments, CONTEXT)
    assert result.structured == {"result": [1, 2, 3, 4]}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({}, "$: 'day' is a required property"),
        ({"day": 3}, "$.day: 3 is not of type 'string'"),
        ({"day": "soon"}, "$.day: Input should be a valid date or datetime, input is too short"),
        ({"day": "2026-01-01", "kind": "c"}, "$.kind: 'c' is not one of ['a', 'b']"),
        (
            {"day": "2026-01-01", "kid": "a"},
            "$: Additional properties are not allowed ('kid' was unexpected)",
        ),
    ],
)
async def test_wrong_arguments_are_an_error_result_that_names_the_place(
    arguments: JsonObject, problem: str
) -> None:
    def plan(day: date, kind: Literal["a", "b"] = "a") -> str:
        raise AssertionError("never called")

    result = await FunctionToolset(plan).call_tool("plan", arguments, CONTEXT)
    assert result == ToolResult.from_text(f"Invalid arguments for plan: {problem}", is_error=True)


async def test_what_a_function_raises_is_an_error_result(caplog: pytest.LogCaptureFixture) -> None:
    def fail(deliberately: bool) -> str:
        if deliberately:
            raise InvalidArgumentsError("x must be even, not 3; try 4")
        raise KeyError("secret words of a user")

    toolset = FunctionToolset(fail)
    known = await toolset.call_tool("fail", {"deliberately": True}, CONTEXT)
    assert known == ToolResult.from_text("x must be even, not 3; try 4", is_error=True)
    unknown = await toolset.call_tool("fail", {"deliberately": False}, CONTEXT)
    assert unknown.is_error
    assert unknown.text == "fail failed: KeyError: 'secret words of a user'"
    assert [r.getMessage() for r in caplog.records if r.levelname != "DEBUG"] == [
        "tool=fail raised KeyError"
    ]


async def test_a_function_that_returns_the_wrong_type_is_an_error_result() -> None:
    def lie() -> int:
        return "three"  # type: ignore[return-value]  # the point of the test

    result = await FunctionToolset(lie).call_tool("lie", {}, CONTEXT)
    assert result.is_error


async def test_sync_functions_do_not_block_the_loop() -> None:
    entered, release = threading.Event(), threading.Event()

    def wait() -> bool:
        entered.set()
        return release.wait(5)

    async def let_go() -> bool:
        release.set()
        return entered.is_set()

    toolset = FunctionToolset(wait, let_go)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(toolset.call_tool, "wait", {}, CONTEXT)
            while not entered.is_set():
                await anyio.lowlevel.checkpoint()
            assert (await toolset.call_tool("let_go", {}, CONTEXT)).structured == {"result": True}


async def test_the_context_is_passed_and_is_no_argument() -> None:
    reports = []

    async def report(done: float, total: float | None, message: str | None) -> None:
        reports.append((done, total, message))

    async def work(steps: int, context: CallContext) -> None:
        for step in range(steps):
            await context.report_progress(step + 1, steps, None)

    toolset = FunctionToolset(work)
    assert list((await toolset.list_tools())[0].input_schema["properties"]) == ["steps"]
    await toolset.call_tool("work", {"steps": 2}, CallContext(report))
    assert reports == [(1, 2, None), (2, 2, None)]


async def test_an_unknown_tool_raises_with_near_names() -> None:
    with pytest.raises(UnknownToolError, match="no tool is named 'scales'; did you mean 'scale'"):
        await FunctionToolset(scale).call_tool("scales", {}, CONTEXT)


def test_a_function_that_cannot_be_a_tool_is_refused_when_it_is_built() -> None:
    def untyped(x):  # type: ignore[no-untyped-def]  # the point of the test
        pass

    def variadic(*xs: int) -> None:
        pass

    def opaque(x: threading.Thread) -> None:
        pass

    for function in (untyped, variadic, opaque):
        with pytest.raises(TypeError, match=function.__name__):
            function_tool(function)
    with pytest.raises(ValueError, match="tool names must differ"):
        FunctionToolset(scale, scale)
