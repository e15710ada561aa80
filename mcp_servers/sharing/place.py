"""Where a user's engine process listens, and how a relay finds it or starts it.

A relay binds the socket itself and hands it over: it can speak at once, whatever the engine
process still imports. A lock lets one relay at a time start a process. Knows nothing of MCP.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import mcp_servers
from mcp_servers.sharing.wire import config_to_json, peer_uid
from runtime.config import Config
from tools.errors import UnavailableError

HOSTS_OWN = frozenset(
    {
        *("share", "engine_idle_s", "host", "port", "drain_s", "mcp_urls"),
        *("any_model_name", "served_model_name"),
        *("policy_file", "audit", "audit_contents"),
        *("oauth_issuer", "oauth_resource", "oauth_scopes", "oauth_keys"),
    }
)
"""Settings that two hosts of one engine process may have different."""

MAX_PATH_BYTES = 100
"""Of a socket's path; macOS allows 103, Linux 107."""

BACKLOG = 128
CONNECT_WITHIN_S = 10.0

CHANGED = "Zonda was changed since this host started it; restart it in the host"

_START = """
import json, os, sys
if os.fork():  # no host's process tree holds the engine
    os._exit(0)
sys.path[:] = json.loads(sys.argv[1])
from mcp_servers.engine_process import main
main(sys.argv[2:])
"""


@dataclass(frozen=True, slots=True)
class EnginePlace:
    """The files of one engine process, in a folder that only its user can enter.

    Attributes:
        digest: of the program and the engine's settings; another one is another process.
        socket: where it listens.
        lock: held by whoever starts or ends an engine process of this user.
        errors: what the process wrote to stderr, from its start on.
        pid: names the process that listens or listened last.
    """

    digest: str
    folder: Path

    @property
    def socket(self) -> Path:
        return self.folder / f"{self.digest}.sock"

    @property
    def lock(self) -> Path:
        return self.folder / "lock"

    @property
    def errors(self) -> Path:
        return self.folder / f"{self.digest}.err"

    @property
    def pid(self) -> Path:
        return self.folder / f"{self.digest}.pid"


def find_place(config: Config, environ: Mapping[str, str]) -> EnginePlace:
    """Return where the engine process of this configuration is, running or not.

    Raises:
        UnavailableError: there is no private folder for it.
    """
    digest = engine_digest(config, environ)
    folder = config.state_dir.absolute() / "engine"
    if len(os.fsencode(folder / f"{digest}.sock")) > MAX_PATH_BYTES:
        folder = Path("/tmp") / f"zonda-{os.geteuid()}"  # noqa: S108 - checked to be ours alone
    try:
        _make_private(folder)
    except OSError as exc:
        raise UnavailableError(
            f"the folder {folder} of the shared engine process cannot be made: {exc.strerror}"
        ) from exc
    return EnginePlace(digest, folder)


def engine_digest(config: Config, environ: Mapping[str, str]) -> str:
    """Return 16 hexadecimal digits that change with the program, the machine and the settings."""
    settings = json.loads(config_to_json(config))
    parts = (
        code_stamp(Path(mcp_servers.__file__).parent.parent),
        sys.executable,
        os.uname().nodename,  # a home folder may be shared by machines
        environ.get("CUDA_VISIBLE_DEVICES", ""),
        *(f"{name}={value!r}" for name, value in settings.items() if name not in HOSTS_OWN),
    )
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


def code_stamp(root: Path) -> str:
    """Return a digest of names, sizes and times of our own code: an update is another version."""
    found = []
    for package in ("mcp_servers", "runtime", "tools"):
        for folder, _, _ in os.walk(root / package):
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.endswith((".py", ".so")):
                        size, time = entry.stat().st_size, entry.stat().st_mtime_ns
                        found.append(f"{entry.path}:{size}:{time}")
    return hashlib.blake2b("\n".join(sorted(found)).encode()).hexdigest()


@contextmanager
def locked(place: EnginePlace) -> Iterator[None]:
    """Hold the lock of a user's engine processes; it dies with its holder."""
    with place.lock.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def try_locked(place: EnginePlace) -> Iterator[bool]:
    """As `locked`, but yield False where somebody else holds the lock."""
    with place.lock.open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def connect(place: EnginePlace) -> socket.socket | None:
    """Connect to the engine process; None where none listens.

    Raises:
        UnavailableError: another user listens there, or nobody accepts.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(CONNECT_WITHIN_S)
        connection.connect(str(place.socket))
        connection.settimeout(None)
        if peer_uid(connection) not in {None, os.geteuid()}:
            raise UnavailableError(f"another user listens at {place.socket}; remove that file")
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    except OSError as exc:
        connection.close()
        raise UnavailableError(f"the engine process at {place.socket}: {exc}") from exc
    except UnavailableError:
        connection.close()
        raise
    return connection


def connect_or_start(place: EnginePlace, config: Config) -> socket.socket:
    """Connect to the engine process, starting it where none listens.

    The process may still be importing, or about to fail: its welcome tells.

    Raises:
        UnavailableError: the process cannot be started or connected to.
    """
    connection = None
    try:
        if (connection := connect(place)) is not None:
            return connection
        with locked(place):
            if (connection := connect(place)) is None:
                with _listen(place) as listener:
                    connection = connect(place)  # waits to be let in, whatever comes of it
                    _start(place, config, listener)
    except OSError as exc:
        if connection is not None:
            connection.close()
        raise UnavailableError(f"the engine process cannot be started: {exc}") from exc
    if connection is None:
        raise UnavailableError(f"the socket {place.socket} was removed as it was made; try again")
    return connection


def last_words(place: EnginePlace) -> str:
    """Return the last line that the engine process wrote to stderr; empty if there is none."""
    with suppress(OSError):
        lines = place.errors.read_text("utf-8", errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
    return ""


def _listen(place: EnginePlace) -> socket.socket:
    place.socket.unlink(missing_ok=True)  # of a process that was killed
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(place.socket))
        place.socket.chmod(0o600)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _start(place: EnginePlace, config: Config, listener: socket.socket) -> None:
    """Start the process; it belongs to no host's session and keeps none of its files open."""
    path = [str(Path(entry).absolute()) for entry in sys.path]
    number = str(listener.fileno())
    arguments = [json.dumps(path), str(place.folder), place.digest, number, config_to_json(config)]
    with place.errors.open("wb") as errors:
        process = subprocess.Popen(  # noqa: S603 - this very program
            [sys.executable, "-P", "-c", _START, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            cwd="/",
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
    process.wait()


def _make_private(folder: Path) -> None:
    """Make the folder, or see that it is ours and nobody else's.

    Raises:
        OSError: it cannot be made, or somebody else could put files there.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError(1, "something of that name there belongs to somebody else")
    if found.st_mode & 0o077:
        folder.chmod(0o700)
