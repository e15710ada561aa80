"""What tool servers ask of their client, in both eras, as real processes."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import anyio.lowlevel
import mcp_types as types
import pytest
from mcp import MCPError

from tests.helpers.asking_server import build_asking_server
from tests.helpers.http_tool_servers import serve_server
from tests.helpers.tool_servers import scripted_server
from tools.errors import InvalidRequestError, UnavailableError
from tools.mcp_client.config import ServerConfig, Timeouts
from tools.mcp_client.options import Options, Root, SamplingBudget
from tools.mcp_client.toolset import McpToolset, open_toolset
from tools.questions import Answer, Question
from tools.sampling import (
    SampledCall,
    SampledMessage,
    Sampler,
    SamplingReply,
    SamplingRequest,
)
from tools.spec import JsonObject, ToolResult
from tools.toolset import CallContext

pytestmark = pytest.mark.anyio

HANDSHAKE, MODERN = "2025-11-25", "2026-07-28"
ERAS = (HANDSHAKE, MODERN)
LIMITS = Timeouts(connect_s=5, idle_s=5, total_s=10)
FORM = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "default": 3}},
    "required": ["city"],
}
QUESTION = {"mode": "form", "message": "Where\u200b to?", "requestedSchema": FORM}


@dataclass
class Person:
    """Answers every question with `answer`, and remembers it; with `waits` not before that."""

    answer: Answer
    asked: list[Question] = field(default_factory=list)
    waits: anyio.Event | None = None
    was_asked: anyio.Event = field(default_factory=anyio.Event)

    async def ask(self, question: Question) -> Answer:
        self.asked.append(question)
        self.was_asked.set()
        if self.waits is not None:
            await self.waits.wait()
        return self.answer


@dataclass
class Model:
    """A sampler that says `reply`, or fails."""

    reply: SamplingReply | Exception
    asked: list[SamplingRequest] = field(default_factory=list)

    async def __call__(self, request: SamplingRequest) -> SamplingReply:
        self.asked.append(request)
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply


@asynccontextmanager
async def opened(
    era: str,
    options: Options | None = None,
    sampler: Sampler | None = None,
    limits: Timeouts = LIMITS,
) -> AsyncIterator[McpToolset]:
    """Open a server of the era: a process, or over HTTP."""
    async with AsyncExitStack() as stack:
        stack.enter_context(anyio.fail_after(20))
        config = scripted_server("a", "asking")
        if era == MODERN:
            url = await stack.enter_async_context(serve_server(build_asking_server()))
            config = ServerConfig("a", url=url)
        config = replace(config, options=options or Options(), timeouts=limits)
        yield await stack.enter_async_context(open_toolset({"a": config}, sampler=sampler))


@asynccontextmanager
async def heard(text: str) -> AsyncIterator[None]:
    """Leave once our log has the text."""
    event = anyio.Event()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if text in record.getMessage():
                event.set()

    handler = Handler()
    logging.getLogger("tools").addHandler(handler)
    try:
        yield
        await event.wait()
    finally:
        logging.getLogger("tools").removeHandler(handler)


async def ask_client(
    toolset: McpToolset, method: str, params: JsonObject, person: Person | None = None
) -> ToolResult:
    context = CallContext() if person is None else CallContext(ask=person.ask)
    arguments = {"method": method, "params": params}
    return await toolset.call_tool("a__ask_client", arguments, context)


async def elicit(
    toolset: McpToolset, person: Person | None, params: JsonObject = QUESTION
) -> JsonObject:
    result = await ask_client(toolset, "elicitation/create", params, person)
    assert not result.is_error, result.text
    return answered(result)


def answered(result: ToolResult) -> JsonObject:
    """Return what the server got, which both eras wrap in their own way."""
    assert result.structured is not None
    value: Any = result.structured["result"]
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize("era", ERAS)
async def test_a_question_reaches_the_caller_and_the_answer_the_server(era: str) -> None:
    person = Person(Answer("accept", {"city": "Rome", "foreign": 1}))
    async with opened(era) as toolset:
        assert await elicit(toolset, person) == {
            "action": "accept",
            "content": {"city": "Rome", "days": 3},
        }
        assert person.asked == [Question("The tool server 'a' asks: Where to?", FORM)]
        for action in ("decline", "cancel"):
            told = await elicit(toolset, Person(Answer(action, {"city": "Rome"})))
            assert told == {"action": action}
        assert await elicit(toolset, None) == {"action": "decline"}
        assert toolset.states()["a"].protocol_version == era


@pytest.mark.parametrize("era", ERAS)
async def test_what_is_secret_or_no_form_is_declined_and_nobody_asked(
    era: str, caplog: pytest.LogCaptureFixture
) -> None:
    person = Person(Answer("accept", {"apiKey": "s3"}))
    form = {"type": "object", "properties": {"apiKey": {"type": "string"}}}
    async with opened(era) as toolset:
        told = await elicit(toolset, person, {**QUESTION, "requestedSchema": form})
    assert (told, person.asked) == ({"action": "decline"}, [])
    assert caplog.messages[-1:] != []
    assert (
        "server=a: its question is declined: the field 'apiKey' of its form looks like something "
        "secret"
    ) in caplog.messages


@pytest.mark.parametrize("era", ERAS)
async def test_an_answer_that_does_not_fit_the_form_is_declined(era: str) -> None:
    async with opened(era) as toolset:
        told = await elicit(toolset, Person(Answer("accept", {"city": 7})))
        assert told == {"action": "decline"}


async def test_a_page_is_told_to_the_person_who_goes_there_alone() -> None:
    params = {
        "mode": "url",
        "message": "Please sign in.",
        "url": "https://example.org/x",
        "elicitationId": "1",
    }
    person = Person(Answer("accept"))
    async with opened(HANDSHAKE) as toolset:
        assert await elicit(toolset, person, params) == {"action": "accept"}
        assert await elicit(toolset, person, {**params, "url": "javascript:alert(1)"}) == {
            "action": "decline"
        }
    schema: JsonObject = {"type": "object", "properties": {}}
    message = "The tool server 'a' asks: Please sign in."
    assert person.asked == [Question(message, schema, "https://example.org/x")]


async def test_a_call_that_needs_a_visit_to_a_page_is_made_again_after_it() -> None:
    async with opened(HANDSHAKE) as toolset:
        answers = {"Sign in first.": Answer("decline"), "welcome": Answer("accept")}
        for expected, answer in answers.items():
            person = Person(answer)
            context = CallContext(ask=person.ask)
            result = await toolset.call_tool("a__visit", {}, context)
            assert expected in result.text
            assert [question.url for question in person.asked] == ["https://example.org/in"]


@pytest.mark.parametrize("era", ERAS)
async def test_silence_does_not_count_while_a_person_thinks(era: str) -> None:
    limits = replace(LIMITS, idle_s=0.3)
    waits = anyio.Event()
    person = Person(Answer("accept", {"city": "Rome"}), waits=waits)
    async with opened(era, limits=limits) as toolset, anyio.create_task_group() as group:
        group.start_soon(elicit, toolset, person)
        await person.was_asked.wait()
        await anyio.sleep(2 * limits.idle_s)  # what is tested is that nothing happens meanwhile
        waits.set()


@pytest.mark.parametrize("era", ERAS)
async def test_a_question_ends_with_the_call_that_it_was_for(era: str) -> None:
    limits = replace(LIMITS, idle_s=0.2, total_s=0.5)
    person = Person(Answer("accept"), waits=anyio.Event())
    async with opened(era, limits=limits) as toolset:
        result = await ask_client(toolset, "elicitation/create", QUESTION, person)
        assert "server 'a' took more than 0.5 s" in result.text
        assert len(person.asked) == 1


async def test_a_question_during_no_call_or_calls_of_several_people_is_declined() -> None:
    people = [Person(Answer("accept", {"city": "Rome"})) for _ in range(2)]
    asks: JsonObject = {"method": "elicitation/create", "params": QUESTION}
    async with opened(HANDSHAKE) as toolset:
        async with heard("asked a question during no call: declined"):
            await toolset.call_tool("a__ask_late", asks, CallContext(ask=people[0].ask))
        late = await toolset.call_tool("a__ask_late", {}, CallContext())
        assert late.structured == {"last": [{"result": {"action": "decline"}}]}
        async with anyio.create_task_group() as group:
            hangs = CallContext(ask=people[0].ask)
            group.start_soon(toolset.call_tool, "a__hang", {}, hangs)
            await anyio.wait_all_tasks_blocked()
            assert await elicit(toolset, people[1]) == {"action": "decline"}
            assert await elicit(toolset, people[0]) == {
                "action": "accept",
                "content": {"city": "Rome", "days": 3},
            }
            group.cancel_scope.cancel()
    assert [len(person.asked) for person in people] == [1, 0]


@pytest.mark.parametrize("era", ERAS)
async def test_what_breaks_on_our_side_harms_neither_server_nor_connection(
    era: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(question: Question) -> Answer:
        raise MCPError(types.CONNECTION_CLOSED, "the host has left")

    async with opened(era, budget(), Model(RuntimeError("a bug"))) as toolset:
        context = CallContext(ask=broken)
        arguments = {"method": "elicitation/create", "params": QUESTION}
        asked = await toolset.call_tool("a__ask_client", arguments, context)
        assert answered(asked) == {"action": "cancel"}
        sampled = await ask_client(toolset, "sampling/createMessage", SAMPLE)
        assert "the model failed unexpectedly" in sampled.text
        state = toolset.states()["a"]
        assert (state.status, state.num_restarts) == ("ready", 0)
    assert "its question could not be put" in caplog.text


@pytest.mark.parametrize("since", ["start", "question"])
async def test_a_call_cancelled_at_any_await_leaves_its_turn_and_the_server_free(
    since: str,
) -> None:
    arguments = {"method": "elicitation/create", "params": QUESTION}
    finished: list[int] = []
    async with opened(HANDSHAKE, Options(max_parallel=1)) as toolset:
        await toolset.list_tools()
        for num_awaits in range(25):
            person = Person(Answer("accept", {"city": "Rome"}))
            context = CallContext(ask=person.ask)
            async with anyio.create_task_group() as group:
                event = person.was_asked if since == "question" else None
                group.start_soon(_cancel_after, event, num_awaits, group.cancel_scope)
                await toolset.call_tool("a__ask_client", arguments, context)
                finished.append(num_awaits)
                group.cancel_scope.cancel()
            again = await toolset.call_tool("a__echo", {"text": str(num_awaits)}, context)
            assert again == ToolResult.from_text(str(num_awaits))
        assert toolset.states()["a"].num_restarts == 0
    assert len(finished) < 25


async def _cancel_after(
    event: anyio.Event | None, num_awaits: int, scope: anyio.CancelScope
) -> None:
    if event is not None:
        await event.wait()
    for _ in range(num_awaits):
        await anyio.lowlevel.checkpoint()
    scope.cancel()


async def test_a_storm_of_questions_gets_a_few_to_the_person_and_little_into_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    waits = anyio.Event()
    person = Person(Answer("decline"), waits=waits)
    arguments = {"method": "elicitation/create", "params": QUESTION, "times": 500}
    async with opened(HANDSHAKE) as toolset, anyio.create_task_group() as group:

        async def ask() -> None:
            context = CallContext(ask=person.ask)
            result = await toolset.call_tool("a__ask_often", arguments, context)
            assert result.structured == {"decline": 500}

        async with heard("questions at once"):
            group.start_soon(ask)
        waits.set()
    assert 1 <= len(person.asked) < 500
    assert len([text for text in caplog.messages if "questions at once" in text]) <= 100


async def test_what_a_server_takes_back_is_given_up() -> None:
    left, all_left = list[str](), anyio.Event()

    async def sampler(request: SamplingRequest) -> SamplingReply:
        try:
            await anyio.Event().wait()
        finally:
            left.append(request.server)
            if len(left) == 3:
                all_left.set()
        return REPLY

    asks = {"method": "sampling/createMessage", "params": SAMPLE, "times": 3}
    async with opened(HANDSHAKE, budget(), sampler) as toolset:
        result = await toolset.call_tool("a__ask_and_leave", asks, CallContext())
        assert not result.is_error
        await all_left.wait()


async def test_a_server_of_the_modern_era_may_ask_again_but_not_for_ever() -> None:
    person = Person(Answer("accept", {"city": "Rome"}))
    asks: JsonObject = {"method": "elicitation/create", "params": QUESTION}
    async with opened(MODERN) as toolset:
        context = CallContext(ask=person.ask)
        again = await toolset.call_tool("a__ask_client", {**asks, "rounds": 3}, context)
        assert answered(again)["action"] == "accept"
        assert len(person.asked) == 3
        waits = await toolset.call_tool("a__ask_client", {**asks, "rounds": 0}, context)
        assert waits == ToolResult(structured={"state": "1"})
        ever = await toolset.call_tool("a__ask_client", {**asks, "rounds": 99}, context)
        assert ever == ToolResult.from_text(
            "server 'a' answered the call of a__ask_client with what is no result: "
            "it asked 10 times",
            is_error=True,
        )


@pytest.mark.parametrize("era", ERAS)
async def test_roots_are_those_of_the_configuration(era: str) -> None:
    roots = (Root("file:///data/a%20b", "Data"), Root("file:///x"))
    async with opened(era, Options(roots=roots)) as toolset:
        assert answered(await ask_client(toolset, "roots/list", {})) == {
            "roots": [{"uri": "file:///data/a%20b", "name": "Data"}, {"uri": "file:///x"}]
        }


SAMPLE = {
    "messages": [{"role": "user", "content": {"type": "text", "text": "Hi"}}],
    "systemPrompt": "Be brief.",
    "maxTokens": 1000,
    "temperature": 0.5,
    "stopSequences": ["\n"],
}
SCHEMA = {"type": "object"}
REPLY = SamplingReply("Hello.", "tiny", "endTurn")


def budget(**changes: Any) -> Options:
    return Options(sampling=replace(SamplingBudget(), **changes))


@pytest.mark.parametrize("era", ERAS)
async def test_a_sampling_request_is_answered_by_our_model_within_its_budget(era: str) -> None:
    model = Model(REPLY)
    async with opened(era, budget(max_tokens=64, per_minute=2), model) as toolset:
        for _ in range(2):
            assert answered(await ask_client(toolset, "sampling/createMessage", SAMPLE)) == {
                "role": "assistant",
                "content": {"type": "text", "text": "Hello."},
                "model": "tiny",
                "stopReason": "endTurn",
            }
        third = await ask_client(toolset, "sampling/createMessage", SAMPLE)
        assert "this client answers 2 sampling requests a minute" in third.text
    assert [(x.server, x.max_tokens, x.system, x.stop) for x in model.asked] == [
        ("a", 64, "Be brief.", ("\n",))
    ] * 2
    assert model.asked[0].messages[0].text == "Hi"


@pytest.mark.parametrize("era", ERAS)
async def test_a_server_gets_calls_of_its_own_tools_where_it_may_offer_some(era: str) -> None:
    calls = (SampledCall("1", "look", {"at": "it"}),)
    model = Model(SamplingReply("", "tiny", "toolUse", calls))
    said = [
        {"role": "user", "content": {"type": "text", "text": "Look."}},
        {
            "role": "assistant",
            "content": {"type": "tool_use", "id": "0", "name": "look", "input": {}},
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "toolUseId": "0",
                    "content": [{"type": "text", "text": "x"}],
                }
            ],
        },
    ]
    tools = [{"name": "look", "description": "Looks.", "inputSchema": SCHEMA}]
    params = {**SAMPLE, "messages": said, "tools": tools, "toolChoice": {"mode": "required"}}
    async with opened(era, budget(has_tools=True), model) as toolset:
        assert answered(await ask_client(toolset, "sampling/createMessage", params)) == {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "1", "name": "look", "input": {"at": "it"}}],
            "model": "tiny",
            "stopReason": "toolUse",
        }
    [asked] = model.asked
    assert asked.messages == (
        SampledMessage("user", "Look."),
        SampledMessage("assistant", calls=(SampledCall("0", "look", {}),)),
        SampledMessage("tool", "x", call_id="0"),
    )
    assert ([tool.name for tool in asked.tools], asked.tool_mode) == (["look"], "required")


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("options", "model", "changes", "problem"),
    [
        (Options(), Model(REPLY), {}, "Sampling not supported"),
        (budget(), None, {}, "Sampling not supported"),
        (budget(), Model(REPLY), {"includeContext": "allServers"}, "is refused"),
        (
            budget(),
            Model(REPLY),
            {"tools": [{"name": "x", "inputSchema": SCHEMA}]},
            "sampling.tools",
        ),
        (budget(), Model(REPLY), {"maxTokens": 0}, "maxTokens has to be at least 1"),
        (budget(), Model(InvalidRequestError("too long")), {}, "too long"),
        (budget(), Model(UnavailableError("no model")), {}, "no model"),
    ],
)
async def test_sampling_is_refused_with_the_reason(
    era: str, options: Options, model: Model | None, changes: JsonObject, problem: str
) -> None:
    async with opened(era, options, model) as toolset:
        result = await ask_client(toolset, "sampling/createMessage", {**SAMPLE, **changes})
        assert problem in result.text


@pytest.mark.parametrize("era", ERAS)
async def test_messages_of_a_server_are_in_our_log_as_text(
    era: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(era) as toolset:
        with caplog.at_level(logging.INFO):
            params: Sequence[JsonObject] = [
                {"level": "error", "data": "disk \u202efull"},
                {"level": "warning", "data": {"n": 1}},
                {"level": "info", "data": "private"},
            ]
            for one in params:
                await toolset.call_tool("a__tell_log", {"params": one}, CallContext())
    told = [message for message in caplog.messages if " log " in message]
    assert told == ["server=a log error: disk full", 'server=a log warning: {"n": 1}']


async def test_no_more_calls_at_once_than_configured() -> None:
    limits = Timeouts(connect_s=5, idle_s=0.5, total_s=5)
    results: list[bool] = []

    async def call(toolset: McpToolset) -> None:
        result = await toolset.call_tool("a__turn", {"of": 3}, CallContext())
        results.append(result.is_error)

    for max_parallel, expected in ((3, [False] * 3), (2, [True, True, False])):
        results.clear()
        options = Options(max_parallel=max_parallel)
        async with (
            opened(HANDSHAKE, options, limits=limits) as toolset,
            anyio.create_task_group() as group,
        ):
            for _ in range(3):
                group.start_soon(call, toolset)
        assert sorted(results, reverse=True) == expected
