"""A tool server in plain Python that misbehaves on demand; starts in milliseconds.

Run as a script. Speaks the 2025-11-25 handshake over stdio, a line at a time. Its tools are the
functions below; its arguments are modes: `junk` prints other lines between messages, `stubborn`
ignores the end of its input and SIGTERM, `loud` writes to stderr, `hard` has a pattern too long
for any grammar in the schema of `hang`, `changing` has `become`, which changes the list of tools,
`cancelled`, which tells how many calls were given up, `crawl`, `deafen` and `storm`. An argument
`tools=FILE` adds the tools in that file, schemas by name; they do not answer.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

JSON = dict[str, Any]
MODES = set(sys.argv[1:])


def send(message: JSON) -> None:
    line = json.dumps({"jsonrpc": "2.0"} | message) + "\n"
    noise = "this is not JSON\n\n[1]\n" if "junk" in MODES else ""
    print(noise + line, end="", flush=True)  # noqa: T201  the protocol's own stdout


def echo(arguments: JSON, token: object) -> JSON:
    return {"content": [{"type": "text", "text": arguments["text"]}]}


def environment(arguments: JSON, token: object) -> JSON:
    seen = dict(os.environ)
    value = {"env": seen, "cwd": str(Path.cwd()), "pid": os.getpid(), "sid": os.getsid(0)}
    return {"content": [], "structuredContent": value}


def die(arguments: JSON, token: object) -> JSON:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def hang(arguments: JSON, token: object) -> JSON | None:
    return None


def refuse(arguments: JSON, token: object) -> JSON:
    raise ValueError("not today")


def count(arguments: JSON, token: object) -> JSON:
    """Report progress out of order, then answer."""
    for progress in (1, 3, 2):
        params = {"progressToken": token, "progress": progress, "total": 3}
        send({"method": "notifications/progress", "params": params})
        time.sleep(0.05)
    return {"content": [{"type": "text", "text": "counted"}]}


def spawn(arguments: JSON, token: object) -> JSON:
    """Start a child that ignores SIGTERM; answer once it does."""
    code = (
        "import signal, time; signal.signal(15, signal.SIG_IGN); "
        "print(1, flush=True); time.sleep(1000)"
    )
    child = subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    return {"content": [], "structuredContent": {"pid": child.pid}}


def spawn_and_exit(arguments: JSON, token: object) -> JSON:
    send({"id": arguments["_id"], "result": spawn(arguments, token)})
    sys.exit(0)


def flood(arguments: JSON, token: object) -> JSON:
    return {"content": [{"type": "text", "text": "x" * arguments["size"]}]}


def mislead(arguments: JSON, token: object) -> JSON:
    return {"content": [], "structuredContent": {"n": "not a number"}}


def malform(arguments: JSON, token: object) -> JSON:
    return {"content": "no list"}


def become(arguments: JSON, token: object) -> JSON:
    """Offer these tools too from now on, by name and description, and say so."""
    CHANGING.clear()
    CHANGING.update(arguments["tools"])
    for _ in range(arguments.get("times", 1)):
        send({"method": "notifications/tools/list_changed"})
    return {"content": [{"type": "text", "text": "become"}]}


def cancelled(arguments: JSON, token: object) -> JSON:
    return {"content": [], "structuredContent": {"num_cancelled": len(CANCELLED)}}


def crawl(arguments: JSON, token: object) -> JSON:
    """Take `steps` steps of 0.1 s, telling of each."""
    for progress in range(arguments["steps"]):
        time.sleep(0.1)
        params = {"progressToken": token, "progress": progress + 1}
        send({"method": "notifications/progress", "params": params})
    return {"content": [{"type": "text", "text": "there"}]}


def deafen(arguments: JSON, token: object) -> JSON:
    """Answer, and read nothing from then on."""
    send({"id": arguments["_id"], "result": {"content": []}})
    while True:
        time.sleep(1000)


def storm(arguments: JSON, token: object) -> JSON:
    """Send notifications of every kind, known or not, then answer."""
    for number in range(arguments["times"]):
        progress = {"progressToken": token, "progress": number + 1}
        send({"method": "notifications/progress", "params": progress})
        send({"method": "notifications/progress", "params": {**progress, "progressToken": "?"}})
        send({"method": "notifications/message", "params": {"level": "info", "data": "!" * 100}})
        send({"method": "notifications/nonsense", "params": {"number": number}})
        send({"method": "notifications/cancelled", "params": {"requestId": number}})
    return {"content": [{"type": "text", "text": "calm"}]}


CHANGING: dict[str, str] = {}
CANCELLED: list[object] = []
TOOLS = {
    f.__name__: f
    for f in (
        *(echo, environment, die, hang, refuse, count, spawn, spawn_and_exit),
        *(flood, mislead, malform),
    )
}
if "changing" in MODES:
    TOOLS |= {"become": become, "cancelled": cancelled, "crawl": crawl, "deafen": deafen}
    TOOLS["storm"] = storm
SCHEMAS: JSON = {
    "echo": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    "refuse": {"type": "object", "minProperties": "two" if "invalid" in MODES else 0},
}
if "hard" in MODES:
    too_long = {"type": "string", "pattern": "a" * 5000}
    SCHEMAS["hang"] = {"type": "object", "properties": {"a": too_long}}
for mode in MODES:
    if mode.startswith("tools="):
        given = json.loads(Path(mode.removeprefix("tools=")).read_text("utf-8"))
        SCHEMAS |= given
        TOOLS |= dict.fromkeys(given, hang)
OUTPUT = {"type": "object", "properties": {"n": {"type": "integer"}}}


def list_tools(cursor: str | None) -> JSON:
    """Answer in two pages."""
    names = sorted([*TOOLS, *CHANGING], reverse=True)
    page = names[6:] if cursor else names[:6]
    tools = [{"name": name, "inputSchema": SCHEMAS.get(name, {"type": "object"})} for name in page]
    for tool in tools:
        if tool["name"] in CHANGING:
            tool["description"] = CHANGING[tool["name"]]
        if tool["name"] == "mislead":
            tool["outputSchema"] = OUTPUT
    return {"tools": tools} | ({} if cursor else {"nextCursor": "more"})


def answer(request: JSON) -> None:
    method, params = request["method"], request.get("params") or {}
    if method == "initialize":
        result: JSON | None = {
            "protocolVersion": "2025-11-25",
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "scripted", "version": "1"},
        }
    elif method == "tools/list":
        result = list_tools(params.get("cursor"))
    elif method == "tools/call":
        arguments = (params.get("arguments") or {}) | {"_id": request["id"]}
        token = (params.get("_meta") or {}).get("progressToken")
        result = TOOLS.get(params["name"], hang)(arguments, token)
    else:
        raise LookupError(f"no method {method}")
    if result is not None:
        send({"id": request["id"], "result": result})


def main() -> None:
    if "stubborn" in MODES:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "loud" in MODES:
        print("starting up", file=sys.stderr, flush=True)  # noqa: T201  it is loud
    for line in sys.stdin:
        request = json.loads(line)
        if request.get("method") == "notifications/cancelled":
            CANCELLED.append(request["params"]["requestId"])
        if "id" in request and "method" in request:
            try:
                answer(request)
            except LookupError as exc:
                send({"id": request["id"], "error": {"code": -32601, "message": str(exc)}})
            except ValueError as exc:
                send({"id": request["id"], "error": {"code": -32000 - 1, "message": str(exc)}})
    while "stubborn" in MODES:
        time.sleep(1000)


if __name__ == "__main__":
    main()
