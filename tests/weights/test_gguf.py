"""Tests of the GGUF reader, with files of the `gguf` package and damaged ones."""

import os
from pathlib import Path

import gguf
import numpy as np
import pytest

from runtime.errors import ModelFileError
from runtime.weights import TensorInfo, open_checkpoint
from runtime.weights.names import canonical_name
from tests.helpers.tiny_gguf import write_tiny_llama


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A file of a few hundred bytes with a value of each kind and two tensors."""
    path = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint8("a.u8", 7)
    writer.add_int64("a.i64", -5)
    writer.add_float64("a.f64", 0.1)
    writer.add_bool("a.bool", True)
    writer.add_string("a.text", "grüße")
    writer.add_array("a.texts", ["", "▁x", "\n"])
    writer.add_array("a.numbers", [3, -1])
    writer.add_array("a.flags", [True, False])
    writer.add_tensor("output_norm.weight", np.arange(3, dtype=np.float32))
    packed = gguf.quants.quantize(np.ones((2, 32), np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("blk.0.attn_q.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    _finish(writer)
    return path


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_metadata_and_tensors_come_back_as_written(small: Path) -> None:
    checkpoint = open_checkpoint(small)
    metadata = {
        key: value.tolist() if isinstance(value, np.ndarray) else value
        for key, value in checkpoint.metadata.items()
    }
    assert metadata == {
        "general.architecture": "llama",
        "a.u8": 7,
        "a.i64": -5,
        "a.f64": 0.1,
        "a.bool": True,
        "a.text": "grüße",
        "a.texts": ["", "▁x", "\n"],
        "a.numbers": [3, -1],
        "a.flags": [True, False],
    }
    assert {name: checkpoint.info(name) for name in checkpoint.names} == {
        "norm.weight": TensorInfo((3,), "F32", 12),
        "layers.0.q_proj.weight": TensorInfo((2, 32), "Q8_0", 68),
    }
    assert checkpoint.read("norm.weight").dequantize().tolist() == [0.0, 1.0, 2.0]
    q_proj = checkpoint.read("layers.0.q_proj.weight").dequantize()
    np.testing.assert_allclose(q_proj, np.ones((2, 32)), atol=1e-3)


def test_tensors_equal_those_the_gguf_package_reads(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", tied=False)
    checkpoint = open_checkpoint(path)
    reader = gguf.GGUFReader(path)
    assert checkpoint.names == tuple(canonical_name(tensor.name) for tensor in reader.tensors)
    for tensor in reader.tensors:
        decoded = checkpoint.read(canonical_name(tensor.name)).dequantize()
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(decoded, expected)


def test_missing_tensor_names_the_nearest(small: Path) -> None:
    with pytest.raises(ModelFileError, match=r"named 'norm'; did you mean 'norm\.weight'\?"):
        open_checkpoint(small).read("norm")


def test_file_cut_anywhere_is_refused(small: Path) -> None:
    whole = small.read_bytes()
    cut = small.with_name("cut.gguf")
    # The zeros at the end pad the file; nothing needs them.
    for size in range(len(whole.rstrip(b"\0"))):
        cut.write_bytes(whole[:size])
        with pytest.raises(ModelFileError):
            open_checkpoint(cut)


@pytest.mark.parametrize("flips", [0x01, 0x80, 0xFF])
def test_file_with_any_byte_changed_is_refused_or_stays_within_its_bounds(
    small: Path, flips: int
) -> None:
    whole = small.read_bytes()
    changed = small.with_name("changed.gguf")
    num_refused = 0
    num_header_bytes = whole.index(b"blk.0.attn_q.weight") + 60
    for position in range(num_header_bytes):
        content = bytearray(whole)
        content[position] ^= flips
        changed.write_bytes(content)
        try:
            checkpoint = open_checkpoint(changed)
        except ModelFileError:
            num_refused += 1
            continue
        for name in checkpoint.names:
            assert checkpoint.read(name).dequantize().size <= len(whole)
    assert num_refused > 100


def test_path_without_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    with pytest.raises(ModelFileError, match=r"model\.gguf: cannot be read: "):
        open_checkpoint(path)


def test_file_cut_while_in_use_is_refused_before_its_bytes_are_touched(small: Path) -> None:
    checkpoint = open_checkpoint(small)
    os.truncate(small, small.stat().st_size - 68)
    assert checkpoint.read("norm.weight").dequantize().tolist() == [0.0, 1.0, 2.0]
    with pytest.raises(ModelFileError, match=r"the file was cut to \d+ bytes while in use"):
        checkpoint.read("layers.0.q_proj.weight")
