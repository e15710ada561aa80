"""Write `MODEL_logprobs.npy`: what float32 says of each token of the text of `test_cpu_engine`.

[N] float32, natural log-probabilities of all tokens of the pieces but the first of each.
Needs torch; takes a minute or two a model:
    python -m tests.data.make_reference_logprobs path/to/SmolLM2-135M-Instruct.Q4_1.gguf smollm2
    python -m tests.data.make_reference_logprobs path/to/gemma-3-270m-q4_k_m.gguf gemma3
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from tests.end_to_end.test_cpu_engine import cut, score_by_reference

if __name__ == "__main__":
    source, name = Path(sys.argv[1]), sys.argv[2]
    logprobs = score_by_reference(source, cut(source))
    np.save(Path(__file__).with_name(f"{name}_logprobs.npy"), logprobs.astype(np.float32))
