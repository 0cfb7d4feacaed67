"""Sends a signed webhook to an address that was checked, as Standard Webhooks describes it."""

from __future__ import annotations

import asyncio
import base64
import importlib.metadata
import ipaddress
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, Protocol

import httpcore
from standardwebhooks import Webhook

from authz.control.alerts.addresses import IP, PUBLIC, Endpoint, NotAllowed, Rules
from authz.control.alerts.schedule import Attempt, retry_after_of
from authz.control.alerts.shares import TOTAL, Place, Shares

SECRET_PREFIX: Final = "whsec_"  # noqa: S105  (what a secret begins with)
SECRET_BYTES: Final = 32
ATTEMPT_SECONDS: Final = 20.0  # from the look-up of the name to the end of the answer
CONNECT_SECONDS: Final = 10.0
MAX_ADDRESSES: Final = 4  # of a name that are tried
MAX_ANSWER: Final = 16_384  # bytes of an answer's body that are read; all are thrown away
MAX_READ: Final = 262_144  # bytes of a whole answer, with all its heads: 1xx answers may have no end
MAX_WORDS: Final = 300  # characters of an error
AGENT: Final = f"envoy-usage-plans/{importlib.metadata.version('envoy-usage-plans')}"
REDIRECTS: Final = range(300, 400)


def new_secret() -> str:
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


@dataclass(frozen=True, slots=True)
class Message:
    """A webhook to send. With several secrets it has a signature by each, so that a receiver may change its secret.

    `customer_id` is set for a target of a customer, which is sent to public addresses only.
    """

    id: str
    body: str
    url: str
    secrets: tuple[str, ...]
    customer_id: str | None = None

    def headers(self, at: datetime) -> list[tuple[str, str]]:
        signatures = (Webhook(secret).sign(self.id, at, self.body) for secret in self.secrets)
        return [
            ("content-type", "application/json"),
            ("user-agent", AGENT),
            ("webhook-id", self.id),
            ("webhook-timestamp", str(int(at.timestamp()))),
            ("webhook-signature", " ".join(signatures)),
        ]


class Sender(Protocol):
    """Sends webhooks."""

    rules: Rules

    async def send(self, message: Message) -> Attempt: ...


Resolve = Callable[[str, int], Sequence[IP]]  # the addresses of a name; raises OSError


