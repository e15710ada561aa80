"""Tests of shared prefixes: what they are, who computes them, and what becomes of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import anyio
import anyio.lowlevel
import numpy as np
import pytest

from runtime.chat.catalogue import MAX_PREFIXES, Catalogue, sort_tools
from runtime.chat.messages import Message, TurnEnd
from runtime.chat.model import ChatModel
from runtime.config import Config
from runtime.engine.saved_pages import SavedPages
from runtime.errors import TemplateError
from runtime.hub import Hub
from runtime.request import GenerateRequest, SamplingParams
from tests.helpers.page_runner import SlotMemory
from tests.helpers.scripted_engine import PAGE_SIZE, ScriptedEngine, say
from tests.helpers.scripted_tools import make_spec
from tests.helpers.tiny_gguf import write_tiny_llama
from tests.helpers.tiny_tokenizer import tiny_tokenizer
from tools.spec import ToolSpec

pytestmark = pytest.mark.anyio

TOKENIZER = tiny_tokenizer()
CLOCK, FILES, NOTES = (make_spec(name, server="x") for name in ("clock", "files", "notes"))


def build(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> list[int]:
    system = messages[0].content if len(messages) > 1 else "none"
    tools_text = ", ".join(f"{tool.name}: {tool.description}" for tool in tools)
    text = f"system {system}\ntools {tools_text}\nuser "
    return TOKENIZER.encode(text) + TOKENIZER.encode(messages[-1].content + "\nassistant")


def prefix_of(*tools: ToolSpec, system: str = "none") -> tuple[int, ...]:
    tools_text = ", ".join(f"{tool.name}: {tool.description}" for tool in tools)
    return tuple(TOKENIZER.encode(f"system {system}\ntools {tools_text}\nuser "))


def full_pages(token_ids: tuple[int, ...]) -> tuple[int, ...]:
    return token_ids[: len(token_ids) // PAGE_SIZE * PAGE_SIZE]


def make_engine() -> ScriptedEngine:
    return ScriptedEngine(TOKENIZER, say(""))


def open_saved(folder: Path) -> SavedPages:
    memory = SlotMemory(np.zeros((8, 1), np.int64), 8)
    assert memory.page_bytes == 4 * PAGE_SIZE
    return SavedPages(folder, memory, PAGE_SIZE)


def files_in(folder: Path, pattern: str = "*") -> list[Path]:
    return list(folder.glob(pattern))


def background(prefix: tuple[int, ...], lease: str) -> GenerateRequest:
    return GenerateRequest(
        prefix, SamplingParams(max_tokens=0), lease=lease, lease_s=math.inf, is_background=True
    )


async def test_common_beginning_of_all_prompts_is_computed_once_and_pinned() -> None:
    engine = make_engine()
    catalogue = Catalogue(build, engine)
    await catalogue.warm([CLOCK, FILES])
    prefix = prefix_of(CLOCK, FILES)
    (lease,) = engine.prefixes
    assert engine.requests == [background(prefix, lease)]
    assert engine.prefixes == {lease: full_pages(prefix)}
    await catalogue.warm([CLOCK, FILES])
    assert len(engine.requests) == 1


async def test_callers_at_the_same_time_share_one_prefill() -> None:
    engine = make_engine()
    catalogue = Catalogue(build, engine)
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(catalogue.warm, [CLOCK, FILES])
    assert [request.token_ids for request in engine.requests] == [prefix_of(CLOCK, FILES)]


@pytest.mark.parametrize("is_computing", [False, True])
async def test_caller_that_leaves_takes_nothing_from_the_others(is_computing: bool) -> None:
    engine = make_engine()
    catalogue = Catalogue(build, engine)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as others, anyio.create_task_group() as first:
            first.start_soon(catalogue.warm, [CLOCK, FILES])
            await anyio.lowlevel.checkpoint()
            others.start_soon(catalogue.warm, [CLOCK, FILES])
            while is_computing and not engine.num_open:
                await anyio.lowlevel.checkpoint()
            first.cancel_scope.cancel()
    assert list(engine.prefixes.values()) == [full_pages(prefix_of(CLOCK, FILES))]
    assert engine.num_open == 0
    assert len(engine.requests) == 1 + is_computing


async def test_changed_tools_replace_the_old_ones_of_the_same_system_text() -> None:
    engine = make_engine()
    catalogue = Catalogue(build, engine)
    await catalogue.warm([CLOCK, FILES])
    await catalogue.warm([CLOCK, FILES], system="be brief")
    await catalogue.warm([CLOCK, NOTES])
    wanted = [prefix_of(CLOCK, NOTES), prefix_of(CLOCK, FILES, system="be brief")]
    assert list(engine.prefixes.values()) == [full_pages(prefix) for prefix in wanted]
    assert len(engine.requests) == 3
    await catalogue.warm([CLOCK, FILES])  # the pages are still there
    assert len(engine.requests) == 3


async def test_few_system_texts_are_pinned_and_the_oldest_goes_first() -> None:
    engine = make_engine()
    catalogue = Catalogue(build, engine)
    systems = [f"rule {number}" for number in range(MAX_PREFIXES + 1)]
    for system in (*systems[:-1], systems[0], systems[-1]):
        await catalogue.warm([CLOCK], system=system)
    kept = [full_pages(prefix_of(CLOCK, system=systems[number])) for number in (0, 2, 3, 4)]
    assert sorted(engine.prefixes.values()) == sorted(kept)


async def test_what_fails_is_logged_and_harmless(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> list[int]:
        raise TemplateError("no such role")

    engine = make_engine()
    await Catalogue(refuse, engine).warm([CLOCK])
    await engine.aclose()
    await Catalogue(build, engine).warm([CLOCK])
    await Catalogue(None, engine).warm([CLOCK])  # type: ignore[arg-type]  # a bug of ours
    levels = [record.levelno for record in caplog.records]
    assert levels == [logging.WARNING, logging.WARNING, logging.ERROR]
    assert "no such role" in caplog.text


async def test_next_process_reads_what_this_one_computed(tmp_path: Path) -> None:
    first, second = make_engine(), make_engine()
    await Catalogue(build, first, open_saved(tmp_path)).warm([CLOCK, FILES])
    await Catalogue(build, second, open_saved(tmp_path)).warm([CLOCK, FILES])
    assert len(first.requests) == 1
    assert second.requests == []
    assert second.prefixes == first.prefixes
    assert len(files_in(tmp_path)) == 1


async def test_damaged_file_is_computed_and_written_again(tmp_path: Path) -> None:
    await Catalogue(build, make_engine(), open_saved(tmp_path)).warm([CLOCK, FILES])
    (file,) = files_in(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    engine = make_engine()
    await Catalogue(build, engine, open_saved(tmp_path)).warm([CLOCK, FILES])
    assert len(engine.requests) == 1
    assert file.read_bytes() == whole


async def test_prefix_that_a_turn_computed_is_kept_too(tmp_path: Path) -> None:
    engine = make_engine()
    turn = GenerateRequest(tuple(build([Message("user", "hello")], [CLOCK, FILES])))
    async for _ in engine.generate(turn):
        pass
    await Catalogue(build, engine, open_saved(tmp_path)).warm([CLOCK, FILES])
    assert len(engine.requests) == 1
    assert open_saved(tmp_path).load(prefix_of(CLOCK, FILES)) is not None


def test_tools_have_one_order_however_they_were_listed() -> None:
    tools = [
        make_spec("b", server="x"),
        make_spec("a", server="y"),
        make_spec("c"),
        make_spec("a", server="x"),
    ]
    names = [(tool.server, tool.name) for tool in sort_tools(tools)]
    assert names == [(None, "c"), ("x", "a"), ("x", "b"), ("y", "a")]
    assert sort_tools(tools[::-1]) == sort_tools(tools)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf", context_length=1024)


async def ask(model: ChatModel, text: str) -> TurnEnd:
    sampling = SamplingParams(max_tokens=5)
    stream = model.stream([Message("user", text)], tools=[CLOCK, FILES], sampling=sampling)
    end = [event async for event in stream][-1]
    assert isinstance(end, TurnEnd)
    return end


def config_of(tiny: Path, folder: Path, *, keep: bool) -> Config:
    return Config(
        model=str(tiny),
        cache_dir=folder,
        device="cpu",
        threads=1,
        kv_cache_mib=8,
        keep_catalogues=keep,
    )


@pytest.mark.parametrize("keep", [False, True])
async def test_sessions_and_on_request_the_next_start_find_the_tools_computed(
    tiny: Path, tmp_path: Path, keep: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "runtime.chat.catalogue")
    ends = []
    for is_prepared in (False, True, True):
        with anyio.fail_after(30):
            async with Hub(config_of(tiny, tmp_path, keep=keep)) as hub:
                model = await hub.get()
                if is_prepared:
                    await model.prepare([CLOCK, FILES])
                ends.append(await ask(model, "What time is it?"))
    cold, *warm = ends
    assert cold.usage.cached_tokens == 0
    for end in warm:
        assert end.usage.cached_tokens > 0.8 * end.usage.prompt_tokens
        assert end.message == cold.message
    said = [record.message.rpartition(" are ")[2] for record in caplog.records]
    assert said == ["computed", "read from disk" if keep else "computed"]
    assert len(files_in(tmp_path, "catalogues/*")) == int(keep)


async def test_callers_share_the_tools_and_nothing_that_they_say(
    tiny: Path, tmp_path: Path
) -> None:
    with anyio.fail_after(30):
        async with Hub(config_of(tiny, tmp_path, keep=False)) as hub:
            model = await hub.get()
            await model.prepare([CLOCK, FILES])
            question = "What time is it? " * 20
            ends = [
                await ask(model.for_caller(caller), question)
                for caller in ("ada", "bob", "ada", "bob")
            ]
    first, foreign, again, own = (end.usage.cached_tokens for end in ends)
    assert 0 < first == foreign
    assert first + len(question) // 8 < again == own
    assert [end.message for end in ends] == 4 * [ends[0].message]
