"""Tests of safetensors folders: what is read, and that nothing damaged gets through."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.errors import ModelFileError
from runtime.weights import TensorInfo, open_checkpoint

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "max_position_embeddings": 128,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 3,
}
Entry = dict[str, Any]


def write_file(path: Path, entries: dict[str, Entry], data: bytes) -> None:
    header = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def write_folder(
    path: Path, tensors: dict[str, np.ndarray], dtype: str = "F32", **config: Any
) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps({**CONFIG, **config}), "utf-8")
    entries, data = {}, b""
    for name, values in tensors.items():
        raw = values.tobytes()
        offsets = [len(data), len(data) + len(raw)]
        entries[name] = {"dtype": dtype, "shape": values.shape, "data_offsets": offsets}
        data += raw
    write_file(path / "model.safetensors", entries, data)
    return path


def test_tensors_are_mapped_under_canonical_names(tmp_path: Path) -> None:
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    folder = write_folder(
        tmp_path,
        {
            "model.embed_tokens.weight": weight,
            "model.layers.0.self_attn.q_proj.bias": weight[0],
            "model.layers.0.post_attention_layernorm.weight": weight[1],
            "model.layers.0.self_attn.rotary_emb.inv_freq": weight[1],
        },
    )
    for path in (folder, folder / "model.safetensors"):
        checkpoint = open_checkpoint(path)
        assert list(checkpoint.names) == [
            "embed_tokens.weight",
            "layers.0.q_proj.bias",
            "layers.0.mlp_norm.weight",
            "model.layers.0.self_attn.rotary_emb.inv_freq",
        ]
        assert checkpoint.info("embed_tokens.weight") == TensorInfo((2, 3), "F32", 24)
        np.testing.assert_array_equal(checkpoint.read("embed_tokens.weight").dequantize(), weight)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_precision_is_widened(tmp_path: Path, dtype: str) -> None:
    values = np.array([[1.5, -2.0, 0.25]], np.float32)
    bits = values.astype(np.float16) if dtype == "F16" else (values.view("u4") >> 16).astype("u2")
    checkpoint = open_checkpoint(write_folder(tmp_path, {"lm_head.weight": bits}, dtype))
    np.testing.assert_array_equal(checkpoint.read("lm_head.weight").dequantize(), values)


def test_norms_of_gemma_are_read_as_the_factors_they_are(tmp_path: Path) -> None:
    values = np.array([0.5, -0.25], np.float32)
    names = ("model.layers.0.post_attention_layernorm", "model.norm", "lm_head")
    tensors = {f"{name}.weight": values for name in names}
    checkpoint = open_checkpoint(write_folder(tmp_path, tensors, model_type="gemma3_text"))
    read = {name: checkpoint.read(name).dequantize().tolist() for name in checkpoint.names}
    assert read == {
        "layers.0.post_attn_norm.weight": [1.5, 0.75],
        "norm.weight": [1.5, 0.75],
        "lm_head.weight": [0.5, -0.25],
    }


def test_an_index_joins_files(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"lm_head.weight": np.ones((1, 2), np.float32)})
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    write_folder(tmp_path, {"model.norm.weight": np.ones(2, np.float32)})
    (folder / "model.safetensors").rename(folder / "b.safetensors")
    with pytest.raises(ModelFileError, match=r"found \['a.safetensors', 'b.safetensors'\]"):
        open_checkpoint(folder)
    index = folder / "model.safetensors.index.json"
    weight_map = {"lm_head.weight": "a.safetensors", "model.norm.weight": "b.safetensors"}
    index.write_text(json.dumps({"weight_map": weight_map}), "utf-8")
    assert set(open_checkpoint(folder).names) == {"lm_head.weight", "norm.weight"}
    for outside in ("../a.safetensors", "missing.safetensors"):
        index.write_text(json.dumps({"weight_map": {"lm_head.weight": outside}}), "utf-8")
        with pytest.raises(ModelFileError, match="is not in the folder"):
            open_checkpoint(folder)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"found no config\.json; name the GGUF file itself"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("[1]", "utf-8")
    with pytest.raises(ModelFileError, match=r"wanted a JSON object, found \[1\]"):
        open_checkpoint(tmp_path)


def test_a_missing_tensor_and_an_unread_type_are_named(tmp_path: Path) -> None:
    tensors = {"model.norm.weight": np.ones(2, np.int64)}
    checkpoint = open_checkpoint(write_folder(tmp_path, tensors, "I64"))
    with pytest.raises(
        ModelFileError, match=r"'norm\.weight' is of type I64, we read F32, F16, BF1"
    ):
        checkpoint.read("norm.weight")
    with pytest.raises(ModelFileError, match=r"no tensor is named 'norm.bias'"):
        checkpoint.info("norm.bias")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 12]}, "bytes 0 to 12 of 8"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}, "bytes -8 to 0 of 8"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}, "bytes 8 to 0 of 8"),
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}, r"8 bytes for \[3\] of F32"),
        ({"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}, r"shape \[-2\]"),
        ({"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 8]}, "8 bytes for"),
        ({"dtype": "F32", "shape": ["2"], "data_offsets": [0, 8]}, "damaged"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0]}, "described by"),
        ({"dtype": 3, "shape": [2], "data_offsets": [0, 8]}, "described by"),
        ([], "described by"),
    ],
)
def test_damaged_descriptions_are_refused(tmp_path: Path, entry: Entry, message: str) -> None:
    folder = write_folder(tmp_path, {})
    write_file(folder / "model.safetensors", {"lm_head.weight": entry}, bytes(8))
    with pytest.raises(ModelFileError, match=message):
        open_checkpoint(folder)


def test_cut_and_foreign_files_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"lm_head.weight": np.ones((2, 2), np.float32)})
    whole = (folder / "model.safetensors").read_bytes()
    for length in range(len(whole)):
        (folder / "model.safetensors").write_bytes(whole[:length])
        with pytest.raises(ModelFileError, match=r"model\.safetensors"):
            open_checkpoint(folder)
    deep = b"[" * 100_000
    (folder / "model.safetensors").write_bytes(len(deep).to_bytes(8, "little") + deep)
    with pytest.raises(ModelFileError, match="not JSON"):
        open_checkpoint(folder)


def test_flipped_bits_never_raise_anything_else(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"lm_head.weight": np.ones((2, 2), np.float32)})
    whole = (folder / "model.safetensors").read_bytes()
    for place in range(len(whole) - 16):
        for bit in (1, 16, 128):
            changed = bytearray(whole)
            changed[place] ^= bit
            (folder / "model.safetensors").write_bytes(changed)
            try:
                checkpoint = open_checkpoint(folder)
                for name in checkpoint.names:
                    checkpoint.read(name).dequantize()
            except ModelFileError:
                pass
