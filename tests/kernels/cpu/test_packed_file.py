"""Packed weights on disk: whatever is not the whole right file is written again."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from runtime.errors import ModelFileError
from runtime.kernels.cpu.packed_file import load_packed
from runtime.kernels.cpu.values import PackedPart
from runtime.quant.formats import GGML_FORMATS
from runtime.quant.tensor import QuantTensor

VALUES = {name: np.random.default_rng(n).integers(0, 256, 4 * 96) for n, name in enumerate("ab")}


class Model:
    """Two tensors of bytes; packing turns their bits over, and is counted."""

    def __init__(self) -> None:
        self.num_packed = 0
        self.values = {name: values.astype(np.uint8) for name, values in VALUES.items()}

    def read(self, name: str) -> QuantTensor:
        if name not in self.values:
            raise ModelFileError(f"no tensor {name}")
        return QuantTensor(self.values[name], GGML_FORMATS[0], (3, 32))

    def pack(self, packed_format: int, tensor: QuantTensor, out: npt.NDArray[np.uint8]) -> None:
        self.num_packed += 1
        out[:] = ~tensor.data

    def load(self, folder: Path | None, *, stamp: str = "1", names: str = "ab") -> list[bytes]:
        parts = [PackedPart((name,), 0, False, (3, 32), 384) for name in names]
        data = load_packed(parts, self.read, self.pack, folder=folder, stamp=stamp)
        starts = [part.address - data.ctypes.data for part in parts]
        assert all(part.address % 64 == 0 for part in parts)
        return [data[start : start + 384].tobytes() for start in starts]

    def wanted(self) -> list[bytes]:
        return [(~values).tobytes() for values in self.values.values()]


def test_second_load_maps_what_the_first_wrote(tmp_path: Path) -> None:
    model = Model()
    assert model.load(tmp_path) == model.wanted()
    assert model.load(tmp_path) == model.wanted()
    assert model.num_packed == 2


def test_without_a_folder_everything_stays_in_memory(tmp_path: Path) -> None:
    model = Model()
    assert model.load(None) == model.wanted()
    assert model.num_packed == 2


def test_damaged_torn_and_foreign_files_are_written_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Model().load(tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    half = len(whole) // 2
    flipped = [bytes([*whole[:at], whole[at] ^ 4, *whole[at + 1 :]]) for at in (0, 9, 50, 4300)]
    for content in (*flipped, whole[:half], whole[:20], b"", b"not ours", whole + b"x"):
        file.write_bytes(content)
        model = Model()
        assert model.load(tmp_path) == model.wanted()
        assert model.num_packed == 2
        assert file.read_bytes() == whole
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2


def test_changed_model_file_is_packed_anew(tmp_path: Path) -> None:
    Model().load(tmp_path)
    model = Model()
    assert model.load(tmp_path, stamp="2") == model.wanted()
    model.values["b"][5] ^= 1
    assert model.load(tmp_path, stamp="2") == model.wanted()
    assert model.num_packed == 4


def test_folder_that_cannot_be_written_is_said_and_done_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    model = Model()
    assert model.load(blocked) == model.wanted()
    assert "packed weights cannot be kept in" in caplog.text


def test_failure_while_packing_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no tensor c"):
        Model().load(tmp_path, names="abc")
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - the names alone


def test_what_another_version_packed_or_nobody_used_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Model().load(tmp_path)
    (first,) = tmp_path.iterdir()
    other = tmp_path / "0123456789abcdef-0123.packed"
    unused = tmp_path / "fedcba9876543210-0123.packed"
    for file in (other, unused):
        file.write_bytes(b"of another model")
    os.utime(unused, (0, 0))
    digest = "runtime.kernels.cpu.packed_file.digest_of_kernels"
    monkeypatch.setattr(digest, lambda: b"another version")
    Model().load(tmp_path)
    assert not first.exists()
    assert not unused.exists()
    assert other.exists()
    assert len(list(tmp_path.iterdir())) == 2
