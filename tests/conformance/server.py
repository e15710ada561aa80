"""Our server factory and web application with the suite's fixtures, as a process.

Prints the address of its MCP endpoint, and serves until it is killed.
"""

from __future__ import annotations

import socket
import warnings
from collections.abc import Sequence

import anyio
import uvicorn
from mcp.shared.exceptions import MCPDeprecationWarning

from mcp_servers.guard import make_access
from mcp_servers.model_server.run_calls import serve_runs
from mcp_servers.prompt_handlers import Prompt
from mcp_servers.service_state import ServiceState
from mcp_servers.toolset_server import OfferingServer, build_server
from mcp_servers.web_app import open_web_app
from runtime.agent.runs import Runs
from runtime.agent.tool_tally import ToolCallTally
from tests.conformance.handlers import list_specs, wrap
from tests.conformance.offers import PROMPTS, RESOURCES
from tests.conformance.tools import TASK_AFTER_S, FixtureToolset

NOTHING = ServiceState(0, 0, {}, ToolCallTally(), {})


async def serve() -> None:
    """Serve on a free port of this machine."""
    async with Runs() as runs, anyio.create_task_group() as tasks:
        server = make_server(runs)
        assert server.announcements is not None
        tasks.start_soon(server.announcements.watch)
        access = make_access("127.0.0.1", ())
        async with open_web_app(server, access, lambda: "ready", lambda: NOTHING) as app:
            config = uvicorn.Config(app.asgi, lifespan="off", log_config=None)
            with socket.create_server(("127.0.0.1", 0)) as listener:
                port = listener.getsockname()[1]
                print(f"http://127.0.0.1:{port}/mcp", flush=True)  # noqa: T201  for who started it
                await uvicorn.Server(config).serve([listener])


def make_server(runs: Runs) -> OfferingServer:
    """Make a server as the product's are made, with the fixtures for tools and offers."""
    toolset = FixtureToolset(runs, list_specs())
    server = build_server(
        "conformance", toolset, version="1", resources=RESOURCES, prompts=_list_prompts
    )
    serve_runs(server, toolset, task_after_s=TASK_AFTER_S)
    wrap(server)
    return server


async def _list_prompts() -> Sequence[Prompt]:
    return PROMPTS


if __name__ == "__main__":
    warnings.simplefilter("ignore", MCPDeprecationWarning)  # the suite asks for what is leaving
    anyio.run(serve)
