"""The engine process: one set of models, and a session of its own for each host's relay.

A session has its own model service: tool servers, policy, runs. Only the models and the
places to run are shared. The process ends some time after its last host left.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Callable

import anyio
import anyio.to_thread
from anyio.abc import UNIXSocketStream
from starlette.authentication import SimpleUser
from starlette.requests import Request

from mcp_servers.model_server.admin import Models
from mcp_servers.model_server.admission import Admission, AdmissionLimits
from mcp_servers.model_server.background import Background
from mcp_servers.model_server.engine_door import EngineDoor
from mcp_servers.model_server.host_log import HostLog
from mcp_servers.model_server.line_streams import GONE, LineReader, LineWriter, open_line_streams
from mcp_servers.model_server.server import build_server
from mcp_servers.model_server.service import AgentSetup, open_service
from mcp_servers.model_server.shared_models import SharedModels
from mcp_servers.model_server.stdio import GRACE_S, end_process_within, open_hub, prepare_later
from mcp_servers.model_server.tools import Surface
from mcp_servers.sharing.place import CHANGED, EnginePlace
from mcp_servers.sharing.wire import MAX_HELLO_BYTES, Hello, peer_uid, private_line
from runtime.config import Config
from tools.errors import ConfigurationError, ZondaError

logger = logging.getLogger(__name__)

HELLO_WITHIN_S = 10.0

MakeAgent = Callable[[Hello], AgentSetup | None]


async def serve_shared(
    config: Config,
    place: EnginePlace,
    listener: socket.socket,
    make_agent: MakeAgent,
    *,
    version: str,
) -> None:
    """Serve relays on a bound socket until the last has left for long enough, or on a signal."""
    async with anyio.create_task_group() as group:
        models = Background[Models]("the models", lambda: open_hub(config))
        group.start_soon(models.run)
        admission = Admission(AdmissionLimits(max_running=config.max_sequences))
        sessions = Sessions(
            config, place.digest, SharedModels(models, group), admission, make_agent, version
        )
        door = EngineDoor(place, listener, config.engine_idle_s)
        logger.info("engine process %d, version %s, model %s", os.getpid(), version, config.model)
        async with anyio.create_task_group() as serving:
            serving.start_soon(door.accept, serving, sessions.serve)
            serving.start_soon(_stop_on_signal, serving.cancel_scope, door)
            await door.wait_until_idle()
            serving.cancel_scope.cancel()
        logger.info("the engine process ends")
        end_process_within(GRACE_S)
        group.cancel_scope.cancel()


class Sessions:
    """Serves each connection as a host's own server; what fails in one stays in it."""

    def __init__(
        self,
        config: Config,
        digest: str,
        models: SharedModels,
        admission: Admission,
        make_agent: MakeAgent,
        version: str,
    ) -> None:
        self._config = config
        self._digest = digest
        self._models = models
        self._admission = admission
        self._make_agent = make_agent
        self._version = version

    async def serve(self, connection: socket.socket, number: int) -> float | None:
        """Serve a host until it leaves; return how long it wants the process to stay then."""
        hello = None
        try:
            async with await UNIXSocketStream.from_socket(connection) as stream:
                reader, writer = LineReader(stream), LineWriter(stream)
                uid = peer_uid(connection)
                if uid not in {None, os.geteuid()}:
                    logger.warning("host=%d is user %d's and not let in", number, uid)
                    return None
                if (hello := await self._greet(reader, writer)) is None:
                    logger.info("host=%d left before it greeted", number)
                    return None
                await self._open(hello, reader, writer, number)
        except Exception as exc:
            if not _is_leaving(exc):
                logger.exception("host=%d: its session broke off", number)
        return None if hello is None else hello.config.engine_idle_s

    async def _greet(self, reader: LineReader, writer: LineWriter) -> Hello | None:
        line = None
        with anyio.move_on_after(HELLO_WITHIN_S):
            line = await reader.next(MAX_HELLO_BYTES)
        if line is None:
            return None
        try:
            hello = Hello.from_line(line)
            if hello.digest != self._digest:
                raise ConfigurationError(CHANGED)
        except ConfigurationError as exc:
            await writer.write(private_line("refused", str(exc)))
            return None
        return hello

    async def _open(
        self, hello: Hello, reader: LineReader, writer: LineWriter, number: int
    ) -> None:
        log = HostLog(hello.log_level)
        try:
            with log.attached():
                agent = await anyio.to_thread.run_sync(self._make_agent, hello)
        except ZondaError as exc:
            log.close()
            await writer.write(private_line("refused", str(exc)))
            return
        await writer.write(private_line("welcome", os.getpid()))
        logger.info("host=%d came", number)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(log.run, writer)
                with log.attached():
                    surface = Surface(
                        exposed=frozenset(hello.offers.exposed),
                        prompts_folder=hello.offers.prompts_folder,
                    )
                    await self._run(agent, surface, reader, writer, number)
                group.cancel_scope.cancel()
            await log.flush(writer)
        finally:
            log.close()
            logger.info("host=%d left", number)

    async def _run(
        self,
        agent: AgentSetup | None,
        surface: Surface,
        reader: LineReader,
        writer: LineWriter,
        number: int,
    ) -> None:
        user = SimpleUser(f"host {number}")
        request = Request({"type": "http", "headers": [], "user": user})
        names = [self._config.model]
        async with (
            open_line_streams(reader, writer, request) as (read, write),
            open_service(
                names, self._models.opened, agent, surface=surface, admission=self._admission
            ) as service,
            anyio.create_task_group() as group,
        ):
            await service.models.open()  # other hosts may have loaded some
            server = build_server(service, version=self._version)
            group.start_soon(prepare_later, service)
            await server.run(read, write, server.create_initialization_options())
            group.cancel_scope.cancel()


def _is_leaving(exc: BaseException) -> bool:
    """Whether a failure says only that the relay has left."""
    if isinstance(exc, BaseExceptionGroup):
        return all(_is_leaving(inner) for inner in exc.exceptions)
    return isinstance(exc, GONE)


async def _stop_on_signal(scope: anyio.CancelScope, door: EngineDoor) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            logger.info("stopping on %s", signal.Signals(number).name)
            door.close()
            end_process_within(GRACE_S)
            scope.cancel()
            return
