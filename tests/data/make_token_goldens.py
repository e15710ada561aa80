"""Write the ids that transformers gives to 1,000 mixed texts, as digests.

They go to `smollm2_tokens.json` or `gemma3_tokens.json`, in the order of the texts.
"parsed" turns special tokens into their ids, "plain" takes them as text.

Needs transformers:
    python -m tests.data.make_token_goldens smollm2 path/to/SmolLM2-135M-Instruct.Q4_1.gguf
    python -m tests.data.make_token_goldens gemma3 path/to/gemma-3-270m-q4_k_m.gguf
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from tests.helpers.mixed_texts import ids_digest, mixed_texts


def main() -> None:
    """Read the GGUF named on the command line and write the digests beside this file."""
    source = Path(sys.argv[2])
    tokenizer: Any = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    digests = {}
    for name, split in (("parsed", False), ("plain", True)):
        ids_of_texts = [
            tokenizer(text, add_special_tokens=False, split_special_tokens=split)["input_ids"]
            for text in mixed_texts()
        ]
        digests[name] = "".join(map(ids_digest, ids_of_texts))
    target = Path(__file__).with_name(f"{sys.argv[1]}_tokens.json")
    target.write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
