"""The tools that the suite calls, as a toolset whose calls are runs.

They go through our factory like the tools of the model server: arguments, progress,
questions and tasks are handled by the same code.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import anyio

from mcp_servers.model_server.waiting import answers_by, follow, settle, tied_to
from runtime.agent.runs import Run, Runs
from tools.errors import InvalidArgumentsError, UnknownToolError, ZondaError
from tools.questions import Answer, Question
from tools.spec import Content, JsonObject, MediaContent, TextContent, ToolResult, ToolSpec
from tools.toolset import CallContext, Changes, find_tool
from tools.validation import first_problem

TASK_AFTER_S = 0.3
"""When a call becomes a task here; work that has to be one takes longer."""

SLOW_S = 0.8

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
)
WAV = base64.b64decode("UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA=")

Work = Callable[[Run, JsonObject], Awaitable[ToolResult]]


@dataclass(frozen=True, slots=True)
class FixtureTool:
    """A tool and what its run does."""

    spec: ToolSpec
    work: Work


class FixtureToolset:
    """Offers the fixtures, and by name only those tools that the server answers itself."""

    def __init__(self, runs: Runs, others: Sequence[ToolSpec]) -> None:
        self.runs = runs
        self.changes = Changes()
        self._tools = {tool.spec.name: tool for tool in TOOLS}
        self._specs = [*(tool.spec for tool in TOOLS), *others]

    async def list_tools(self) -> Sequence[ToolSpec]:
        return self._specs

    async def call_tool(self, name: str, arguments: JsonObject, context: CallContext) -> ToolResult:
        run = self.begin(name, arguments, context.principal, can_ask=True)
        with tied_to(run):
            await follow(run, None, context.report_progress, answers_by(context.ask))
        return settle(self.runs, run)

    def begin(
        self, name: str, arguments: JsonObject, principal: str, *, can_ask: bool = False
    ) -> Run:
        spec = find_tool(self._specs, name)
        if (problem := first_problem(spec.input_schema, arguments)) is not None:
            raise InvalidArgumentsError(problem)
        work = self._tools[name].work
        return self.runs.start(lambda run: work(run, arguments), principal, can_ask=can_ask)

    def wait_s(self, name: str, arguments: JsonObject) -> float | None:
        return None


def spec_of(name: str, description: str, /, **properties: JsonObject) -> ToolSpec:
    """Describe a fixture; its arguments are all optional."""
    return ToolSpec(name, description, {"type": "object", "properties": properties})


def says(*content: Content) -> Work:
    """Return always the same."""

    async def work(run: Run, arguments: JsonObject) -> ToolResult:
        return ToolResult(content)

    return work


async def fail(run: Run, arguments: JsonObject) -> ToolResult:
    raise ZondaError("This tool intentionally returns an error for testing")


async def report_progress(run: Run, arguments: JsonObject) -> ToolResult:
    for done in (0, 50, 100):
        run.report(done, 100, f"{done} of 100")
        await anyio.sleep(0.25)  # more often is not passed on
    return ToolResult.from_text("all was reported")


async def greet(run: Run, arguments: JsonObject) -> ToolResult:
    return ToolResult.from_text(f"Hello, {arguments.get('name', 'you')}!")


async def compute_slowly(run: Run, arguments: JsonObject) -> ToolResult:
    await anyio.sleep(float(arguments.get("seconds", 0)))
    return ToolResult.from_text("computed")


async def fail_slowly(run: Run, arguments: JsonObject) -> ToolResult:
    await anyio.sleep(SLOW_S)
    return await fail(run, arguments)


async def break_protocol(run: Run, arguments: JsonObject) -> ToolResult:
    await anyio.sleep(SLOW_S)
    raise UnknownToolError("what_this_needs", [])


def form(message: str, /, **properties: JsonObject) -> Question:
    """A question for these fields, all required."""
    return Question(
        message, {"type": "object", "properties": properties, "required": list(properties)}
    )


def asks(question: Question, key: str, *, after_s: float = 0.0, then_s: float = 0.0) -> Work:
    """Ask once, then tell the answer."""

    async def work(run: Run, arguments: JsonObject) -> ToolResult:
        await anyio.sleep(after_s)
        answer = await _ask(run, question, key)
        await anyio.sleep(then_s)
        return ToolResult.from_text(f"action={answer.action}, content={answer.content}")

    return work


async def ask_in_two_rounds(run: Run, arguments: JsonObject) -> ToolResult:
    name = await _ask(run, form("What is your name?", name=TEXT), "step1")
    colour = await _ask(run, form("Which is your favourite colour?", color=TEXT), "step2")
    return ToolResult.from_text(f"{name.content} {colour.content}")


async def ask_twice_at_once(run: Run, arguments: JsonObject) -> ToolResult:
    await anyio.sleep(SLOW_S)
    answers: dict[str, Any] = {}

    async def ask(key: str) -> None:
        answers[key] = (await _ask(run, form(f"The {key}?", name=TEXT), key)).content

    async with anyio.create_task_group() as tasks:
        for key in ("first", "second"):
            tasks.start_soon(ask, key)
    return ToolResult.from_text(str(answers))


async def _ask(run: Run, question: Question, key: str) -> Answer:
    if not run.can_ask:
        raise ZondaError("this client has nobody who can be asked")
    return await run.ask(question, key)


TEXT: JsonObject = {"type": "string"}
SWITCH: JsonObject = {"type": "boolean"}
NAME = form("What is your name?", name=TEXT)
CONFIRM = form("Please confirm", ok=SWITCH)
USER = form(
    "Please tell who you are",
    username={"type": "string", "description": "Your name"},
    email={"type": "string", "description": "Your address"},
)
DEFAULTS = Question(
    "Please check these",
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "default": "John Doe"},
            "age": {"type": "integer", "default": 30},
            "score": {"type": "number", "default": 95.5},
            "status": {
                "type": "string",
                "enum": ["active", "inactive", "pending"],
                "default": "active",
            },
            "verified": {"type": "boolean", "default": True},
        },
    },
)
_OPTIONS = ["option1", "option2", "option3"]
_TITLED = [{"const": f"value{n}", "title": f"Choice {n}"} for n in (1, 2, 3)]
ENUMS = Question(
    "Please choose",
    {
        "type": "object",
        "properties": {
            "untitledSingle": {"type": "string", "enum": _OPTIONS},
            "titledSingle": {"type": "string", "oneOf": _TITLED},
            "legacyEnum": {
                "type": "string",
                "enum": ["opt1", "opt2", "opt3"],
                "enumNames": ["Option One", "Option Two", "Option Three"],
            },
            "untitledMulti": {"type": "array", "items": {"type": "string", "enum": _OPTIONS}},
            "titledMulti": {"type": "array", "items": {"anyOf": _TITLED}},
        },
    },
)

DIALECT: JsonObject = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": TEXT, "city": TEXT},
        }
    },
    "properties": {
        "name": TEXT,
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": TEXT,
        "email": TEXT,
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}
_ROUNDS = "test_input_required_result"

TOOLS: tuple[FixtureTool, ...] = (
    FixtureTool(
        spec_of("test_simple_text", "Says a text."),
        says(TextContent("This is a simple text response for testing.")),
    ),
    FixtureTool(
        spec_of("test_image_content", "Shows an image."),
        says(MediaContent("image", PNG, "image/png")),
    ),
    FixtureTool(
        spec_of("test_audio_content", "Plays a sound."),
        says(MediaContent("audio", WAV, "audio/wav")),
    ),
    FixtureTool(spec_of("test_error_handling", "Fails."), fail),
    FixtureTool(spec_of("test_tool_with_progress", "Reports progress."), report_progress),
    FixtureTool(spec_of("test_elicitation", "Asks.", message=TEXT), asks(USER, "user")),
    FixtureTool(
        spec_of("test_elicitation_sep1034_defaults", "Asks with defaults."),
        asks(DEFAULTS, "defaults"),
    ),
    FixtureTool(
        spec_of("test_elicitation_sep1330_enums", "Asks for choices."), asks(ENUMS, "choices")
    ),
    FixtureTool(
        ToolSpec("json_schema_2020_12_tool", "Takes what the dialect has.", DIALECT),
        says(TextContent("valid")),
    ),
    FixtureTool(
        spec_of(
            "test_headers",
            "Takes an argument that a header repeats.",
            region={"type": "string", "x-mcp-header": "Region"},
        ),
        says(TextContent("routed")),
    ),
    FixtureTool(spec_of("test_streaming_elicitation", "Asks."), asks(NAME, "user_name")),
    FixtureTool(spec_of(f"{_ROUNDS}_elicitation", "Asks."), asks(NAME, "user_name")),
    FixtureTool(spec_of(f"{_ROUNDS}_request_state", "Asks."), asks(CONFIRM, "confirm")),
    FixtureTool(spec_of(f"{_ROUNDS}_tampered_state", "Asks."), asks(CONFIRM, "confirm")),
    FixtureTool(spec_of(f"{_ROUNDS}_multi_round", "Asks twice."), ask_in_two_rounds),
    FixtureTool(spec_of("greet", "Greets.", name=TEXT), greet),
    FixtureTool(
        spec_of("slow_compute", "Takes its time.", seconds={"type": "number"}, label=TEXT),
        compute_slowly,
    ),
    FixtureTool(spec_of("failing_job", "Fails after a while."), fail_slowly),
    FixtureTool(spec_of("protocol_error_job", "Breaks after a while."), break_protocol),
    FixtureTool(
        spec_of("confirm_delete", "Asks after a while.", filename=TEXT),
        asks(form("Delete it?", confirm=SWITCH), "confirm", after_s=SLOW_S),
    ),
    FixtureTool(spec_of("multi_input", "Asks two things after a while."), ask_twice_at_once),
    FixtureTool(
        spec_of("test_tool_with_task", "Asks, and then takes a while."),
        asks(NAME, "user_name", then_s=SLOW_S),
    ),
)
