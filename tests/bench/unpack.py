"""A GGUF file as the folder that vLLM reads, in bfloat16: `unpack.py S.gguf S-hf`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import transformers


def unpack(source: Path, target: Path) -> None:
    """Write weights, configuration and tokenizer to the folder `target`."""
    file = {"gguf_file": source.name}
    unpacked = transformers.GgufConfig(dequantize=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        source.parent, dtype=torch.bfloat16, quantization_config=unpacked, **file
    )
    model.save_pretrained(target)
    transformers.AutoTokenizer.from_pretrained(source.parent, **file).save_pretrained(target)


if __name__ == "__main__":
    unpack(Path(sys.argv[1]).resolve(), Path(sys.argv[2]))
