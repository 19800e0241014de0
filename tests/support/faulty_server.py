"""A web server for tests: files with ranges, ETags and pages of links, which fails when and as a test sets it."""

from __future__ import annotations

import re
import socket
import threading
import zlib
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STALL, DROP, SHORT = "stall", "drop", "short"


class FaultyServer:
    """files    what is served, by path without the leading slash
    faults   by path, what befalls the next requests for it: an HTTP status; STALL, no answer; DROP, the connection is
             lost halfway through the body; SHORT, half of what was asked for, as if that were all; None, nothing
    asked    the paths of all requests so far
    ranges   False: whole files only
    tags     False: neither ETag nor any other mark of the content
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list] = {}
        self.asked: list[str] = []
        self.ranges = True
        self.tags = True
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._ended = threading.Event()
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                server._connections.append(self.request)
                server._threads.append(threading.current_thread())
                super().setup()

            def do_GET(self) -> None:
                server._answer(self)

            def log_message(self, *_) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *_) -> None:  # the client has given up
                pass

        self._http = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._threads.append(threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True))
        self._threads[0].start()

    def close(self) -> None:
        """Ends with all its threads, also those whose connection a client keeps for later."""
        self._ended.set()
        self._http.shutdown()
        self._http.server_close()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _answer(self, to: BaseHTTPRequestHandler) -> None:
        path = to.path.lstrip("/").partition("?")[0]
        with self._lock:
            self.asked.append(path)
            faults = self.faults.get(path, [])
            fault = faults.pop(0) if faults else None
        if fault == STALL:
            self._ended.wait()
            to.close_connection = True
        elif isinstance(fault, int):
            self._send(to, fault, b"")
        elif path in self.files:
            self._send_part(to, self.files[path], fault)
        else:
            self._send_links(to, path.rstrip("/"))

    def _send_part(self, to: BaseHTTPRequestHandler, data: bytes, fault: str | None) -> None:
        headers = {"ETag": f'"{zlib.crc32(data)}"'} if self.tags else {}
        asked = re.fullmatch("bytes=([0-9]+)-([0-9]+)", to.headers.get("Range", ""))
        status, part = 200, data
        if asked and self.ranges:
            start, last = int(asked[1]), min(int(asked[2]), len(data) - 1)
            if start >= len(data):
                self._send(to, 416, b"", {**headers, "Content-Range": f"bytes */{len(data)}"})
                return
            status, part = 206, data[start : last + 1]
            headers["Content-Range"] = f"bytes {start}-{last}/{len(data)}"
        self._send(to, status, part[: len(part) // 2] if fault == SHORT else part, headers, drop=fault == DROP)

    def _send_links(self, to: BaseHTTPRequestHandler, folder: str) -> None:
        below = f"{folder}/" if folder else ""
        names = sorted({path[len(below) :].partition("/")[0] for path in self.files if path.startswith(below)})
        folders = {name for name in names if f"{below}{name}" not in self.files}
        links = "".join(f'<a href="{name}{"/" if name in folders else ""}">{name}</a>\n' for name in names)
        self._send(to, 200 if names else 404, links.encode(), {"Content-Type": "text/html"})

    def _send(
        self,
        to: BaseHTTPRequestHandler,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        drop: bool = False,
    ) -> None:
        try:
            to.send_response(status)
            for name, value in (headers or {}).items():
                to.send_header(name, value)
            to.send_header("Content-Length", str(len(body)))
            to.end_headers()
            to.wfile.write(body[: len(body) // 2] if drop else body)
        except ConnectionError:  # the client has given up
            pass
        if drop:
            to.close_connection = True
