"""Hostile bodies at every address that takes one, with a tiny real model behind it.

A finding is an answer that says the server failed, or a refusal that no client of that API can
read. Run as `python -m tests.fuzz.bodies`; a finding prints how to repeat it.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2

from mcp_servers.guard import make_access
from mcp_servers.model_server.admission import AdmissionLimits
from mcp_servers.model_server.completions import Completions, client_routes
from mcp_servers.model_server.server import build_server
from mcp_servers.model_server.service import open_service
from mcp_servers.model_server.stdio import open_hub
from mcp_servers.web_app import open_web_app
from runtime.config import Config
from runtime.http_api.openapi import write_document
from runtime.http_api.operations import OPERATIONS
from tests.fuzz.mutations import mutate
from tests.helpers.tiny_gguf import write_tiny_llama
from tests.helpers.web_service import HEADERS, ServedApp

logger = logging.getLogger("fuzz")

MCP = "/mcp"
MODERN = {"mcp-protocol-version": "2026-07-28"}
WITHIN_S = 20
CONTEXT_LENGTH = 256

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 0}}}
FUNCTION = {"name": "add", "description": "Add.", "parameters": SCHEMA}
CALL = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1.5}'}}
ITEM = {"type": "function_call", "call_id": "c", "name": "add", "arguments": '{"a": [true]}'}
USES = {"type": "tool_use", "id": "c", "name": "add", "input": {"a": 1}}
SAID = {"role": "user", "content": "Hi."}
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "fuzz", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
LARGER: list[tuple[str, dict[str, Any]]] = [
    (
        "/v1/chat/completions",
        {
            "messages": [
                SAID,
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "2"}]},
            ],
            "tools": [{"type": "function", "function": FUNCTION}],
            "tool_choice": "auto",
            "max_tokens": 4,
            "stop": ["a", "b"],
            "logit_bias": {"7": -1.5},
            "stream": True,
        },
    ),
    (
        "/v1/chat/completions",
        {
            "messages": [SAID],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "n", "schema": SCHEMA},
            },
            "max_tokens": 4,
            "logprobs": True,
            "top_logprobs": 2,
            "seed": 7,
            "temperature": 0.5,
            "metadata": {"a": "b"},
        },
    ),
    ("/v1/completions", {"prompt": [[5, 6], [7]], "max_tokens": 2, "logprobs": 1, "echo": True}),
    ("/v1/completions", {"prompt": "a", "guided_regex": "[ab]{1,3}", "max_tokens": 4}),
    ("/v1/embeddings", {"input": [[5, 6]], "dimensions": 8, "encoding_format": "base64"}),
    (
        "/v1/responses",
        {
            "input": [
                SAID,
                ITEM,
                {"type": "function_call_output", "call_id": "c", "output": "2"},
            ],
            "tools": [{"type": "function", **FUNCTION}],
            "max_output_tokens": 16,
            "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}},
            "reasoning": {"effort": "low", "summary": "auto"},
            "stream": True,
        },
    ),
    (
        "/v1/messages",
        {
            "messages": [
                SAID,
                {"role": "assistant", "content": [{"type": "text", "text": "I add."}, USES]},
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "tool_use_id": "c", "content": "2"}],
                },
            ],
            "tools": [{"name": "add", "input_schema": SCHEMA}],
            "system": [{"type": "text", "text": "Be brief."}],
            "max_tokens": 4,
            "temperature": 1,
            "stream": True,
        },
    ),
]
TOLD: list[dict[str, Any]] = [
    {"method": "tools/list", "params": {"_meta": META}},
    {"method": "resources/list", "params": {"_meta": META}},
    {
        "method": "tools/call",
        "params": {
            "name": "generate",
            "arguments": {"prompt": "a", "max_tokens": 2, "temperature": 0.5},
            "_meta": META,
        },
    },
    {
        "method": "tools/call",
        "params": {
            "name": "embed",
            "arguments": {"texts": ["a", "b"]},
            "_meta": META,
        },
    },
]

TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')
HOSTILE = [
    *(b"NaN", b"-Infinity", b"1e999", b"-0", b"1.0", b"1e3", b"9" * 5000, b"9223372036854775808"),
    *(b"-9223372036854775809", b"123456789012345678901234567890", b"0.1e-400", b"01", b"0x10"),
    *(b'"\\ud800"', b'"\\udc00\\ud800"', b'"\xff"', b'"\xed\xa0\x80"', b'"\xc0\x80"', b'"\0"'),
    *(b'"\\u0000"', b'"\xef\xbb\xbf"', b'"\\x41"', b'"\n"', b'"\xf0\x9f\x98\x80"', b'"\\u202e"'),
    *(b'"<|im_end|>"', b'"<tool_call>{"', b'""', b'" "', b'"' + b"a" * 3000 + b'"', b'"../x"'),
    *(
        b"null",
        b"true",
        b"{}",
        b"[]",
        b"[[]]",
        b'{"":{}}',
        b'{"a":1,"a":2}',
        b'{"\\u0061":1,"a":2}',
    ),
    *(b"[" * 100_000, b"[" * 90 + b"]" * 90, b'{"a":' * 400 + b"1" + b"}" * 400),
    *(b'"{\\"a\\": NaN}"', b'"{\\"a\\": \\"\\\\ud800\\"}"', b'"[[[["', b'"{\\"a\\":1,\\"a\\":2}"'),
    *(b'"' + b'{\\"a\\":' * 900 + b"1" + b"}" * 900 + b'"', b'{"$ref":"#"}', b'{"type":["x"]}'),
    *(b'{"pattern":"("}', b'{"pattern":"(a+)+$"}', b'{"enum":[]}', b'{"minimum":1e308}'),
]
PLAIN = [
    *(b"null", b"true", b"false", b"0", b"1", b"-1", b"2.5", b"16.0", b"40", b"3000000000"),
    *(b'""', b'"a"', b'"\\u0000\\u202e"', b'"auto"', b'"none"', b'"required"', b"{}", b"[]"),
    *(b'["a"]', b"[5]", b'{"a":"b"}', b'{"type":"object"}', b'[{"type":"text","text":"a"}]'),
]
"""What stands in place of a value: what no JSON is, or what is no good; and what may be."""


def headers(body: dict[str, Any]) -> dict[str, str]:
    """Those that a request needs; MCP's say what is in its body."""
    if "method" not in body:
        return HEADERS
    name = body["params"].get("name")
    return {
        **HEADERS,
        **MODERN,
        "mcp-method": body["method"],
        **({"mcp-name": name} if name else {}),
    }


