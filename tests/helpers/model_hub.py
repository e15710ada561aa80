"""A Hugging Face hub in this process: two requests' worth of its API, on a local port."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0" * 40


@contextmanager
def open_hub(repos: Mapping[str, Mapping[str, bytes]]) -> Iterator[tuple[str, list[str]]]:
    """Serve these repositories' files; yields the address and the paths that were read."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(has_body=False)

        def do_GET(self) -> None:
            requests.append(self.path)
            self._answer(has_body=True)

        def log_message(self, *args: object) -> None:
            pass

        def _answer(self, *, has_body: bool) -> None:
            body = _find(self.path, repos)
            self.send_response(404 if body is None else 200)
            if body is None:
                self.send_header("X-Error-Code", "RepoNotFound")
            else:
                self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            if has_body and body:
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _find(path: str, repos: Mapping[str, Mapping[str, bytes]]) -> bytes | None:
    for repo, files in repos.items():
        if path.partition("?")[0].startswith((f"/api/models/{repo}", f"/{repo}/")):
            if path.startswith("/api"):
                siblings = [{"rfilename": name} for name in files]
                return json.dumps({"id": repo, "sha": COMMIT, "siblings": siblings}).encode()
            return files.get(path.split("/", 5)[5])
    return None
