"""A receiver of webhooks: an HTTP server in this process that keeps each message that it got."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook

from tests.support.servers import HOST


@dataclass(frozen=True)
class Got:
    """A message as it came: path, headers in lower case, body. `status` is the answer."""

    path: str
    headers: dict[str, str]
    body: bytes
    status: int

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def is_signed_by(self, secret: str) -> bool:
        """True if one of the signatures is by this secret, however old it is."""
        at = datetime.fromtimestamp(int(self.headers["webhook-timestamp"]), UTC)
        signature = Webhook(secret).sign(self.id, at, self.body.decode())
        return signature in self.headers["webhook-signature"].split(" ")


Answer = tuple[int, dict[str, str]]


@dataclass
class Receiver:
    """Answers each message as `answer` says, which gets the number of messages before it."""

    port: int
    answer: Callable[[int], Answer] = lambda _: (204, {})
    got: list[Got] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def accepted(self) -> list[Got]:
        """The messages that were answered with a status of success."""
        with self.lock:
            return [one for one in self.got if 200 <= one.status < 300]

    def take(self, path: str, headers: dict[str, str], body: bytes) -> Answer:
        with self.lock:
            status, more = self.answer(len(self.got))
            self.got.append(Got(path, headers, body, status))
        return status, more


@contextmanager
def receiver(answer: Callable[[int], Answer] = lambda _: (204, {})) -> Iterator[Receiver]:
    """A receiver until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            body = self.rfile.read(length)
            if len(body) < length:  # the sender was killed
                return
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, more = found.take(self.path, headers, body)
            self.send_response(status)
            for name, value in {"content-length": "0", **more}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Keep the tests' output short."""

    with ThreadingHTTPServer((HOST, 0), Handler) as server:
        server.daemon_threads = True
        found = Receiver(server.server_address[1], answer)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()
