"""The model server as a process: MCP over stdin and stdout, the models loading behind.

A host gets its first answers before anything heavy is imported. The process ends when its
input does, or on SIGTERM or SIGINT, and its tool servers end with it.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NoReturn

import anyio
import anyio.to_thread
from mcp.server.stdio import stdio_server

from mcp_servers.model_server.admin import Models
from mcp_servers.model_server.server import build_server
from mcp_servers.model_server.service import AgentSetup, ModelService, open_service
from mcp_servers.model_server.tools import Surface
from runtime.config import Config

if TYPE_CHECKING:
    from runtime.hub import Hub

logger = logging.getLogger(__name__)

GRACE_S = 0.8
"""How long runs and tool servers get to end; hosts are promised 1 s."""

LISTED_WITHIN_S = 2.0
"""Loading begins after so long even when the host never asks for the tools."""

ANSWERS_FIRST_S = 0.1
"""Loading begins so long after the tools were asked for, so that the answer is out first."""


async def serve_stdio(
    config: Config, agent: AgentSetup | None, surface: Surface, *, version: str
) -> None:
    """Serve until the input ends or a signal comes.

    A signal ends the process here: the thread that reads stdin cannot be cancelled.
    """
    async with stdio_server() as (read, write):
        async with (
            open_service(
                [config.model], lambda: open_hub(config), agent, surface=surface
            ) as service,
            anyio.create_task_group() as group,
        ):
            server = build_server(service, version=version)
            stopped = anyio.Event()
            group.start_soon(_stop_on_signal, group.cancel_scope, stopped)
            group.start_soon(prepare_later, service)
            logger.info("serving MCP over stdio, version %s, model %s", version, config.model)
            await server.run(read, write, server.create_initialization_options())
            logger.info("the input ended")
            end_process_within(GRACE_S)
            group.cancel_scope.cancel()
        if stopped.is_set():
            end_process(0)


@asynccontextmanager
async def open_hub(config: Config) -> AsyncIterator[Models]:
    """Open the hub of models; the engine is imported on a worker thread."""
    make_hub = await anyio.to_thread.run_sync(_import_hub, abandon_on_cancel=True)
    # What the imports made lives as long as the process. Looking through it again and again for
    # cycles would stop the event loop for 0.1 s at a time.
    gc.freeze()
    async with make_hub(config) as hub:
        yield hub


def end_process_within(seconds: float) -> None:
    """End the process after `seconds` even when a thread or a tool server does not yield."""
    timer = threading.Timer(seconds, end_process, args=(0,))
    timer.daemon = True
    timer.start()


def end_process(status: int) -> NoReturn:
    """End the process now: a thread inside a load or a forward pass cannot be interrupted."""
    logging.shutdown()
    os._exit(status)


async def prepare_later(service: ModelService) -> None:
    """Load behind the host's first questions: imports would hold up their answers."""
    with anyio.move_on_after(LISTED_WITHIN_S):
        await service.listed.wait()
        await anyio.sleep(ANSWERS_FIRST_S)
    await service.prepare()


def _import_hub() -> type[Hub]:
    from runtime.hub import Hub

    return Hub


async def _stop_on_signal(scope: anyio.CancelScope, stopped: anyio.Event) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            logger.info("stopping on %s", signal.Signals(number).name)
            stopped.set()
            end_process_within(GRACE_S)
            scope.cancel()
