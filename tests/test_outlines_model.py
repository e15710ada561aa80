"""Tests of Zonda as an outlines model, on a tiny random checkpoint."""

from __future__ import annotations

import ast
import dataclasses
import datetime
import enum
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.lowlevel
import pytest
from anyio.from_thread import start_blocking_portal
from outlines.generator import AsyncBlackBoxGenerator, BlackBoxGenerator
from outlines.inputs import Chat
from outlines.types import CFG, Regex, digit, either, exactly
from pydantic import BaseModel, Field, TypeAdapter

from runtime.chat.messages import Message
from runtime.config import Config
from runtime.errors import GenerationError, ModelFileError, UnsupportedSchemaError
from runtime.hub import Hub
from runtime.outlines_model import (
    AsyncOutlinesModel,
    OutlinesModel,
    OutlinesTypeAdapter,
    open_outlines_model,
)
from tests.helpers.scripted_chat_model import ScriptedChatModel, ScriptedTurn, play
from tests.helpers.tiny_gguf import write_tiny_llama
from tools.errors import InvalidRequestError


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Pet(BaseModel):
    colour: Colour
    age: int = Field(ge=0, le=30)


@dataclasses.dataclass
class Point:
    x: Literal[1, 2]
    y: bool


def add(a: Literal[1, 2], b: bool) -> int:
    return a + b


def of_outlines(model: OutlinesModel | AsyncOutlinesModel) -> Any:
    """The generators' signatures list outlines' own models only."""
    return model


def json_of(output_type: Any) -> Callable[[str], Any]:
    return TypeAdapter(output_type).validate_json


def either_of(*parsers: Callable[[str], Any]) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        for parser in parsers[:-1]:
            try:
                return parser(text)
            except ValueError:
                pass
        return parsers[-1](text)

    return parse


def member_of(*values: str) -> Callable[[str], Any]:
    return lambda text: values.index(text)


TYPES: dict[str, tuple[Any, Callable[[str], Any]]] = {
    "pydantic": (Pet, json_of(Pet)),
    "dataclass": (Point, json_of(Point)),
    "function": (add, lambda text: add(**json_of(dict[str, Any])(text))),
    "schema": ({"type": "array", "items": {"enum": [1, 2]}, "maxItems": 3}, json_of(list[int])),
    "literal": (Literal["yes", "no"], member_of("yes", "no")),
    "enum": (Colour, Colour),
    "bool": (bool, member_of("True", "False")),
    "date": (datetime.date, datetime.date.fromisoformat),
    "time": (datetime.time, datetime.time.fromisoformat),
    "datetime": (datetime.datetime, datetime.datetime.fromisoformat),
    "regex": (Regex("[a-c]{3}-[0-9]"), lambda text: ["abc".index(x) for x in text[:3]]),
    "dsl": (exactly(2, digit) + either("km", "mi"), lambda text: int(text[:-2])),
    "cfg": (CFG('start: "(" item ")"\nitem: "a" | "[" item "]" "!"'), member_of("(a)", "([a]!)")),
    "union": (Pet | Literal["none"], either_of(json_of(Pet), member_of("none"))),
    "optional": (Colour | None, either_of(Colour, member_of("None"))),
    "list": (tuple[bool, Pet, Literal[1]], lambda text: ast.literal_eval(text)[1]["age"] + 1),
}  # fmt: skip


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    path = write_tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf")
    return Config(model=str(path), kv_cache_mib=8, threads=1, device="cpu")


@pytest.fixture(scope="module")
def model(config: Config) -> Iterator[OutlinesModel]:
    with open_outlines_model(config=config) as opened:
        yield opened


@pytest.mark.parametrize("name", TYPES)
def test_every_output_parses_as_its_type(model: OutlinesModel, name: str) -> None:
    output_type, parse = TYPES[name]
    generate = BlackBoxGenerator(of_outlines(model), output_type)
    for seed in range(5):
        parse(generate("Say something.", temperature=2.0, seed=seed))


def test_calls_generators_streams_and_batches_agree(model: OutlinesModel) -> None:
    generate = BlackBoxGenerator(of_outlines(model), Pet)
    answer = generate("A pet?")
    assert model("A pet?", Pet) == answer
    assert "".join(generate.stream("A pet?")) == "".join(model.stream("A pet?", Pet)) == answer
    assert generate.batch(["A pet?", "A pet?"]) == [answer, answer]
    assert model.batch(["A pet?"], Pet) == [answer]
    assert model.batch([], Pet) == []


