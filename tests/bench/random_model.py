"""A model of about a billion random weights, for speed alone: `random_model.py S.gguf Y.gguf`.

Llama's architecture in TinyLlama's shape; Q4_K, and Q6_K where llama.cpp's Q4_K_M has it. The
tokenizer is the first file's.
"""

from __future__ import annotations

import sys
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

LAYERS, HIDDEN, FEED_FORWARD, HEADS, KV_HEADS, CONTEXT = 22, 2048, 5632, 32, 4, 4096
KV_SIZE = KV_HEADS * HIDDEN // HEADS
BLOCK = 256

Q4_K, Q6_K = gguf.GGMLQuantizationType.Q4_K, gguf.GGMLQuantizationType.Q6_K


class RandomWeights:
    """Blocks whose scales give weights of about 0.02, and whose other bits are random."""

    def __init__(self, seed: int = 7) -> None:
        self._rng = np.random.default_rng(seed)

    def blocks(self, num_blocks: int, kind: gguf.GGMLQuantizationType) -> npt.NDArray[np.uint8]:
        num_bytes = gguf.GGML_QUANT_SIZES[kind][1]
        blocks = self._rng.integers(0, 256, (num_blocks, num_bytes), np.uint8)
        scales = blocks.view(np.float16)
        if kind == Q4_K:  # scale and minimum: numbers of 0..15 are centred
            scales[:, :2] = np.float16(1e-4), np.float16(7.5e-4)
        else:  # the scale of scales comes last; those of sub-blocks stay small
            blocks[:, 192:208] %= 16
            scales[:, -1] = np.float16(1.2e-4)
        return blocks

    def matrix(
        self, rows: int, columns: int, kind: gguf.GGMLQuantizationType
    ) -> npt.NDArray[np.uint8]:
        return self.blocks(rows * columns // BLOCK, kind).reshape(rows, -1)


def write_random_model(tokenizer_file: Path, target: Path) -> None:
    """Write the model to `target`."""
    reader = gguf.GGUFReader(tokenizer_file)
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_name("random")
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    _copy_tokenizer(reader, writer)
    vocab_size = len(reader.fields["tokenizer.ggml.tokens"].data)
    writer.add_vocab_size(vocab_size)
    _add_tensors(writer, vocab_size)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _copy_tokenizer(reader: gguf.GGUFReader, writer: gguf.GGUFWriter) -> None:
    for name, field in reader.fields.items():
        if name.startswith("tokenizer."):
            kind, contents = field.types[0], field.contents()
            if kind == gguf.GGUFValueType.ARRAY:
                writer.add_array(name, contents)
            else:
                writer.add_key_value(name, contents, kind)


def _add_tensors(writer: gguf.GGUFWriter, vocab_size: int) -> None:
    weights = RandomWeights()

    def add(name: str, rows: int, columns: int, kind: gguf.GGMLQuantizationType) -> None:
        matrix = weights.matrix(rows, columns, kind)
        writer.add_tensor(f"{name}.weight", matrix, raw_dtype=kind)

    def add_norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(HIDDEN, np.float32))

    add("token_embd", vocab_size, HIDDEN, Q4_K)
    for layer in range(LAYERS):
        eighth = LAYERS // 8
        is_fine = layer < eighth or layer >= 7 * LAYERS // 8 or (layer - eighth) % 3 == 2
        fine, block = Q6_K if is_fine else Q4_K, f"blk.{layer}."
        add_norm(block + "attn_norm")
        add_norm(block + "ffn_norm")
        add(block + "attn_q", HIDDEN, HIDDEN, Q4_K)
        add(block + "attn_k", KV_SIZE, HIDDEN, Q4_K)
        add(block + "attn_v", KV_SIZE, HIDDEN, fine)
        add(block + "attn_output", HIDDEN, HIDDEN, Q4_K)
        add(block + "ffn_gate", FEED_FORWARD, HIDDEN, Q4_K)
        add(block + "ffn_up", FEED_FORWARD, HIDDEN, Q4_K)
        add(block + "ffn_down", HIDDEN, FEED_FORWARD, fine)
    add_norm("output_norm")
    add("output", vocab_size, HIDDEN, Q6_K)


if __name__ == "__main__":
    write_random_model(Path(sys.argv[1]), Path(sys.argv[2]))
