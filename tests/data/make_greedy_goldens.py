"""Write `MODEL_greedy.json`: what transformers continues 20 prompts with, greedily.

The weights are dequantised to float32. Per prompt the file keeps the text, its token ids,
64 new ids and the smallest difference between the two best logits on the way: where that is
tiny, another order of summation may choose the other token.

Needs transformers, torch and accelerate:
    python tests/data/make_greedy_goldens.py path/to/SmolLM2-135M-Instruct.Q4_1.gguf smollm2
    python tests/data/make_greedy_goldens.py path/to/gemma-3-270m-q4_k_m.gguf gemma3
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

NUM_NEW_TOKENS = 64

PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "def fibonacci(n):\n    ",
    "import numpy as np\n\ndef softmax(x: np.ndarray) -> np.ndarray:\n",
    '{"name": "Ada", "born": 1815, "languages": [',
    "SELECT name, age FROM users WHERE",
    "Q: What is 17 + 25?\nA:",
    "1, 2, 3, 5, 8, 13,",
    "Der schnelle braune Fuchs springt",
    "La recette de la tarte aux pommes :\n- ",
    "東京は日本の",
    "Привет! Как дела?",
    "🙂🚀 Emoji are",
    "  \t\n  indented text\n\n\n",
    "# A title\n\n* one\n* two\n* ",
    "<html><body><p>Hello</p>",
    "Dear Sir or Madam,\n\nI am writing to",
    "<|im_start|>user\nWhat is gravity?<|im_end|>\n<|im_start|>assistant\n",
    (
        "<|im_start|>system\nYou are a pirate.<|im_end|>\n<|im_start|>user\nWho are you?"
        "<|im_end|>\n<|im_start|>assistant\n"
    ),
    "<|im_start|>user\nWrite a haiku about snow.<|im_end|>\n<|im_start|>assistant\n",
)

# Longer than Gemma's window of 512 tokens.
LONG_PROMPT = "Counting: " + ", ".join(str(number) for number in range(1, 201))


def main() -> None:
    """Read the GGUF and the model's name off the command line; write beside this file."""
    source, name = Path(sys.argv[1]), sys.argv[2]
    tokenizer: Any = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    model: Any = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    rows = []
    for prompt in (*PROMPTS[:-1], LONG_PROMPT) if name == "gemma3" else PROMPTS:
        prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        if name == "gemma3":
            prompt_ids = [tokenizer.bos_token_id, *prompt_ids]
        token_ids, margin = _continue(model.eval(), prompt_ids)
        rows.append(
            {
                "prompt": prompt,
                "prompt_ids": prompt_ids,
                "token_ids": token_ids,
                "min_margin": round(margin, 5),
            }
        )
    lines = ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
    target = Path(__file__).with_name(f"{name}_greedy.json")
    target.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


@torch.inference_mode()
def _continue(model: Any, prompt_ids: list[int]) -> tuple[list[int], float]:
    """Greedy ids, ends of text included (nothing stops early), and the smallest margin."""
    token_ids: list[int] = []
    margin = float("inf")
    step = torch.tensor([prompt_ids])
    cache = None
    for _ in range(NUM_NEW_TOKENS):
        output = model(step, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        best = output.logits[0, -1].topk(2)
        margin = min(margin, float(best.values[0] - best.values[1]))
        token_ids.append(int(best.indices[0]))
        step = best.indices[:1].view(1, 1)
    return token_ids, margin


if __name__ == "__main__":
    main()
