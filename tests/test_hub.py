"""Tests of building an engine within the memory there is, and of what a model may be."""

import gc
import json
import shutil
import weakref
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from safetensors.numpy import save_file

from runtime.chat.messages import Message, TurnEnd
from runtime.chat.model import ChatModel
from runtime.chat.support import TemplateFeatures
from runtime.config import Config
from runtime.engine.loading import load_runner
from runtime.engine.tally import EngineState
from runtime.errors import CapacityError, MemoryShortError, UnknownModelError
from runtime.hub import Hub, ModelInfo
from runtime.memory import HEADROOM_BYTES
from runtime.request import SamplingParams
from runtime.tokenizer import load_tokenizer
from runtime.weights import open_checkpoint
from tests.helpers.tiny_gguf import write_tiny_llama

CONFIG = Config(kv_cache_mib=8, threads=1, device="cpu")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


def _context_length(path: Path, config: Config) -> int:
    _, limits = load_runner(open_checkpoint(path), config)
    return limits.context_length


def test_context_is_what_was_asked_for_when_it_fits(tiny: Path) -> None:
    assert _context_length(tiny, replace(CONFIG, context_length=32)) == 32


def test_model_is_refused_when_memory_is_short(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.engine.loading.free_memory", lambda: 1 << 20)
    with pytest.raises(MemoryShortError, match=r"the model needs 0\.0 GiB .* 0\.0 GiB are free"):
        _context_length(tiny, CONFIG)


def _hub_name(name: str) -> str:
    for ours, theirs in (
        ("attn_norm", "input_layernorm"),
        ("mlp_norm", "post_attention_layernorm"),
        *((f"{part}_proj", f"self_attn.{part}_proj") for part in "qkvo"),
        *((f"{part}_proj", f"mlp.{part}_proj") for part in ("gate", "up", "down")),
    ):
        if f".{ours}." in name:
            return name.replace(ours, theirs)
    return name


@pytest.mark.anyio
async def test_folder_of_safetensors_is_a_model(tmp_path: Path, tiny: Path) -> None:
    checkpoint = open_checkpoint(tiny)
    tensors = {
        "model." + _hub_name(name): checkpoint.read(name).dequantize() for name in checkpoint.names
    }
    save_file(tensors, tmp_path / "model.safetensors")
    shape = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 501,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "eos_token_id": 2,
    }
    (tmp_path / "config.json").write_text(json.dumps(shape), encoding="utf-8")
    tokenizer = load_tokenizer(checkpoint.metadata)
    (tmp_path / "tokenizer.json").write_text(tokenizer.json, encoding="utf-8")
    sampling = SamplingParams(max_tokens=4)
    with anyio.fail_after(30):
        async with Hub(replace(CONFIG, model=str(tmp_path))) as hub:
            model = await hub.get()
            turn = model.stream([Message("user", "Hi")], sampling=sampling)
            events = [event async for event in turn]
    assert model.tokenizer.encode("Hi") == tokenizer.encode("Hi")
    assert isinstance(events[-1], TurnEnd)


async def _finish_turn(model: ChatModel) -> TurnEnd:
    turn = model.stream([Message("user", "Hi")], sampling=SamplingParams(max_tokens=4))
    events = [event async for event in turn]
    assert isinstance(events[-1], TurnEnd)
    return events[-1]


@pytest.mark.anyio
async def test_loaded_model_is_described_and_says_what_it_does(tiny: Path) -> None:
    name = str(tiny)
    with anyio.fail_after(30):
        async with Hub(replace(CONFIG, model=name, context_length=64)) as hub:
            assert hub.names == ()
            with pytest.raises(UnknownModelError, match="no model that is loaded is named"):
                hub.info(name)
            model = await hub.get()
            info, end = hub.info(name), await _finish_turn(model)
            states = hub.states()
    assert info == ModelInfo(
        name=name,
        architecture="llama",
        context_length=64,
        trained_context_length=512,
        num_layers=2,
        hidden_size=64,
        vocab_size=501,
        num_parameters=info.num_parameters,
        quantisation=info.quantisation,
        device="cpu",
        weight_bytes=info.weight_bytes,
        kv_bytes=info.kv_bytes,
        can_embed=True,
        template=TemplateFeatures(
            wire_format="hermes",
            renders_tools=False,
            renders_calls=False,
            renders_system=True,
            has_parallel_calls=True,
            has_reasoning=False,
        ),
    )
    checkpoint = open_checkpoint(tiny)
    infos = [checkpoint.info(name) for name in checkpoint.names]
    assert sum(info.quantisation.values()) == sum(one.num_bytes for one in infos)
    assert 501 * 64 < info.num_parameters < 1_000_000
    assert 0 < info.weight_bytes < 4 * info.num_parameters
    assert 7 << 20 < info.kv_bytes <= 8 << 20
    status = states[name]
    assert status == EngineState(
        num_running=0,
        num_waiting=0,
        num_pages=status.num_pages,
        num_used_pages=0,
        page_size=16,
        num_preemptions=0,
        tokens_per_s=status.tokens_per_s,
        tally=status.tally,
    )
    assert status.tally.generated_tokens == end.usage.completion_tokens > 0
    assert status.tokens_per_s > 0


@pytest.mark.anyio
async def test_unloaded_model_gives_back_its_memory_and_can_be_loaded_again(tiny: Path) -> None:
    name = str(tiny)
    with anyio.fail_after(30):
        async with Hub(replace(CONFIG, model=name)) as hub:
            model = await hub.get()
            first = await _finish_turn(model)
            runner = weakref.ref(hub._loaded[name].engine._runner)
            info = hub.info(name)
            stale = model.stream([Message("user", "Hi")])
            del model
            assert await hub.unload(name) == info
            assert (hub.names, hub.find(name)) == ((), None)
            with pytest.raises(CapacityError, match="the engine is closed"):
                await anext(stale)
            del stale
            while runner() is not None:  # a worker thread drops what it did last a moment later
                gc.collect()
                await anyio.sleep(0.001)
            with pytest.raises(UnknownModelError):
                await hub.unload(name)
            again = await _finish_turn(await hub.get(name))
    assert again.message.token_ids == first.message.token_ids


@pytest.mark.anyio
async def test_promised_kv_memory_of_one_model_is_not_given_to_the_next(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = str(shutil.copy(tiny, tmp_path / "other.gguf"))
    free = HEADROOM_BYTES + (12 << 20)
    monkeypatch.setattr("runtime.engine.loading.free_memory", lambda: free)
    with anyio.fail_after(30):
        async with Hub(replace(CONFIG, model=str(tiny))) as hub:
            await hub.get()
            await hub.get(other)
            assert 7 << 20 < hub.info(str(tiny)).kv_bytes <= 8 << 20
            assert hub.info(other).kv_bytes <= 4 << 20
            third = str(shutil.copy(tiny, tmp_path / "third.gguf"))
            with pytest.raises(MemoryShortError):
                await hub.get(third)
            assert hub.names == (str(tiny), other)
            await hub.unload(str(tiny))
            assert 7 << 20 < (await _info(hub, third)).kv_bytes <= 8 << 20


async def _info(hub: Hub, name: str) -> ModelInfo:
    await hub.get(name)
    return hub.info(name)