def resolve(host: str, port: int) -> Sequence[IP]:
    """Look up a name, or an address in any spelling."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ipaddress.ip_address(str(address[0])) for *_, address in found]


class WebhookSender:
    """Sends webhooks over HTTP/1.1: each on a connection of its own, without following redirects. Fulfils `Sender`.

    `now` returns seconds of Unix time. `resolver` replaces the system's in tests. Proxies of the environment are not
    used: a proxy would look the name up again.
    """

    def __init__(
        self,
        rules: Rules,
        *,
        now: Callable[[], float] = time.time,
        resolver: Resolve = resolve,
        tls: ssl.SSLContext | None = None,
        seconds: float = ATTEMPT_SECONDS,
    ) -> None:
        self.rules = rules
        self._now = now
        self._seconds = seconds
        self._resolver = resolver
        self._tls = tls or ssl.create_default_context()
        # Threads of its own: a name server that never answers must not hold up other look-ups.
        self._threads = ThreadPoolExecutor(TOTAL, thread_name_prefix="resolve")
        self._look_ups = Shares()

    async def send(self, message: Message) -> Attempt:
        """Make one attempt. Its end is a value, whatever it is."""
        try:
            rules = self.rules if message.customer_id is None else PUBLIC
            endpoint = rules.endpoint(message.url)
            async with asyncio.timeout(self._seconds):
                return await self._post(endpoint, message, rules)
        except NotAllowed as reason:
            return Attempt(error=f"not sent: {reason}")
        except (TimeoutError, httpcore.TimeoutException):
            return Attempt(error=f"no answer within {self._seconds:g} s")
        except (OSError, UnicodeError, httpcore.NetworkError, httpcore.ProtocolError) as error:
            return Attempt(error=_in_words(error))

    async def _post(self, endpoint: Endpoint, message: Message, rules: Rules) -> Attempt:
        at = datetime.fromtimestamp(self._now(), UTC)
        origin = httpcore.Origin(endpoint.scheme.encode(), endpoint.host.encode(), endpoint.port)
        url = httpcore.URL(
            scheme=endpoint.scheme, host=endpoint.host, port=endpoint.port, target=endpoint.path.encode()
        )
        timeouts = {"connect": CONNECT_SECONDS, "read": self._seconds, "write": self._seconds}
        backend = _Checked(endpoint.scheme, rules, partial(self._look_up, message.customer_id))
        async with (
            httpcore.AsyncHTTPConnection(origin, ssl_context=self._tls, network_backend=backend) as connection,
            connection.stream(
                "POST",
                url,
                headers=message.headers(at),
                content=message.body.encode(),
                extensions={"timeout": timeouts},
            ) as answer,
        ):
            length = 0
            async for piece in answer.aiter_stream():  # to a bound, so that a receiver that sends a body is not cut off
                length += len(piece)
                if length > MAX_ANSWER:
                    break
            return self._judged(answer)

    def _judged(self, answer: httpcore.Response) -> Attempt:
        headers = {name.lower(): value.decode("latin-1") for name, value in answer.headers}
        asked = headers.get(b"retry-after")
        words = ": redirects are not followed" if answer.status in REDIRECTS else ""
        arrived = Attempt(answer.status).arrived
        return Attempt(
            answer.status,
            "" if arrived else f"answered {answer.status}{words}",
            None if asked is None else retry_after_of(asked, self._now()),
        )

    async def _look_up(self, customer_id: str | None, host: str, port: int) -> Sequence[IP]:
        """Look a name up in a thread. It keeps its place until it ends, and may last longer than the attempt."""
        place = await self._look_ups.take(customer_id)
        look_up = self._threads.submit(self._resolver, host, port)
        look_up.add_done_callback(partial(_freed, asyncio.get_running_loop(), place))
        return await asyncio.wrap_future(look_up)

    def close(self) -> None:
        """Wait for no look-up that is under way."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _freed(loop: asyncio.AbstractEventLoop, place: Place, _: object) -> None:
    with suppress(RuntimeError):  # the loop is closed, and no attempt waits for a place
        loop.call_soon_threadsafe(place.free)


class _Checked(httpcore.AsyncNetworkBackend):
    """Connects to the addresses of a name, if the rules allow all of them; a connection looks up nothing again."""

    def __init__(self, scheme: str, rules: Rules, look_up: Callable[[str, int], Any]) -> None:
        self._scheme = scheme
        self._rules = rules
        self._look_up = look_up
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  (httpcore's name)
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self._allowed(host, port)
        failure: Exception | None = None
        for address in addresses[:MAX_ADDRESSES]:
            try:
                stream = await self._inner.connect_tcp(str(address), port, timeout, local_address, socket_options)
                return _Bounded(stream)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        assert failure is not None
        raise failure

    async def _allowed(self, host: str, port: int) -> Sequence[IP]:
        """The addresses of a name.

        Where only public ones are allowed, customers read the words: they tell nothing of our own name servers.
        """
        try:
            addresses: Sequence[IP] = list(dict.fromkeys(await self._look_up(host, port)))
            for address in addresses:
                self._rules.check(self._scheme, address)
            if not addresses:
                raise OSError(f"{host} has no address")
        except (NotAllowed, OSError):
            if self._rules.private:
                raise
            raise NotAllowed("the name leads to no public address") from None
        return addresses

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


class _Bounded(httpcore.AsyncNetworkStream):
    """A connection that gives at most MAX_READ bytes."""

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner
        self._left = MAX_READ

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109  (httpcore's name)
        found = await self._inner.read(max_bytes, timeout)
        self._left -= len(found)
        if self._left < 0:
            raise httpcore.RemoteProtocolError(f"the answer is longer than {MAX_READ} bytes")
        return found

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109  (httpcore's name)
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  (httpcore's name)
    ) -> httpcore.AsyncNetworkStream:
        return _Bounded(await self._inner.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def _in_words(error: Exception) -> str:
    """A fault of the network in a line for the owner of the target."""
    if isinstance(error, socket.gaierror):
        text = f"the name cannot be resolved: {error.strerror}"
    else:
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return "".join(each if each.isprintable() else " " for each in text)[:MAX_WORDS]
