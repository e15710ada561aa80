"""`zonda serve` as a process: keys, readiness, tools in both eras, and how it ends."""

from __future__ import annotations

import ipaddress
import json
import signal
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx2
import mcp_types as t
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.helpers.http_process import HttpServerProcess
from tests.helpers.tiny_gguf import write_tiny_llama
from tests.helpers.web_service import connect

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ERAS = ("legacy", "2026-07-28")
KEY = "key-0123456789abcdef"
COLOUR = {"type": "object", "properties": {"c": {"enum": ["red", "blue"]}}, "required": ["c"]}
ENDLESS = {"max_tokens": 8000, "wait_seconds": 0}


def structured(result: t.CallToolResult) -> dict[str, Any]:
    assert not result.is_error, result.content
    return dict(result.structured_content or {})


async def run_server(server: HttpServerProcess, era: str, key: str | None = None) -> None:
    """Call every tool."""
    with anyio.fail_after(40):
        async with connect(server.url, era, key) as client:
            said = await client.call_tool("generate", {"prompt": "Hello", "max_tokens": 8})
            value = await client.call_tool("extract", {"instructions": "one", "schema": COLOUR})
            options = {"question": "which?", "options": ["red", "blue"]}
            choice = await client.call_tool("choose", options)
    assert structured(said)["usage"]["completion_tokens"] <= 8
    assert structured(value)["value"]["c"] in {"red", "blue"}
    assert structured(choice)["choice"] in {"red", "blue"}


async def test_every_tool_works_with_the_key_and_then_the_server_ends_well(
    tiny_model: Path, environ: dict[str, str]
) -> None:
    arguments = ("--model", str(tiny_model))
    with HttpServerProcess(*arguments, environ={**environ, "ZONDA_API_KEY": KEY}) as server:
        assert server.get("/ready").status_code == 401
        for era in ERAS:
            await run_server(server, era, KEY)
        ready = server.get("/ready", {"authorization": f"Bearer {KEY}"})
        server.stop()
        assert server.wait() == 0
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})
    log = "".join(server.log)
    assert "stopping on SIGTERM" in log
    assert KEY not in log
    assert "Hello" not in log
    assert "Traceback" not in log


async def hand_out(server: HttpServerProcess) -> None:
    """Leave runs behind that go on for a long time after their client has left."""
    with anyio.fail_after(40):
        async with connect(server.url, "legacy") as client:
            await client.call_tool("generate", {"prompt": "Hello", "max_tokens": 1})
            for number in range(16):
                result = await client.call_tool("generate", {**ENDLESS, "prompt": f"Say {number}"})
                assert structured(result)["status"] == "running"


