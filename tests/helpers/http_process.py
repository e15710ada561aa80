"""A `zonda serve` in a process of its own, on a free port."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import httpx2


class HttpServerProcess:
    """Runs `zonda serve --port 0`; `url` is known once it listens. Leaving kills what is left."""

    def __init__(
        self, *arguments: str, environ: Mapping[str, str], folder: Path | None = None
    ) -> None:
        command = [sys.executable, "-m", "mcp_servers", "serve", "--port", "0", *arguments]
        self._process = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            env=dict(environ),
            cwd=folder,
        )
        self.log: list[str] = []

    def __enter__(self) -> Self:
        self.url = self.read_until("serving MCP at ").partition("serving MCP at ")[2].split(",")[0]
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.communicate()

    def read_until(self, text: str) -> str:
        """Read the log up to the line that holds `text`."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.log.append(line)
            if text in line:
                return line
        raise AssertionError(f"no line says {text!r}: {''.join(self.log)}")

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> httpx2.Response:
        return httpx2.get(self.url.removesuffix("/mcp") + path, headers=headers, timeout=20)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """Return the exit status; the rest of the log is in `log`."""
        assert self._process.stderr is not None
        self.log.extend(self._process.stderr)
        return self._process.wait()
