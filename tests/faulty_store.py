"""A bad network and a bad store: an HTTP server between client and object store that fails as it is told."""

import http.client
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

from tests.object_store import ObjectStore

Cut = Literal["request", "answer"]

_ERROR = '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
_SLOW_DOWN = _ERROR.format(code="SlowDown", message="Please reduce your request rate.")
_EXPIRED = _ERROR.format(code="ExpiredToken", message="The provided token has expired.")

# Belongs to one connection, and a proxy has two.
_OF_A_CONNECTION = {"connection", "keep-alive", "transfer-encoding"}


@dataclass
class FaultyStore:
    """What the server between does to requests from now on; nothing, unless told. Tests set the fields at any time.

    Attributes:
        store: The store as clients see it through this server. The fields below are about its requests.
        slow_down: So many requests are answered 503 SlowDown, without reaching the store; ``math.inf`` is for ever.
        expired: Whether all requests are answered 403 ExpiredToken, without reaching the store.
        expires_after: So many requests pass before ``expired`` turns true by itself; None is never.
        delay: Seconds that each answer takes longer.
        cut: So many connections are cut.
        cut_at: Whether they are cut before the request reaches the store, or in the middle of its answer: the store has
            then done what it was asked, and the client does not know.
        methods: Only requests with these methods fail, such as PUT; all if empty.
        seen: How many requests came, by method, those that failed included.
        failed: How many of them failed, by method.
    """

    store: ObjectStore
    slow_down: float = 0
    expired: bool = False
    expires_after: int | None = None
    delay: float = 0.0
    cut: float = 0
    cut_at: Cut = "request"
    methods: frozenset[str] = frozenset()
    seen: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fault_of(self, method: str) -> Literal["slow down", "expired", "cut"] | None:
        """Count a request, and return how it is to fail."""
        with self._lock:
            self.seen[method] += 1
            if self.methods and method not in self.methods:
                return None
            if self.expires_after is not None:
                if self.expires_after == 0:
                    self.expired = True
                else:
                    self.expires_after -= 1
            if self.expired:
                fault: Literal["slow down", "expired", "cut"] = "expired"
            elif self.slow_down > 0:
                self.slow_down -= 1
                fault = "slow down"
            elif self.cut > 0:
                self.cut -= 1
                fault = "cut"
            else:
                return None
            self.failed[method] += 1
            return fault


@contextmanager
def faulty_store(behind: ObjectStore) -> Iterator[FaultyStore]:
    """Run a server in threads of this process that passes requests on to a store, and fails as it is told.

    Args:
        behind: The store, which runs.

    Yields:
        What to tell the server, and the store as clients see it through the server.
    """
    upstream = urlsplit(behind.endpoint).netloc
    with _Server(("127.0.0.1", 0), _Handler) as server:
        endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        server.upstream = upstream
        server.faults = FaultyStore(ObjectStore(behind.server, endpoint, behind.key, behind.secret))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.faults
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    """Threads end with their connections, and are not waited for: clients keep connections open."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    upstream: str
    faults: FaultyStore

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that is gone before its answer came."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client, and the one to the store that its requests go on over."""

    protocol_version = "HTTP/1.1"
    server: _Server
    _store: http.client.HTTPConnection | None = None

    def _answer(self) -> None:
        faults = self.server.faults
        body = self._body()
        fault = faults.fault_of(self.command)
        if fault == "cut" and faults.cut_at == "request":
            self.close_connection = True
            return
        if fault == "slow down":
            status, reason, headers, content = _own(503, _SLOW_DOWN)
        elif fault == "expired":
            status, reason, headers, content = _own(403, _EXPIRED)
        else:
            status, reason, headers, content = self._ask_store(body)
        time.sleep(faults.delay)
        if fault == "cut":
            self.close_connection = True
            if not content:
                return
        self.send_response_only(status, reason)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)

    do_DELETE = do_GET = do_HEAD = do_POST = do_PUT = _answer  # noqa: N815 - http.server calls them so

    def _body(self) -> bytes:
        """Return what the client sent, all of it: S3's clients say how long it is."""
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _ask_store(self, body: bytes) -> tuple[int, str, list[tuple[str, str]], bytes]:
        """Pass the request on as it is, Host included, for the client has signed it."""
        if self._store is None:
            self._store = http.client.HTTPConnection(self.server.upstream, timeout=60)
        self._store.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            # The body has been asked for and is here; the store is not to ask for it again.
            if name.lower() not in _OF_A_CONNECTION | {"expect"}:
                self._store.putheader(name, value)
        self._store.endheaders(body)
        response = self._store.getresponse()
        content = response.read()
        headers = [(name, value) for name, value in response.getheaders() if name.lower() not in _OF_A_CONNECTION]
        if response.chunked:
            headers.append(("Content-Length", str(len(content))))
        return response.status, response.reason, headers, content

    def finish(self) -> None:
        super().finish()
        if self._store is not None:
            self._store.close()


def _own(status: int, body: str) -> tuple[int, str, list[tuple[str, str]], bytes]:
    content = body.encode()
    headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(content)))]
    return status, http.client.responses[status], headers, content
