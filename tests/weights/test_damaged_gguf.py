"""Every kind of damaged GGUF file gives one error that says what is wrong at which byte.

`LLAMA_CPP` has the kinds that llama.cpp's `tests/test-gguf.cpp` names, under its names.
"""

import re
import struct
from pathlib import Path

import pytest

from runtime.errors import ModelFileError
from runtime.weights import open_checkpoint
from tests.helpers.gguf_bytes import file, header, key, tensor, text

HUGE = struct.pack("<Q", 2**63)
MINUS_ONE = 2**64 - 1
END = 4 * (2**63 - 64)
_ONE = struct.pack("<I", 1)
_ALIGNMENT = b"general.alignment"
_I64, _F32 = 27, 0


def _no_alignment(value: int, value_type: int) -> str:
    wanted = "general.alignment must be a power of two of type 4 (uint32)"
    return f"{wanted}, not {value} of type {value_type} (at byte 53)"


# The file, and the message after "damaged GGUF file: ".
LLAMA_CPP: dict[str, tuple[bytes, str]] = {
    "HEADER_BAD_MAGIC": (
        header(magic=b"FUGG"),
        "wanted a GGUF file, found one that starts with b'FUGG'",
    ),
    "HEADER_BAD_VERSION_0": (header(version=0), "wanted version 2 or 3, found 0 (at byte 4)"),
    "HEADER_BAD_VERSION_1": (header(version=1), "wanted version 2 or 3, found 1 (at byte 4)"),
    "HEADER_BAD_VERSION_FUTURE": (header(version=4), "wanted version 2 or 3, found 4 (at byte 4)"),
    "HEADER_BAD_N_TENSORS": (
        header(num_tensors=MINUS_ONE),
        f"{MINUS_ONE} tensors cannot fit in 24 bytes (at byte 8)",
    ),
    "HEADER_BAD_N_KV": (
        header(num_keys=MINUS_ONE),
        f"{MINUS_ONE} keys cannot fit in 24 bytes (at byte 16)",
    ),
    "KV_BAD_KEY_SIZE": (
        file(struct.pack("<Q", MINUS_ONE) + bytes(9)),
        f"a key needs {MINUS_ONE} bytes, 160 are left in the file (at byte 32)",
    ),
    "KV_EMPTY_KEY": (file(key(b"", 4, _ONE)), "a key has 0 bytes, not 1 to 65535 (at byte 24)"),
    "KV_BAD_TYPE": (file(key(b"k", 13, b"\0")), "'k' has the unknown value type 13 (at byte 33)"),
    "KV_DUPLICATE_KEY": (
        file(key(b"k", 4, _ONE), key(b"k", 4, _ONE)),
        "the key 'k' appears twice (at byte 41)",
    ),
    "KV_BAD_ALIGN": (
        file(key(_ALIGNMENT, 4, struct.pack("<I", 13))),
        _no_alignment(13, 4),
    ),
    "KV_WRONG_TYPE_ALIGN": (
        file(key(_ALIGNMENT, 5, struct.pack("<i", 32))),
        _no_alignment(32, 5),
    ),
    "TENSORS_BAD_NAME_SIZE": (
        file(tensors=(tensor(b"x" * 64),)),
        "a tensor's name has 64 bytes, not 1 to 63 (at byte 24)",
    ),
    "TENSORS_BAD_N_DIMS": (
        file(tensors=(tensor(dims=(1,) * 5),)),
        "'t' has 5 dimensions, not 1 to 4 (at byte 33)",
    ),
    "TENSORS_BAD_SHAPE": (
        file(tensors=(tensor(dims=(MINUS_ONE,)),)),
        f"the tensor 't' ends at byte {64 + 4 * MINUS_ONE}, the file at byte 192 (at byte 24)",
    ),
    # llama.cpp reads these; a model has no use for them.
    "TENSORS_ZERO_DIM": (
        file(tensors=(tensor(dims=(32, 0)),)),
        "'t' has the shape [0, 32], F32 packs 1 numbers a block (at byte 33)",
    ),
    "TENSORS_NE_TOO_BIG": (
        file(tensors=(tensor(dims=(2**33 - 4,) * 2),)),
        "the tensor 't' ends at byte 295147904904474919072, the file at byte 224 (at byte 24)",
    ),
    "TENSORS_NBYTES_TOO_BIG": (
        file(tensors=(tensor(dims=(2**31, 2**30)),)),
        f"the tensor 't' ends at byte {96 + 2**63}, the file at byte 224 (at byte 24)",
    ),
    "TENSORS_BAD_TYPE": (
        file(tensors=(tensor(ggml_type=42),)),
        "'t' has the unknown type 42 (at byte 45)",
    ),
    "TENSORS_BAD_OFFSET": (
        file(tensors=(tensor(offset=MINUS_ONE),)),
        f"'t' starts at {MINUS_ONE} of the data, not at 0 after the tensor before it (at byte 49)",
    ),
    "TENSORS_DUPLICATE_NAME": (
        file(tensors=(tensor(), tensor(offset=128))),
        "the tensor 't' appears twice (at byte 57)",
    ),
    "TENSORS_BAD_ALIGN": (
        file(key(_ALIGNMENT, 4, struct.pack("<I", 13)), tensors=(tensor(),)),
        _no_alignment(13, 4),
    ),
    "TENSORS_INCONSISTENT_ALIGN": (
        file(tensors=(tensor(dims=(1,)), tensor(b"u", offset=4))),
        "'u' starts at 4 of the data, not at 32 after the tensor before it (at byte 82)",
    ),
    "DATA_NOT_ENOUGH_DATA": (
        file(tensors=(tensor(),), data=bytes(127)),
        "the tensor 't' ends at byte 192, the file at byte 191 (at byte 24)",
    ),
    "DATA_BAD_ALIGN": (
        file(key(_ALIGNMENT, 4, bytes(4)), tensors=(tensor(),)),
        _no_alignment(0, 4),
    ),
    "DATA_INCONSISTENT_ALIGN": (
        file(tensors=(tensor(dims=(33,)), tensor(b"u", dims=(1,), offset=132)), data=bytes(256)),
        "'u' starts at 132 of the data, not at 160 after the tensor before it (at byte 82)",
    ),
    "DATA_MEM_SIZE_OVERFLOW": (
        file(tensors=(tensor(dims=(2**63 - 64,)), tensor(b"u", (2**63 - 64,), 0, 2**65 % 2**64))),
        f"'u' starts at 0 of the data, not at {END} after the tensor before it (at byte 82)",
    ),
}

