"""Model files to named tensors: memory-mapped, untrusted."""

from __future__ import annotations

from pathlib import Path

from runtime.errors import ModelFileError
from runtime.weights.checkpoint import Checkpoint, TensorInfo
from runtime.weights.gguf import MAGIC, GgufFile

__all__ = ["Checkpoint", "TensorInfo", "open_checkpoint"]


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a file of weights; its content, not its name, says what it is.

    Raises:
        ModelFileError: no such file, not a kind we read, or damaged.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(MAGIC))
        if start == MAGIC:
            return GgufFile(path)
    except OSError as exc:
        raise ModelFileError(f"{path}: cannot be read: {exc.strerror}") from exc
    raise ModelFileError(f"{path}: wanted a GGUF file, found one that starts with {start!r}")
