"""Tests of the GGUF reader, with files of the `gguf` package and damaged ones."""

import struct
from collections.abc import Callable
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


def _text(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _key(name: bytes, value_type: int, value: bytes) -> bytes:
    return _text(name) + struct.pack("<I", value_type) + value


def _tensor(
    name: bytes = b"t", dims: tuple[int, ...] = (32,), ggml_type: int = 0, offset: int = 0
) -> bytes:
    numbers = struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, ggml_type, offset)
    return _text(name) + numbers


def _file(*keys: bytes, tensors: tuple[bytes, ...] = (), data: bytes = bytes(128)) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    body = head + b"".join(keys) + b"".join(tensors)
    return body + bytes(-len(body) % 32) + data


HUGE = struct.pack("<Q", 2**63)
_ONE = struct.pack("<I", 1)
DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", r"found one that starts with b''$"),
    "other file": (b"PK\3\4" + bytes(99), r"found one that starts with b'PK\\x03\\x04'$"),
    "magic only": (b"GGUF", r"the version needs 4 bytes, 0 are left in the file \(at byte 4\)"),
    "version 1": (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), r"found 1 \(at byte 4\)"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), r"it is big-endian \(at byte 4\)"),
    "too many tensors": (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0), r"\(at byte 8\)"),
    "too many keys": (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63), r"\(at byte 16\)"),
    "key longer than the file": (_file(HUGE + bytes(9)), r"a key needs 9223372036854775808"),
    "key not UTF-8": (_file(_key(b"\xff", 4, _ONE)), r"a key is not UTF-8: b'\\xff' \(at byte 24"),
    "key twice": (_file(_key(b"k", 4, _ONE) * 2)[:16] + struct.pack("<Q", 2)
                  + _key(b"k", 4, _ONE) * 2, r"'k' appears twice \(at byte 41\)"),
    "unknown value type": (_file(_key(b"k", 13, _ONE)), r"unknown value type 13 \(at byte 33\)"),
    "text longer than the file": (_file(_key(b"k", 8, HUGE)), r"'k' needs 9223372036854775808"),
    "array of arrays": (_file(_key(b"k", 9, struct.pack("<IQ", 9, 1))), r"unknown type 9"),
    "array longer than the file": (_file(_key(b"k", 9, struct.pack("<IQ", 10, 2**61))),
                                   r"2305843009213693952 numbers of 'k' cannot fit"),
    "more texts than fit": (_file(_key(b"k", 9, struct.pack("<IQ", 8, 2**40))), r"cannot fit"),
    "text of an array too long": (_file(_key(b"k", 9, struct.pack("<IQ", 8, 1) + HUGE)),
                                  r"a string of 'k' ends at byte"),
    "text of an array not UTF-8": (_file(_key(b"k", 9, struct.pack("<IQ", 8, 1) + _text(b"\xc3"))),
                                   r"not UTF-8 \(at byte 49\)"),
    "alignment 3": (_file(_key(b"general.alignment", 4, struct.pack("<I", 3))), r"not 3"),
    "alignment 0": (_file(_key(b"general.alignment", 4, bytes(4))), r"power of two, not 0"),
    "alignment a text": (_file(_key(b"general.alignment", 8, _text(b"x"))), r"not 'x'"),
    "one of several parts": (_file(_key(b"split.count", 2, b"\2\0")), r"one of 2 parts"),
    "tensor twice": (_file(tensors=(_tensor(), _tensor())), r"'t' appears twice"),
    "no dimensions": (_file(tensors=(_tensor(dims=()), _tensor(b"u"))), r"0 dimensions"),
    "five dimensions": (_file(tensors=(_tensor(dims=(1,) * 5),)), r"5 dimensions"),
    "dimension of 0": (_file(tensors=(_tensor(dims=(0,)),)), r"has the shape \[0\]"),
    "product beyond 64 bits": (_file(tensors=(_tensor(dims=(2**33, 2**33)),)), r"ends at byte"),
    "row of half a block": (_file(tensors=(_tensor(dims=(48, 2), ggml_type=8),)),
                            r"shape \[2, 48\], Q8_0 packs 32 numbers a block"),
    "format without a decoder": (_file(tensors=(_tensor(ggml_type=12),)), r"packed as Q4_K"),
    "format nobody knows": (_file(tensors=(_tensor(ggml_type=99),)), r"unknown type 99"),
    "offset not aligned": (_file(tensors=(_tensor(offset=4),)), r"starts at 4, not a multiple"),
    "offset beyond the file": (_file(tensors=(_tensor(offset=2**63),)), r"ends at byte"),
    "one element beyond the file": (_file(tensors=(_tensor(dims=(33,)),)), r"ends at byte"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_file_is_refused_with_its_reason(kind: str, tmp_path: Path) -> None:
    content, reason = DAMAGED[kind]
    path = tmp_path / "damaged.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=reason):
        open_checkpoint(path)


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir], ids=["missing", "folder"])
def test_path_without_a_file_is_refused(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    make(path)
    with pytest.raises(ModelFileError, match=r"model\.gguf: cannot be read: "):
        open_checkpoint(path)


def test_handmade_file_is_read_when_nothing_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "good.gguf"
    path.write_bytes(_file(_key(b"k", 4, _ONE), tensors=(_tensor(),)))
    checkpoint = open_checkpoint(path)
    assert (checkpoint.metadata, checkpoint.names) == ({"k": 1}, ("t",))
