"""Tests of the engine process's socket: when it closes, and when it must not."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from mcp_servers.model_server.engine_door import EngineDoor
from mcp_servers.sharing.place import EnginePlace, connect, locked

pytestmark = pytest.mark.anyio


@pytest.fixture
def place(tmp_path: Path) -> EnginePlace:
    place = EnginePlace("d", tmp_path)
    place.pid.write_text("1", "utf-8")
    return place


@pytest.fixture
def listener(place: EnginePlace) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place.socket))
        listener.listen()
        yield listener


async def test_closes_when_nobody_comes_and_leaves_no_file(
    place: EnginePlace, listener: socket.socket
) -> None:
    door = EngineDoor(place, listener, 0)
    with anyio.fail_after(5):
        await door.wait_until_idle()
    assert [file.name for file in place.folder.iterdir()] == ["lock"]
    assert connect(place) is None


async def test_stays_while_hosts_are_here_and_as_long_as_the_last_one_wants(
    place: EnginePlace, listener: socket.socket
) -> None:
    door = EngineDoor(place, listener, math.inf)
    served: list[int] = []
    leave = {number: anyio.Event() for number in (1, 2)}
    arrived = {number: anyio.Event() for number in (1, 2)}
    closed = anyio.Event()

    async def serve(connection: socket.socket, number: int) -> float | None:
        with connection:
            arrived[number].set()
            await leave[number].wait()
            served.append(number)
            return {1: 0.0, 2: None}[number]

    async def wait() -> None:
        await door.wait_until_idle()
        closed.set()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(door.accept, group, serve)
            group.start_soon(wait)
            connections = [connect(place) for _ in range(2)]
            for number in (1, 2):
                await arrived[number].wait()
            leave[1].set()
            await anyio.wait_all_tasks_blocked()
            assert (served, closed.is_set()) == ([1], False)
            leave[2].set()  # it left before it said how long: what the other wanted holds
            await closed.wait()
            group.cancel_scope.cancel()
    for connection in connections:
        assert connection is not None
        connection.close()
    assert connect(place) is None


async def test_does_not_close_while_a_relay_looks_for_it_or_waits_to_be_let_in(
    place: EnginePlace, listener: socket.socket
) -> None:
    door = EngineDoor(place, listener, 0)
    with locked(place):
        assert not door.try_close()
    waiting = connect(place)
    assert waiting is not None
    assert not door.try_close()
    listener.accept()[0].close()
    waiting.close()
    assert door.try_close()
    assert not place.socket.exists()


async def test_socket_of_another_process_in_its_place_is_left(
    place: EnginePlace, listener: socket.socket
) -> None:
    door = EngineDoor(place, listener, 0)
    place.socket.rename(place.folder / "moved")  # its number is not given to the next
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(place.socket))
        other.listen()
        assert door.try_close()
        found = connect(place)
        assert found is not None
        found.close()
    assert place.pid.exists()