async def test_first_signal_drains_and_a_second_one_ends_at_once(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    environ |= {"ZONDA_DRAIN_S": "600", "ZONDA_CONTEXT_LENGTH": "8192"}
    model = write_tiny_llama(tmp_path / "long.gguf", context_length=8192)
    with HttpServerProcess("--model", str(model), environ=environ) as server:
        await hand_out(server)
        server.stop()
        server.read_until("stopping on SIGTERM")
        ready = server.get("/ready")
        server.stop()
        assert server.wait() == 128 + signal.SIGTERM
    assert (ready.status_code, ready.json()) == (503, {"status": "draining"})


async def test_draining_ends_when_its_time_is_over_and_streams_are_closed(
    tiny_model: Path, environ: dict[str, str]
) -> None:
    environ |= {"ZONDA_DRAIN_S": "0"}
    with HttpServerProcess("--model", str(tiny_model), environ=environ) as server:
        with anyio.fail_after(40):
            async with connect(server.url, "legacy") as client:
                await client.call_tool("generate", {"prompt": "Hello", "max_tokens": 1})
                server.stop(signal.SIGINT)
                status = await anyio.to_thread.run_sync(server.wait)
    assert status == 0
    assert "graceful shutdown exceeded" not in "".join(server.log)


async def test_model_that_is_missing_is_told_by_ready_and_by_each_call(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    with HttpServerProcess("--model", str(tmp_path / "no.gguf"), environ=environ) as server:
        server.read_until("is not available")
        ready = server.get("/ready")
        with anyio.fail_after(40):
            async with connect(server.url, "2026-07-28") as client:
                result = await client.call_tool("generate", {"prompt": "Hello"})
    assert (ready.status_code, ready.json()) == (503, {"status": "failed"})
    assert result.is_error


CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "stream": True}
CHAT_PATH = "/v1/chat/completions"


async def stop_in_stream(
    server: HttpServerProcess, model: Path, max_tokens: int, *asked: tuple[str, str]
) -> tuple[list[str], list[httpx2.Response]]:
    """Stop the server once a stream has begun, ask it more; return the events and answers."""
    base = server.url.removesuffix("/mcp")
    body = {**CHAT, "model": str(model), "max_tokens": max_tokens, "temperature": 0}
    async with (
        httpx2.AsyncClient(base_url=base, timeout=50) as client,
        client.stream("POST", CHAT_PATH, json=body) as response,
    ):
        lines = response.aiter_lines()
        events = [await anext(lines)]
        server.stop()
        await anyio.to_thread.run_sync(server.read_until, "stopping on SIGTERM")
        answers = [
            await client.request(method, path, json={**body, "stream": False})
            for method, path in asked
        ]
        events += [line async for line in lines]
    return [line for line in events if line], answers


async def test_a_stream_goes_on_to_its_end_while_others_are_refused(
    tiny_model: Path, environ: dict[str, str]
) -> None:
    environ |= {"ZONDA_CONTEXT_LENGTH": "8192"}
    asked = (("GET", "/ready"), ("POST", CHAT_PATH))
    with HttpServerProcess("--model", str(tiny_model), environ=environ) as server:
        with anyio.fail_after(50):
            events, answers = await stop_in_stream(server, tiny_model, 300, *asked)
            status = await anyio.to_thread.run_sync(server.wait)
    ready, refused = answers
    assert (ready.status_code, ready.json(), status) == (503, {"status": "draining"}, 0)
    assert (refused.status_code, refused.headers["x-should-retry"]) == (503, "true")
    assert refused.json()["error"].keys() == {"message", "type", "param", "code"}
    assert events.pop() == "data: [DONE]"
    last = json.loads(events[-1].removeprefix("data: "))
    assert last["choices"][0]["finish_reason"] in {"stop", "length"}


async def test_a_stream_that_is_cut_off_says_so_in_a_whole_event(
    tiny_model: Path, environ: dict[str, str]
) -> None:
    environ |= {"ZONDA_DRAIN_S": "0", "ZONDA_CONTEXT_LENGTH": "8192"}
    with HttpServerProcess("--model", str(tiny_model), environ=environ) as server:
        with anyio.fail_after(50):
            events, _ = await stop_in_stream(server, tiny_model, 8000)
            status = await anyio.to_thread.run_sync(server.wait)
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert chunks.pop()["error"]["message"].startswith("the server is shutting down")
    assert {chunk["choices"][0]["finish_reason"] for chunk in chunks} == {None}
    assert status == 0
    assert "Traceback" not in "".join(server.log)


def write_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate of 127.0.0.1 that its own key signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "zonda test")])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_path, key_path = folder / "cert.pem", folder / "key.pem"
    cert_path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    key_path.chmod(0o600)
    return cert_path, key_path


async def test_https_and_the_access_log(
    tiny_model: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    cert, key = write_certificate(tmp_path)
    log = tmp_path / "access.jsonl"
    files = ("--tls-cert", str(cert), "--tls-key", str(key), "--access-log", str(log))
    arguments = ("--model", str(tiny_model), *files)
    keys = {"ZONDA_API_KEY": f"ada:inference:{KEY} bob:admin:bob-0123456789abcdef"}
    with HttpServerProcess(*arguments, environ=environ | keys) as server:
        base = server.url.removesuffix("/mcp")
        trusted = ssl.create_default_context(cafile=str(cert))
        headers = {"authorization": f"Bearer {KEY}"}
        body = {**CHAT, "model": str(tiny_model), "max_tokens": 5, "temperature": 0}
        async with httpx2.AsyncClient(
            base_url=base, verify=trusted, headers=headers, timeout=50
        ) as client:
            answer = await client.post(CHAT_PATH, json=body)
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"{base}/health")
        with pytest.raises(httpx2.RemoteProtocolError):
            httpx2.get(base.replace("https", "http") + "/health")
        server.stop()
        assert server.wait() == 0
    assert base.startswith("https://127.0.0.1:")
    assert answer.text.endswith("data: [DONE]\n\n")
    (record,) = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    assert (record["id"], record["principal"]) == (answer.headers["x-request-id"], "key ada")
    assert (record["route"], record["status"], record["completion_tokens"]) == (CHAT_PATH, 200, 5)
    assert "Traceback" not in "".join(server.log)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "zonda: other machines can reach 0.0.0.0, so a key is needed: "),
        (["--api-key-file", "/nothing"], "zonda: the key file /nothing cannot be read: "),
        (["--tls-cert", "/nothing"], "zonda: TLS needs both files: "),
        (["--tls-cert", "/no", "--tls-key", "/no"], "zonda: /no cannot be read: "),
        (
            ["--tls-cert", "/etc/hostname", "--tls-key", "/etc/hostname"],
            "zonda: /etc/hostname and /etc/hostname are not a certificate and its private key",
        ),
        (["--host", "203.0.113.1", "--port", "0"], "zonda: 203.0.113.1 port 0 cannot be bound: "),
    ],
)
def test_wrong_start_is_one_line(
    arguments: list[str], message: str, environ: dict[str, str]
) -> None:
    key = {"ZONDA_API_KEY": KEY} if "203.0.113.1" in arguments else {}
    done = subprocess.run(
        [sys.executable, "-m", "mcp_servers", "serve", *arguments],
        env=environ | key,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1
