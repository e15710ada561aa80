"""Model files to named tensors: memory-mapped, untrusted."""

from __future__ import annotations

from pathlib import Path

from runtime.errors import ModelFileError
from runtime.weights.checkpoint import Checkpoint, TensorInfo
from runtime.weights.gguf import MAGIC, GgufFile
from runtime.weights.safetensors import SafetensorsFolder

__all__ = ["Checkpoint", "TensorInfo", "open_checkpoint"]


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a GGUF file, or a folder of safetensors with its `config.json`.

    A file's content, not its name, says what it is; for one of safetensors its folder is taken.

    Raises:
        ModelFileError: no such file, not a kind we read, or damaged.
    """
    try:
        if path.is_dir():
            return SafetensorsFolder(path)
        with path.open("rb") as file:
            start = file.read(9)
        if start.startswith(MAGIC):
            return GgufFile(path)
        if start[8:] == b"{":
            return SafetensorsFolder(path.parent)
    except OSError as exc:
        raise ModelFileError(f"{path}: cannot be read: {exc.strerror}") from exc
    raise ModelFileError(f"{path}: wanted a GGUF file, found one that starts with {start[:4]!r}")
