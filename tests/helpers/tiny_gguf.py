"""Tiny random Llama checkpoints as GGUF files, with a small real vocabulary.

The vocabulary is byte-level BPE: three special tokens, all 256 bytes and the prefixes of a
few words. Weights are random; the same arguments write the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
ENDOFTEXT_ID, IM_START_ID, IM_END_ID = range(3)

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_WORDS = (
    " the and of to in is a that with assistant user system tool_call name arguments type "
    "string number true false null weather time city calculate get_time"
)
_RUNS = (
    '": "',
    '", "',
    '{"name": "',
    '", "arguments": {"',
    '"}}',
    "\n</",
    " =",
    "    ",
    "ing",
    "er",
)


def byte_pieces() -> list[str]:
    """The printable character that stands for each byte value in byte-level BPE."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(256, 512))
    return [chr(value) if value in kept else chr(next(others)) for value in range(256)]


def tiny_vocabulary(*special_tokens: str) -> dict[str, Any]:
    """The `tokenizer.*` metadata of a byte-level BPE with 501 tokens, and control tokens more."""
    to_piece = byte_pieces()
    tokens = [*SPECIAL_TOKENS, *to_piece]
    merges: list[str] = []
    texts = [*(" " + word for word in _WORDS.split()), *_WORDS.split(), *_RUNS]
    for text in texts:
        letters = [to_piece[byte] for byte in text.encode()]
        prefix = letters[0]
        for letter in letters[1:]:
            if prefix + letter not in tokens:
                tokens.append(prefix + letter)
                merges.append(f"{prefix} {letter}")
            prefix += letter
    control, normal = int(gguf.TokenType.CONTROL), int(gguf.TokenType.NORMAL)
    types = [control] * len(SPECIAL_TOKENS) + [normal] * (len(tokens) - len(SPECIAL_TOKENS))
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": [*tokens, *special_tokens],
        "tokenizer.ggml.token_type": types + [control] * len(special_tokens),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": IM_START_ID,
        "tokenizer.ggml.eos_token_id": IM_END_ID,
        "tokenizer.ggml.unknown_token_id": ENDOFTEXT_ID,
        "tokenizer.ggml.padding_token_id": IM_END_ID,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def write_tiny_llama(
    path: Path,
    *,
    seed: int = 0,
    num_layers: int = 2,
    hidden: int = 64,
    num_heads: int = 4,
    num_kv_heads: int = 2,
    context_length: int = 512,
    tied: bool = True,
    special_tokens: Sequence[str] = (),
) -> Path:
    """Write a random Llama to `path` and return it; `special_tokens` join its vocabulary.

    `hidden` is a multiple of 32. Embeddings are Q8_0, matrices Q4_1 (v and down Q8_0),
    norms F32; an untied output is F16.
    """
    writer = gguf.GGUFWriter(path, "llama")
    metadata = tiny_vocabulary(*special_tokens)
    head_dim, feed_forward = hidden // num_heads, 2 * hidden
    writer.add_name("tiny")
    writer.add_block_count(num_layers)
    writer.add_context_length(context_length)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(num_heads)
    writer.add_head_count_kv(num_kv_heads)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(metadata["tokenizer.ggml.tokens"]))
    _add_vocabulary(writer, metadata)

    rng = np.random.default_rng(seed)
    kind = gguf.GGMLQuantizationType

    def add(name: str, rows: int, columns: int, format_: gguf.GGMLQuantizationType) -> None:
        values = rng.standard_normal((rows, columns), dtype=np.float32) / np.sqrt(columns)
        packed = gguf.quants.quantize(values.astype(np.float32), format_)
        writer.add_tensor(name, packed, raw_dtype=format_)

    def add_norm(name: str) -> None:
        writer.add_tensor(name, 1 + 0.1 * rng.standard_normal(hidden, dtype=np.float32))

    vocab_size = len(metadata["tokenizer.ggml.tokens"])
    add("token_embd.weight", vocab_size, hidden, kind.Q8_0)
    for layer in range(num_layers):
        block = f"blk.{layer}."
        add_norm(block + "attn_norm.weight")
        add(block + "attn_q.weight", hidden, hidden, kind.Q4_1)
        add(block + "attn_k.weight", num_kv_heads * head_dim, hidden, kind.Q4_1)
        add(block + "attn_v.weight", num_kv_heads * head_dim, hidden, kind.Q8_0)
        add(block + "attn_output.weight", hidden, hidden, kind.Q4_1)
        add_norm(block + "ffn_norm.weight")
        add(block + "ffn_gate.weight", feed_forward, hidden, kind.Q4_1)
        add(block + "ffn_up.weight", feed_forward, hidden, kind.Q4_1)
        add(block + "ffn_down.weight", hidden, feed_forward, kind.Q8_0)
    add_norm("output_norm.weight")
    if not tied:
        add("output.weight", vocab_size, hidden, kind.F16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: gguf.GGUFWriter, metadata: dict[str, Any]) -> None:
    for key, value in metadata.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
