"""Tests of building an engine within the memory there is, and of what a model may be."""

import json
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from safetensors.numpy import save_file

from runtime.chat.messages import Message, TurnEnd
from runtime.config import Config
from runtime.engine.loading import load_runner
from runtime.errors import MemoryShortError
from runtime.hub import Hub
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
