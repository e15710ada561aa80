"""A tool server in plain Python that misbehaves on demand; starts in milliseconds.

Run as a script. Speaks the 2025-11-25 handshake over stdio, a line at a time. Its tools are the
functions below; its arguments are modes: `junk` prints other lines between messages, `stubborn`
ignores the end of its input and SIGTERM, `loud` writes to stderr, `hard` has a pattern too long
for any grammar in the schema of `hang`, `changing` has `become`, which changes the list of tools,
`cancelled`, which tells how many calls were given up, `crawl`, `deafen` and `storm`, `asking` has
`ask_client`, which sends a request to its client, and `ask_late`, which does once it has answered,
`reading` has resources, none with `bare`, and prompts, `limits` has tools that tell of limits and
run into them. An argument `tools=FILE` adds the tools in that file, schemas by name; they do not
answer.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
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


def ask_client(arguments: JSON, token: object) -> JSON:
    """Send the client a request and answer with its response; what comes before that waits."""
    ASKED.append(arguments["_id"])
    question_id = f"q{len(ASKED)}"
    send({"id": question_id, "method": arguments["method"], "params": arguments["params"]})
    for line in sys.stdin:
        message = json.loads(line)
        if message.get("id") == question_id:
            told = {key: value for key, value in message.items() if key in {"result", "error"}}
            return {"content": [], "structuredContent": told}
        WAITING.append(message)
    raise AssertionError("the client left")


def ask_late(arguments: JSON, token: object) -> JSON:
    """Answer first, ask then; what came of it is the next result of `ask_late`."""
    result: JSON = {"content": [], "structuredContent": {"last": LATE[-1:]}}
    if "method" in arguments:
        send({"id": arguments["_id"], "result": result})
        LATE.append(ask_client(arguments, token)["structuredContent"])
        return {}
    return result


def ask_and_leave(arguments: JSON, token: object) -> JSON:
    """Send the client requests and take each back at once."""
    for number in range(arguments["times"]):
        request_id = f"left-{number}"
        send({"id": request_id, "method": arguments["method"], "params": arguments["params"]})
        send({"method": "notifications/cancelled", "params": {"requestId": request_id}})
    return {"content": []}


def ask_often(arguments: JSON, token: object) -> JSON:
    """Send the client as many requests at once, and answer with how often it said what."""
    count = arguments["times"]
    for number in range(count):
        send({"id": f"q{number}", "method": arguments["method"], "params": arguments["params"]})
    told: dict[str, int] = {}
    for line in sys.stdin:
        message = json.loads(line)
        if str(message.get("id")).startswith("q"):
            what = message.get("result", {}).get("action") or message["error"]["message"]
            told[what] = told.get(what, 0) + 1
            count -= 1
        if count == 0:
            break
    return {"content": [], "structuredContent": told}


def tell_log(arguments: JSON, token: object) -> JSON:
    send({"method": "notifications/message", "params": arguments["params"]})
    return {"content": []}


def turn(arguments: JSON, token: object) -> JSON | None:
    """Answer when as many calls are open as `of` says, all of them at once."""
    OPEN.append(arguments["_id"])
    if len(OPEN) < arguments["of"]:
        return None
    for request_id in OPEN[:-1]:
        send({"id": request_id, "result": {"content": []}})
    return {"content": []}


def visit(arguments: JSON, token: object) -> JSON | None:
    """Refuse every call but one after a refused one, for a page has to be visited."""
    VISITS.append(arguments["_id"])
    if len(VISITS) == 3:
        return {"content": [{"type": "text", "text": "welcome"}]}
    page = {"mode": "url", "elicitationId": "1", "url": "https://example.org/in"}
    data = {"elicitations": [{**page, "message": "Sign in."}]}
    error = {"code": -32042, "message": "Sign in first.", "data": data}
    send({"id": arguments["_id"], "error": error})
    return None


def get_limits(arguments: JSON, token: object) -> JSON:
    kinds = {
        "cpu": resource.RLIMIT_CPU,
        "data": resource.RLIMIT_DATA,
        "nproc": resource.RLIMIT_NPROC,
    }
    told = {name: resource.getrlimit(kind) for name, kind in kinds.items()}
    return {"content": [], "structuredContent": told}


def allocate(arguments: JSON, token: object) -> JSON:
    try:
        held = bytearray(arguments["mib"] << 20)
    except MemoryError as exc:
        raise ValueError("MemoryError") from exc
    return {"content": [], "structuredContent": {"mib": len(held) >> 20}}


def burn(arguments: JSON, token: object) -> JSON:
    while True:
        pass


def write_file(arguments: JSON, token: object) -> JSON:
    try:
        Path(arguments["path"]).write_text("x", encoding="utf-8")
    except OSError as exc:
        raise ValueError(str(exc)) from exc
    names = [name for _, name in socket.if_nameindex()]
    return {"content": [], "structuredContent": {"interfaces": names}}


ASKED: list[object] = []
WAITING: list[JSON] = []
VISITS: list[object] = []
OPEN: list[object] = []
LATE: list[JSON] = []
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
if "asking" in MODES:
    TOOLS |= {
        "ask_client": ask_client,
        "ask_late": ask_late,
        "tell_log": tell_log,
        "turn": turn,
        "visit": visit,
        "ask_and_leave": ask_and_leave,
        "ask_often": ask_often,
    }
if "limits" in MODES:
    TOOLS |= {
        "get_limits": get_limits,
        "allocate": allocate,
        "burn": burn,
        "write_file": write_file,
    }
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


def link(arguments: JSON, token: object) -> JSON:
    return {"content": [{"type": "resource_link", "uri": "note://1", "name": "a note"}]}


if "reading" in MODES:
    TOOLS["link"] = link
READABLE: JSON = {"resources": {}, "prompts": {}}


def read(method: str, params: JSON) -> JSON:
    """Offer a note and a picture on two pages, no templates, and a prompt."""
    note = {"uri": "note://1", "name": "a note", "description": "About a\u200b note.", "size": 5}
    picture = {"uri": "note://2", "name": "a picture", "mimeType": "image/png"}
    if method == "resources/list" and "bare" in MODES:
        return {"resources": []}
    if method == "resources/list":
        return (
            {"resources": [picture]}
            if "cursor" in params
            else {"resources": [note], "nextCursor": "more"}
        )
    if method == "resources/read" and params["uri"] == "note://1":
        return {"contents": [{"uri": "note://1", "text": "hello"}]}
    if method == "resources/read" and params["uri"] == "note://2":
        return {"contents": [{"uri": "note://2", "mimeType": "image/png", "blob": "AAEC"}]}
    if method == "resources/read":
        raise ValueError("no such note")
    if method == "prompts/list":
        whom = {"name": "whom", "description": "Who is greeted.", "required": True}
        return {"prompts": [{"name": "greet", "description": "Greets.", "arguments": [whom]}]}
    if method == "prompts/get":
        said = [("user", f"Greet {params['arguments']['whom']}."), ("assistant", "Hello!")]
        turns = [{"role": role, "content": {"type": "text", "text": text}} for role, text in said]
        return {"messages": turns}
    raise LookupError(f"no method {method}")


def answer(request: JSON) -> None:
    method, params = request["method"], request.get("params") or {}
    if method == "initialize":
        result: JSON | None = {
            "protocolVersion": "2025-11-25",
            "capabilities": {"tools": {}, **({} if "reading" not in MODES else READABLE)},
            "serverInfo": {"name": "scripted", "version": "1"},
        }
    elif method == "tools/list":
        result = list_tools(params.get("cursor"))
    elif method == "tools/call":
        arguments = (params.get("arguments") or {}) | {"_id": request["id"]}
        token = (params.get("_meta") or {}).get("progressToken")
        result = TOOLS.get(params["name"], hang)(arguments, token)
    elif "reading" in MODES:
        result = read(method, params)
    else:
        raise LookupError(f"no method {method}")
    if result:
        send({"id": request["id"], "result": result})


def handle(request: JSON) -> None:
    if request.get("method") == "notifications/cancelled":
        CANCELLED.append(request["params"]["requestId"])
    if "id" in request and "method" in request:
        try:
            answer(request)
        except LookupError as exc:
            send({"id": request["id"], "error": {"code": -32601, "message": str(exc)}})
        except ValueError as exc:
            send({"id": request["id"], "error": {"code": -32000 - 1, "message": str(exc)}})


def main() -> None:
    if "stubborn" in MODES:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "loud" in MODES:
        print("starting up", file=sys.stderr, flush=True)  # noqa: T201  it is loud
    for line in sys.stdin:
        handle(json.loads(line))
        while WAITING:
            handle(WAITING.pop(0))
    while "stubborn" in MODES:
        time.sleep(1000)


if __name__ == "__main__":
    main()