def seeds() -> list[tuple[str, dict[str, str], list[bytes]]]:
    """Each address with headers and a good body, as its tokens."""
    paths = write_document(OPERATIONS, "1", model="tiny")["paths"]
    found: list[tuple[str, dict[str, Any]]] = [
        (path, ways["post"]["requestBody"]["content"]["application/json"]["example"])
        for path, ways in paths.items()
        if "requestBody" in ways.get("post", {})
    ]
    found += [(path, {"model": "tiny", **body}) for path, body in LARGER]
    found += [(MCP, {"jsonrpc": "2.0", "id": 1, **message}) for message in TOLD]
    return [
        (path, headers(body), TOKEN.findall(json.dumps(body, ensure_ascii=False).encode()))
        for path, body in found
    ]


SEEDS = seeds()


def values(tokens: list[bytes]) -> list[int]:
    """Where values stand that are no objects or lists."""
    ends = [*tokens[1:], b""]
    return [
        at
        for at, (token, end) in enumerate(zip(tokens, ends, strict=True))
        if token not in b"{}[],:" and end != b":"
    ]


def draw(number: int, seed: int = 0) -> tuple[str, dict[str, str], bytes]:
    """An address, and headers and a body for it."""
    rng = random.Random(seed << 40 | number)
    path, sent, tokens = rng.choice(SEEDS)
    tokens = list(tokens)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        at = rng.randrange(len(tokens))
        if rng.random() < 0.8:
            at = rng.choice(values(tokens) or [at])
        tokens[at] = rng.choice(HOSTILE if rng.random() < 0.4 else PLAIN)
    body = b"".join(tokens) if rng.random() < 0.8 else mutate(tokens, rng)
    return path, sent, b"\xef\xbb\xbf" + body if rng.random() < 0.01 else body


def check(path: str, response: httpx2.Response) -> None:
    """Raise AssertionError where the server failed, or says what its clients cannot read."""
    text = response.text
    assert response.status_code < 500, (response.status_code, text)
    failed = re.search(r'"(server_error|api_error)"|"code":\s*-32603|inside the server', text)
    assert failed is None, text
    if response.status_code < 400:
        return
    told = response.json()
    if path == MCP:
        assert told["jsonrpc"] == "2.0"
        assert told["error"].keys() >= {"code", "message"}
    elif path.startswith("/v1/messages"):
        assert told.keys() == {"type", "error", "request_id"}
        assert told["error"].keys() == {"type", "message"}
    else:
        assert told["error"].keys() == {"message", "type", "param", "code"}
    assert len(text) < 5000 or path == MCP  # which repeats a message's id, however long


@asynccontextmanager
async def serve(folder: Path) -> AsyncIterator[ServedApp]:
    """All that `zonda serve` has, over a tiny model by the name `tiny`."""
    model = write_tiny_llama(folder / "tiny.gguf", context_length=CONTEXT_LENGTH)
    config = Config(model=str(model), cache_dir=folder, state_dir=folder, any_model_name=True)
    limits = AdmissionLimits(max_running=64, max_running_each=64)
    async with open_service([config.model], lambda: open_hub(config), None, limits) as service:
        await service.prepare()
        routes = client_routes(Completions(service, any_name=True), "1")
        server = build_server(service, version="1")
        access = make_access("127.0.0.1", [])
        async with open_web_app(server, access, lambda: "ready", service.state, routes) as web:
            yield ServedApp(web, service)


async def run(first: int, executions: int, seed: int, folder: Path) -> Counter[str]:
    """Send the bodies one after the other; count answers by address and status."""
    seen = Counter[str]()
    async with serve(folder) as app:
        for number in range(first, first + executions):
            path, sent, body = draw(number, seed)
            try:
                with anyio.fail_after(WITHIN_S):
                    response = await app.request("POST", path, sent, body)
                check(path, response)
            except Exception:
                logger.exception(
                    "repeat: --seed %d --first %d: %s %r", seed, number, path, body[:500]
                )
                seen["findings"] += 1
            else:
                seen[f"{path} {response.status_code}"] += 1
    return seen


def main() -> int:
    """Parse the arguments, run, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.bodies", description=__doc__)
    parser.add_argument("--executions", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first execution")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logger.setLevel(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        seen = anyio.run(run, options.first, options.executions, options.seed, Path(folder))
    statuses = Counter[str]()
    for name, count in seen.items():
        statuses[name.rpartition(" ")[2]] += count
    logger.info("%d bodies: %s", options.executions, dict(sorted(statuses.items())))
    return int(seen["findings"] > 0)


if __name__ == "__main__":
    sys.exit(main())
