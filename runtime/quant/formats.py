"""The table of number formats: one row each. A new format is a row and a decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from runtime.quant import ggml, ggml_iq, ggml_k
from runtime.quant.unpack import Blocks, Floats

Decoder = Callable[[Blocks, Floats], None]


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
        QuantFormat("Q5_0", 6, 32, 22, ggml.decode_q5_0),
        QuantFormat("Q5_1", 7, 32, 24, ggml.decode_q5_1),
        QuantFormat("Q8_0", 8, 32, 34, ggml.decode_q8_0),
        QuantFormat("Q8_1", 9, 32, 36, ggml.decode_q8_1),
        QuantFormat("Q2_K", 10, 256, 84, ggml_k.decode_q2_k),
        QuantFormat("Q3_K", 11, 256, 110, ggml_k.decode_q3_k),
        QuantFormat("Q4_K", 12, 256, 144, ggml_k.decode_q4_k),
        QuantFormat("Q5_K", 13, 256, 176, ggml_k.decode_q5_k),
        QuantFormat("Q6_K", 14, 256, 210, ggml_k.decode_q6_k),
        QuantFormat("Q8_K", 15, 256, 292, ggml_k.decode_q8_k),
        QuantFormat("IQ2_XXS", 16, 256, 66, ggml_iq.decode_iq2_xxs),
        QuantFormat("IQ2_XS", 17, 256, 74, ggml_iq.decode_iq2_xs),
        QuantFormat("IQ3_XXS", 18, 256, 98, ggml_iq.decode_iq3_xxs),
        QuantFormat("IQ1_S", 19, 256, 50, ggml_iq.decode_iq1_s),
        QuantFormat("IQ4_NL", 20, 32, 18, ggml_iq.decode_iq4_nl),
        QuantFormat("IQ3_S", 21, 256, 110, ggml_iq.decode_iq3_s),
        QuantFormat("IQ2_S", 22, 256, 82, ggml_iq.decode_iq2_s),
        QuantFormat("IQ4_XS", 23, 256, 136, ggml_iq.decode_iq4_xs),
        QuantFormat("IQ1_M", 29, 256, 56, ggml_iq.decode_iq1_m),
        QuantFormat("BF16", 30, 1, 2, ggml.decode_bf16),
        QuantFormat("TQ1_0", 34, 256, 54, ggml_k.decode_tq1_0),
        QuantFormat("TQ2_0", 35, 256, 66, ggml_k.decode_tq2_0),
        QuantFormat("MXFP4", 39, 32, 17, ggml.decode_mxfp4),
        QuantFormat("NVFP4", 40, 64, 36, ggml.decode_nvfp4),
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
