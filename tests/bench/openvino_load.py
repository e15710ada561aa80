"""OpenVINO GenAI under our loads; run by the Python that has it, and knows nothing of Zonda.

`python openvino_load.py MODEL.gguf WORK…` prints one JSON line per repeat: WORK is
`prefill:TOKENS`, `decode:PROMPT:NEW`, `serve:CONCURRENCY:PROMPT:NEW` or `prefix:TOKENS`.
A batch goes in as one call, in process, without a server: easier than what servers do.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import sys
import time
from typing import Any

FIRST_TOKEN, END_TOKEN = 1_000, 40_000
SUFFIX_TOKENS = 16


class Pipeline:
    """A model with continuous batching and prefix caching, as its own server would set it up."""

    def __init__(self, path: str) -> None:
        self._genai = importlib.import_module("openvino_genai")
        self._openvino = importlib.import_module("openvino")
        self._numpy = importlib.import_module("numpy")
        scheduler = self._genai.SchedulerConfig()
        scheduler.max_num_seqs = 32
        scheduler.max_num_batched_tokens = 2048
        scheduler.cache_size = 1
        scheduler.enable_prefix_caching = True
        threads = len(os.sched_getaffinity(0))
        self._pipeline = self._genai.LLMPipeline(
            path, "CPU", scheduler_config=scheduler, INFERENCE_NUM_THREADS=threads
        )
        self.run([random_prompt(8)], 4)

    def run(self, prompts: list[list[int]], new_tokens: int) -> tuple[float, float, float]:
        """Seconds in all, to the first token and between tokens."""
        config = self._genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = new_tokens
        config.ignore_eos = True
        config.apply_chat_template = False
        token_ids = self._numpy.array(prompts, dtype=self._numpy.int64)
        tensors = [self._openvino.Tensor(each) for each in (token_ids, token_ids * 0 + 1)]
        inputs = self._genai.TokenizedInputs(*tensors)
        began = time.perf_counter()
        metrics = self._pipeline.generate(inputs, config).perf_metrics
        took = time.perf_counter() - began
        return took, metrics.get_ttft().mean / 1e3, metrics.get_tpot().mean / 1e3


def random_prompt(num_tokens: int) -> list[int]:
    return [random.randrange(FIRST_TOKEN, END_TOKEN) for _ in range(num_tokens)]


def measure(pipeline: Pipeline, work: str) -> dict[str, Any]:
    name, *numbers = work.split(":")
    sizes = [int(number) for number in numbers]
    if name == "prefill":
        took, _, _ = pipeline.run([random_prompt(sizes[0])], 1)
        return {"tokens_per_s": sizes[0] / took}
    if name == "decode":
        _, _, token_s = pipeline.run([random_prompt(sizes[0])], sizes[1])
        return {"tokens_per_s": 1 / token_s}
    if name == "serve":
        concurrency, prompt_tokens, new_tokens = sizes
        prompts = [random_prompt(prompt_tokens) for _ in range(concurrency)]
        took, first_s, _ = pipeline.run(prompts, new_tokens)
        return {"tokens_per_s": concurrency * new_tokens / took, "first_token_ms": 1000 * first_s}
    prefix = random_prompt(sizes[0])
    times = [pipeline.run([prefix + random_prompt(SUFFIX_TOKENS)], 1)[0] for _ in range(2)]
    return {"first_ms": 1000 * times[0], "second_ms": 1000 * times[1]}


def main() -> None:
    pipeline = Pipeline(sys.argv[1])
    for work in sys.argv[2:]:
        sys.stdout.write(json.dumps({"work": work, **measure(pipeline, work)}) + "\n")


if __name__ == "__main__":
    main()