OTHERS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", r"found one that starts with b''$"),
    "other file": (b"PK\3\4" + bytes(99), r"found one that starts with b'PK\\x03\\x04'$"),
    "magic only": (b"GGUF", r"the version needs 4 bytes, 0 are left in the file \(at byte 4\)"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), r"it is big-endian \(at byte 4\)"),
    "key not UTF-8": (file(key(b"\xff", 4, _ONE)), r"a key is not UTF-8: b'\\xff' \(at byte 24"),
    "key too long": (file(key(b"k" * 65536, 4, _ONE)), r"has 65536 bytes, not 1 to 65535"),
    "text longer than the file": (file(key(b"k", 8, HUGE)), r"'k' needs 9223372036854775808"),
    "array of arrays": (file(key(b"k", 9, struct.pack("<IQ", 9, 1))), r"unknown type 9"),
    "array longer than the file": (file(key(b"k", 9, struct.pack("<IQ", 10, 2**61))),
                                   r"2305843009213693952 numbers of 'k' cannot fit"),
    "more texts than fit": (file(key(b"k", 9, struct.pack("<IQ", 8, 2**40))), r"cannot fit"),
    "text of an array too long": (file(key(b"k", 9, struct.pack("<IQ", 8, 1) + HUGE)),
                                  r"a string of 'k' ends at byte"),
    "text of an array not UTF-8": (file(key(b"k", 9, struct.pack("<IQ", 8, 1) + text(b"\xc3"))),
                                   r"not UTF-8 \(at byte 49\)"),
    "alignment a text": (file(key(_ALIGNMENT, 8, text(b"x"))), r"not 'x' of type 8 \(at byte 53\)"),
    "one of several parts": (file(key(b"split.count", 2, b"\2\0")), r"one of 2 parts"),
    "number of parts an array": (file(key(b"split.count", 9, struct.pack("<IQII", 4, 2, 1, 1))),
                                 r"one of array\(\[1, 1\]"),
    "no dimensions": (file(tensors=(tensor(dims=()), tensor(b"u"))), r"0 dimensions"),
    "tensor without a name": (file(tensors=(tensor(b""),)), r"has 0 bytes, not 1 to 63"),
    "dimension of 0": (file(tensors=(tensor(dims=(0,)),)), r"has the shape \[0\]"),
    "row of half a block": (file(tensors=(tensor(dims=(48, 2), ggml_type=8),)),
                            r"shape \[2, 48\], Q8_0 packs 32 numbers a block"),
    "format without a decoder": (file(tensors=(tensor(ggml_type=_I64),)),
                                 r"packed as I64, we read F32, .*; take another quantisation"),
    "one element beyond the file": (file(tensors=(tensor(dims=(33,)),)), r"ends at byte"),
    "two tensors in one place": (file(tensors=(tensor(), tensor(b"u"))), r"not at 128"),
}  # fmt: skip


def _refusal(content: bytes, folder: Path) -> str:
    path = folder / "damaged.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        open_checkpoint(path)
    return str(caught.value).removeprefix(f"{path}: ").removeprefix("damaged GGUF file: ")


@pytest.mark.parametrize("kind", LLAMA_CPP)
def test_kind_that_llama_cpp_names_is_refused_at_its_byte(kind: str, tmp_path: Path) -> None:
    content, message = LLAMA_CPP[kind]
    assert _refusal(content, tmp_path) == message


@pytest.mark.parametrize("kind", OTHERS)
def test_damaged_file_is_refused_with_its_reason(kind: str, tmp_path: Path) -> None:
    content, reason = OTHERS[kind]
    assert re.search(reason, _refusal(content, tmp_path))


@pytest.mark.parametrize(
    ("content", "metadata", "names"),
    [
        pytest.param(header(), {}, (), id="HEADER_EMPTY"),
        pytest.param(file(key(b"k", 4, _ONE)), {"k": 1}, (), id="KV_SUCCESS"),
        pytest.param(
            file(tensors=(tensor(), tensor(b"u", dims=(2,), offset=128)), data=bytes(160)),
            {},
            ("t", "u"),
            id="DATA_SUCCESS",
        ),
        pytest.param(
            file(
                key(_ALIGNMENT, 4, _ONE),
                tensors=(tensor(dims=(1,)), tensor(b"u", offset=4)),
                data=bytes(132),
                alignment=1,
            ),
            {"general.alignment": 1},
            ("t", "u"),
            id="DATA_CUSTOM_ALIGN",
        ),
    ],
)
def test_handmade_file_is_read_when_nothing_is_wrong(
    content: bytes, metadata: dict[str, int], names: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "good.gguf"
    path.write_bytes(content)
    checkpoint = open_checkpoint(path)
    assert (checkpoint.metadata, checkpoint.names) == (metadata, names)
