"""The page of `clsuite watch --serve`: on loopback alone, for reading alone.

It answers GET of `/` and `/state.json` and nothing else: no file is served, nothing can be changed. A page of some other site that has its name
point to this machine (DNS rebinding) is refused by the Host header it sends.
"""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ..errors import UsageError
from ..experiment.folder import plain
from .live import Live
from .live_page import POLICY, document

LOOPBACK = "127.0.0.1"
NAMES = (LOOPBACK, "localhost")
FRESH_SECONDS = 1.0
"""However many look, the folder is looked at once a second."""
CLIENT_SECONDS = 10.0
POLL_SECONDS = 0.1


class Page:
    """The page while the block lasts; `url` is where it is. Port 0 stands for a free one.

    Raises `UsageError` when the port cannot be had.
    """

    def __init__(self, live: Live, port: int = 0) -> None:
        if not 0 <= port <= 65535:
            raise UsageError(f"PORT = {port} is not valid: expected 1 to 65535, or nothing for a free one")
        try:
            self._server = _Server(live, port)
        except OSError as error:
            raise UsageError(f"PORT = {port} cannot be had: {error.strerror or error} (valid: another one, or nothing for a free one)") from error
        self.url = f"http://{LOOPBACK}:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(POLL_SECONDS,), name="page", daemon=True)

    def __enter__(self) -> Page:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait(self) -> None:
        """Until somebody ends it."""
        while self._thread.is_alive():
            self._thread.join(1.0)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, live: Live, port: int) -> None:
        self.live = live
        super().__init__((LOOPBACK, port), _Answer)

    def server_bind(self) -> None:
        """As the standard library has it, without looking up a name for the address."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = LOOPBACK, self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is none of ours."""


class _Answer(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "clsuite", ""
    timeout = CLIENT_SECONDS

    def do_GET(self) -> None:
        if not self._is_for_us():
            return self._send(403, "text/plain", "this page is for 127.0.0.1 and localhost alone\n")
        if self.path not in ("/", "/state.json"):
            return self._send(404, "text/plain", "there is / and /state.json\n")
        try:
            state = self.server.live.state(FRESH_SECONDS)
        except OSError as error:
            return self._send(503, "text/plain", f"the folder cannot be read: {error.strerror}\n")
        if self.path == "/state.json":
            return self._send(200, "application/json", json.dumps(plain(state), allow_nan=False))
        return self._send(200, "text/html", document(state))

    def _refuse(self) -> None:
        self.close_connection = True
        self._send(405, "text/plain", "GET alone\n", {"Allow": "GET"})

    do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = _refuse

    def _is_for_us(self) -> bool:
        given = self.headers.get_all("Host") or []
        port = self.server.server_port
        valid = {f"{name}:{port}" for name in NAMES} | (set(NAMES) if port == 80 else set())
        return len(given) == 1 and given[0].strip().lower() in valid

    def _send(self, status: int, kind: str, text: str, more: dict[str, str] | None = None) -> None:
        data = text.encode("utf-8", "replace")
        self.send_response(status)
        for name, value in {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(data)),
            "Cache-Control": "no-store",
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            **(more or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """The terminal belongs to the watcher."""
