"""What `zonda mcp` holds in memory under a load that a few hosts make."""

from __future__ import annotations

from mcp_servers.cli.bench_server import ServerProcess
from mcp_servers.cli.bench_setup import cost_of, find_model
from mcp_servers.cli.records import Measurement
from runtime.config import Config, process_environment

NUM_SEQUENCES = 4
SEQUENCE_TOKENS = 2_048
"""Of each sequence, where the model's context holds so many."""

ROOM_TOKENS = 128
"""Of each sequence, left to the chat template and the answer."""

PROCESS_BYTES = 220 << 20
"""What interpreter, libraries, tokenizer and activations may take beside weights and pages."""

PACKED_SHARE = 1.03
"""Packed weights take at most so much of what they take in the file."""


def measure_memory(config: Config) -> Measurement:
    """Start the server, let it answer several long prompts at once, and look at it.

    Raises:
        UnavailableError: the server does not answer, or answers with an error.
    """
    from runtime.hub import open_files

    checkpoint, tokenizer = open_files(find_model(config), config.cache_dir)
    cost = cost_of(checkpoint, config)
    num_tokens = min(SEQUENCE_TOKENS, config.context_length or cost.context_length)
    token_ids = tokenizer.encode(" and so on" * num_tokens)[: num_tokens - ROOM_TOKENS]
    text = tokenizer.decode(token_ids)
    with ServerProcess(["--no-share", "--model", config.model], process_environment()) as server:
        server.initialize()
        server.generate([f"{number} {text}" for number in range(NUM_SEQUENCES)])
        resident_mib = server.resident_mib()
    weight_bytes = sum(checkpoint.info(name).num_bytes for name in checkpoint.names)
    kv_bytes = NUM_SEQUENCES * num_tokens * cost.layer_kv_bytes * len(cost.windows)
    limit = PACKED_SHARE * weight_bytes + kv_bytes + PROCESS_BYTES
    params = {"measure": "resident memory", "sequences": NUM_SEQUENCES, "tokens": num_tokens}
    return Measurement("startup", params, [resident_mib], "MiB", limit / 2**20)
