"""The table of number formats: one row each. A new format is a row and a decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from runtime.quant import ggml

Decoder = Callable[[ggml.Blocks, ggml.Floats], None]


@dataclass(frozen=True, slots=True)
class QuantFormat:
    """How numbers are packed.

    Attributes:
        name: as ggml spells it, e.g. "Q4_1".
        ggml_type: ggml's type id, as stored in GGUF files.
        block_size: elements of one block; a row holds whole blocks.
        block_bytes: bytes of one block.
        decode: fills `[num_blocks, block_size]` float32 from `[num_blocks, block_bytes]`.
    """

    name: str
    ggml_type: int
    block_size: int
    block_bytes: int
    decode: Decoder

    def num_bytes(self, num_elements: int) -> int:
        """Bytes that `num_elements`, a whole number of blocks, take."""
        return num_elements // self.block_size * self.block_bytes


GGML_FORMATS: Mapping[int, QuantFormat] = {
    row.ggml_type: row
    for row in (
        QuantFormat("F32", 0, 1, 4, ggml.decode_f32),
        QuantFormat("F16", 1, 1, 2, ggml.decode_f16),
        QuantFormat("Q4_0", 2, 32, 18, ggml.decode_q4_0),
        QuantFormat("Q4_1", 3, 32, 20, ggml.decode_q4_1),
        QuantFormat("Q8_0", 8, 32, 34, ggml.decode_q8_0),
        QuantFormat("BF16", 30, 1, 2, ggml.decode_bf16),
    )
}
"""Every format we decode, by ggml's type id."""

# fmt: off
GGML_TYPE_NAMES: Mapping[int, str] = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1",
    10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS",
    17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S",
    23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M",
    30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0",
}
# fmt: on
"""Every type of ggml by id, to name in messages the ones without a row above."""
