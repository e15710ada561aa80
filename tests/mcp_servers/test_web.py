"""Tests of the HTTP server's socket."""

from __future__ import annotations

import socket

from mcp_servers.model_server.web import listen, url_of


def test_connections_send_the_end_of_an_answer_without_waiting_for_its_beginning() -> None:
    with listen("127.0.0.1", 0) as listener:
        assert url_of(listener).startswith("http://127.0.0.1:")
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