@pytest.mark.anyio
async def test_asynchronous_model_gives_the_same(model: OutlinesModel, config: Config) -> None:
    answer = await anyio.to_thread.run_sync(model.generate, "A pet?", Pet)
    with anyio.fail_after(30):
        async with Hub(config) as hub:
            asynchronous = AsyncOutlinesModel(await hub.get())
            generate = AsyncBlackBoxGenerator(of_outlines(asynchronous), Pet)
            assert await generate("A pet?") == answer
            assert await generate.batch(["A pet?"] * 3) == [answer] * 3
            assert "".join([piece async for piece in generate.stream("A pet?")]) == answer
            assert await asynchronous("A pet?", Pet) == answer
            assert await asynchronous.batch(["A pet?"], Pet) == [answer]
            pieces = [piece async for piece in asynchronous.stream("A pet?", Pet)]
    assert "".join(pieces) == answer


def test_free_text_may_be_cut_and_a_type_may_not(model: OutlinesModel) -> None:
    assert model("Hi", max_tokens=3) == "".join(model.stream("Hi", max_tokens=3))
    with pytest.raises(InvalidRequestError, match="the shortest answer takes 19 tokens, but 3"):
        model("Hi", Pet, max_tokens=3)


def test_chats_become_messages() -> None:
    chat = Chat([{"role": "system", "content": "Be brief."}])
    chat.add_user_message(["Look", "here"])
    chat.add_assistant_message([{"type": "text", "text": "Yes."}])
    assert OutlinesTypeAdapter().format_input(chat) == (
        Message("system", "Be brief."),
        Message("user", "Look\nhere"),
        Message("assistant", "Yes."),
    )


@pytest.mark.parametrize(
    ("model_input", "message"),
    [
        (["a", "b"], "the model reads a str or an outlines Chat, not list"),
        (
            Chat([{"role": "tool", "content": "x"}]),
            "a message's role is one of system, user, assistant, not 'tool'",
        ),
        (Chat([{"role": "user", "content": [b"png"]}]), "the model reads text, not bytes"),
        (Chat([]), "a conversation needs at least one message"),
    ],
)
def test_what_is_no_text_is_refused(model: OutlinesModel, model_input: Any, message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        model(model_input)
    assert str(caught.value) == message


def test_unsupported_types_and_keywords_are_errors_of_ours(model: OutlinesModel) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: model("Hi", bytes),
        lambda: model.batch(["Hi"], bytes),
        lambda: list(model.stream("Hi", bytes)),
    ]
    for call in calls:
        with pytest.raises(UnsupportedSchemaError, match=r"^<class 'bytes'> is no output type: "):
            call()
    with pytest.raises(InvalidRequestError, match=r"'max_token'; did you mean 'max_tokens'\?"):
        model("Hi", max_token=3)
    with pytest.raises(InvalidRequestError, match="backend='xgrammar'"):
        model("Hi", Pet, "xgrammar")


def test_stream_that_is_left_ends_its_turn() -> None:
    scripted = ScriptedChatModel(play(ScriptedTurn("on and", hangs=True)))
    with start_blocking_portal() as portal:
        model = OutlinesModel(scripted, portal)
        with closing(model.stream("Hi")) as pieces:
            assert next(pieces) == "on "
            assert scripted.num_open == 1
        while scripted.num_open > 0:
            portal.call(anyio.lowlevel.checkpoint)


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (ScriptedTurn("a", finish_reason="error", error="no pages"), "no pages"),
        (ScriptedTurn("a", raises=GenerationError("gone")), "gone"),
    ],
)
def test_turn_that_fails_is_an_error_of_its_own_call(turn: ScriptedTurn, message: str) -> None:
    good = ScriptedTurn("a")
    scripted = ScriptedChatModel(play(turn, good, turn, turn, good))
    with start_blocking_portal() as portal:
        model = OutlinesModel(scripted, portal)
        with pytest.raises(GenerationError, match=f"^{message}$"):
            model("Hi")
        assert model("Hi") == "a"
        with pytest.raises(GenerationError, match=f"^{message}$"):
            list(model.stream("Hi"))
        with pytest.raises(GenerationError, match=f"^{message}$"):
            model.batch(["Hi", "Hi"])
    assert scripted.num_open == 0


def test_several_threads_share_a_model(model: OutlinesModel) -> None:
    answers: list[str] = []
    threads = [
        threading.Thread(target=lambda: answers.append(model("A pet?", Pet))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == [model("A pet?", Pet)] * 4


def test_model_that_cannot_be_loaded_is_an_error_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF")
    with (
        pytest.raises(ModelFileError, match=r"bad\.gguf|truncated|ends"),
        open_outlines_model(str(tmp_path / "bad.gguf")),
    ):
        raise AssertionError("it was opened")
