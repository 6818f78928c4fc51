"""An S3 server's address, and a proxy before it that answers with faults drawn from a seed.

The faults are what S3 documents: 409 while another write of the key goes on, 503 when it throttles, a request
that is done and whose answer never arrives.
"""

from __future__ import annotations

import http.client
import random
import socket
import threading
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from llmbatch.api.job import Storage
from serverkit import serving


@dataclass
class S3Server:
    """An S3 endpoint on loopback."""

    port: int

    @property
    def storage(self) -> Storage:
        """The job's storage section that reaches it."""
        return Storage(endpoint=f"http://127.0.0.1:{self.port}", region="us-east-1", allow_http=True)

    def bucket(self) -> str:
        """Make a bucket and return its name."""
        name = f"b{uuid.uuid4().hex[:12]}"
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{name}", method="PUT")
        with urllib.request.urlopen(request, timeout=30):
            return name


FAULTS = ("409", "503", "503 after", "drop before", "drop after")
"""What can go wrong with one request. "after" means that the request was done all the same."""


@dataclass
class FaultProxy(S3Server):
    """Passes requests on, but for those that `choose` has a fault for."""

    choose: Callable[[str, str], str | None] = lambda method, path: None
    """Gets method and path; returns one of `FAULTS`, an HTTP status, or None."""
    seen: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path and If-None-Match of every request."""
    faults: Counter[str] = field(default_factory=Counter)
    """How often each fault was given."""
    ignores_conditions: bool = False
    """Drop If-None-Match, as servers do that do not know it."""
    creating: threading.Lock = field(default_factory=threading.Lock)
    """Moto looks for the key, then writes it, in threads. S3 does both at once, so: one create at a time."""

    def at_random(self, seed: int, rate: float, kinds: tuple[str, ...] = FAULTS) -> None:
        """Give a share `rate` of the requests a fault; 409 goes to writes only, as with S3."""
        draw = random.Random(seed)
        lock = threading.Lock()

        def choose(method: str, path: str) -> str | None:
            with lock:
                fault = draw.choice(kinds) if draw.random() < rate else None
            return None if fault == "409" and method != "PUT" else fault

        self.choose = choose


@contextmanager
def running_proxy(upstream_port: int) -> Iterator[FaultProxy]:
    """Run a proxy before the server at `upstream_port`."""
    proxy = FaultProxy(0)

    class Handler(_Forwarder):
        upstream = upstream_port
        state = proxy

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    proxy.port = server.server_port
    with serving(server):
        yield proxy


class _Forwarder(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    timeout = 30
    upstream: int
    state: FaultProxy

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.state.seen.append((self.command, self.path, self.headers.get("if-none-match")))
        fault = self.state.choose(self.command, self.path)
        if fault is not None:
            self.state.faults[fault] += 1
        if fault == "drop before":
            return self._drop()
        if fault is not None and not fault.endswith("after"):
            return self._answer(int(fault), b"<Error><Code>Injected</Code></Error>", {})
        status, headers, answer = self._forward(body)
        if fault == "drop after":
            return self._drop()
        if fault == "503 after":
            return self._answer(503, b"<Error><Code>SlowDown</Code></Error>", {})
        return self._answer(status, answer, headers)

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if self.headers.get("if-none-match") is None:
            return self._send(body)
        with self.state.creating:
            return self._send(body)

    def _send(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=60)
        try:
            headers = dict(self.headers)
            if self.state.ignores_conditions:
                headers.pop("if-none-match", None)
            connection.request(self.command, self.path, body=body, headers=headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "server", "date"):
                self.send_header(name, value)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _drop(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle  # noqa: N815 - names the standard library looks for

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the overridden name
        """Say nothing."""
