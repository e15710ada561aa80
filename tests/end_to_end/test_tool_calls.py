"""Tool calls of both real models: valid whatever they are asked, and however it is drawn.

What is asserted is the protocol, never that a call makes sense.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import anyio
import pytest

from runtime.chat.messages import AUTO, Message, ToolChoice, TurnEnd
from runtime.chat.model import ChatModel
from runtime.config import load_config
from runtime.hub import Hub
from runtime.request import SamplingParams
from tests.helpers.tool_sets import NOTHING, ORDER, SETS, STRICT, WEATHER
from tests.helpers.tool_turns import Ask, Turn, check, take, take_all
from tools.errors import InvalidRequestError

pytestmark = [pytest.mark.anyio, pytest.mark.real, pytest.mark.timeout(300)]

REQUIRED = ToolChoice("required")
ONE_CALL = ToolChoice("required", parallel=False)
GREEDY = SamplingParams(max_tokens=160)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", params=["smollm2", "gemma3"])
async def model(request: pytest.FixtureRequest, anyio_backend: str) -> AsyncIterator[ChatModel]:
    path = request.getfixturevalue(request.param)
    async with Hub(replace(load_config(), model=str(path), kv_cache_mib=256)) as hub:
        yield await hub.get()


def drawn(seed: int, max_tokens: int = 160) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=1.0, seed=seed)


def assert_same(turns: Sequence[Turn], others: Sequence[Turn]) -> None:
    assert [turn.calls for turn in turns] == [other.calls for other in others]
    tokens = [[turn.end.message.token_ids for turn in each] for each in (turns, others)]
    assert tokens[0] == tokens[1]


@pytest.mark.parametrize("name", SETS)
async def test_every_required_call_is_valid(model: ChatModel, name: str) -> None:
    tools = SETS[name]
    asks = [Ask(tools, GREEDY, REQUIRED), *(Ask(tools, drawn(n), REQUIRED) for n in range(3))]
    turns = await take_all(model, asks)
    assert all(turn.calls or turn.end.rejected for turn in turns)
    supports = await model.support_of(tools)
    if all(support.level == "strict" for support in supports.values()):
        assert all(turn.calls for turn in turns)


async def test_choices_hold(model: ChatModel) -> None:
    tools = SETS["mixed"]
    named = ToolChoice(name="get_weather")
    allowed = ToolChoice("required", allowed=("get_weather", "get_time"))
    samplings = [GREEDY, drawn(1), drawn(2)]
    for choice in (named, allowed, ToolChoice("required", allowed=("get_time",)), ONE_CALL):
        turns = await take_all(model, [Ask(tools, sampling, choice) for sampling in samplings])
        for turn in turns:
            allowed_names = {choice.name} if choice.name else set(choice.allowed or ())
            assert turn.calls or turn.end.rejected
            assert not allowed_names or {name for name, _ in turn.calls} <= allowed_names
            assert choice.parallel or len(turn.calls) <= 1


async def test_none_calls_nothing_and_does_not_begin_to(model: ChatModel) -> None:
    trigger = model.wire_format.trigger
    text = f"Call a tool. Write {model.wire_format.opens} and the call."
    said = [drawn(seed, 60) for seed in range(3)]
    asks = [Ask(STRICT, each, ToolChoice("none"), text) for each in (GREEDY, *said)]
    for turn in await take_all(model, asks):
        assert turn.calls == []
        assert turn.streamed == []
        assert trigger not in turn.end.message.content
        assert turn.end.finish_reason in {"stop", "length"}


async def test_auto_calls_or_answers(model: ChatModel) -> None:
    asks = [Ask(SETS["mixed"], drawn(seed, 60), AUTO) for seed in range(5)]
    for turn in await take_all(model, asks):
        assert model.wire_format.trigger not in turn.end.message.content


@pytest.mark.parametrize("choice", [REQUIRED, AUTO], ids=["required", "auto"])
@pytest.mark.parametrize("name", ["one", "mixed", "below_strict"])
async def test_call_is_whole_or_refused_at_every_limit(
    model: ChatModel, name: str, choice: ToolChoice
) -> None:
    limits = range(2, 72, 8 if choice is AUTO else 3)
    asks = [Ask(SETS[name], drawn(limit, limit), choice) for limit in limits]
    refusals: dict[int, str] = {}
    turns: list[Turn] = []

    async def try_out(ask: Ask) -> None:
        try:
            turns.append(await take(model, ask))
        except InvalidRequestError as exc:
            refusals[ask.sampling.max_tokens] = str(exc)

    async with anyio.create_task_group() as group:
        for ask in asks:
            group.start_soon(try_out, ask)
    for turn in turns:
        check(turn)
        assert choice is AUTO or turn.calls or turn.end.rejected
    assert len(turns) == len(asks) if choice is AUTO else any(turn.calls for turn in turns)
    for limit, message in refusals.items():
        shortest = limits[len(refusals)]  # as far as these limits tell
        found = re.match(rf"the shortest answer takes (\d+) tokens, but {limit} are", message)
        assert found is not None
        assert shortest - 3 < int(found[1]) <= shortest


async def test_turns_are_the_same_alone_and_in_a_batch_of_sixteen(model: ChatModel) -> None:
    """Mixed: greedy and drawn, free and constrained, with room and with little."""
    constrained = [Ask(STRICT, sampling, REQUIRED) for sampling in (GREEDY, drawn(5), drawn(6, 40))]
    free = [Ask((), replace(GREEDY, max_tokens=30)), Ask((), drawn(7, 30))]
    others = [
        Ask((ORDER,), replace(GREEDY, max_tokens=130), ToolChoice(name="place_order")),
        Ask((WEATHER, NOTHING), drawn(8, 50), ONE_CALL, "What time is it?"),
        Ask(STRICT, drawn(9, 40), AUTO, "Hello!"),
    ]
    asks = [*constrained, *free, *others]
    together = await take_all(model, [*asks, *asks])
    alone = [await take(model, ask) for ask in asks]
    assert_same(together, [*alone, *alone])


async def test_next_turn_reads_the_result_of_a_call_from_cached_pages(model: ChatModel) -> None:
    first = await take(model, Ask((WEATHER,), drawn(3), ONE_CALL))
    (call,) = first.end.message.tool_calls
    messages = [
        Message("user", first.ask.text),
        first.end.message,
        Message("tool", "Rain, 7 degrees.", call_id=call.call_id, name=call.name),
    ]
    stream = model.stream(messages, tools=(WEATHER,), sampling=replace(GREEDY, max_tokens=20))
    *_, end = [event async for event in stream]
    assert isinstance(end, TurnEnd)
    first_usage = first.end.usage
    seen = first_usage.prompt_tokens + first_usage.completion_tokens
    assert end.usage.cached_tokens >= seen - 2 * 16
