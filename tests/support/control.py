"""A real control plane on a port, before a real Redis, and the clients that tests talk to it with.

Test modules import the fixture: `from tests.support.control import control as control`.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import boto3
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from authz.control.auth import NewCredential, add, new_access_key, new_token
from authz.control.call import Context
from authz.control.console.oidc import OidcOptions
from authz.control.server import ControlOptions, control_plane
from authz.core.stored import Items
from authz.store.sealing import Sealer
from authz.store.store import Store
from authz.store.usage import UsageLedger
from tests.support.servers import RedisServer

REGION = "eu-central-1"
DEADLINE_SECONDS = 30.0
REDIS_SECONDS = 5.0  # more than in service: the machine that runs tests may be busy
PEPPER = "a pepper for tests"
SEALER = Sealer([b"s" * 32], PEPPER.encode())


@dataclass(frozen=True)
class Control:
    """A control plane that runs in a thread of its own. `context` is used from that thread only: see `run`."""

    port: int
    account: str
    admin: NewCredential | None
    reader: NewCredential | None
    token: NewCredential
    sealer: Sealer
    context: Context = field(repr=False)
    loop: asyncio.AbstractEventLoop = field(repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def store(self) -> Store:
        """The control plane's store in Redis; used in its thread only."""
        assert isinstance(self.context.store, Store)
        return self.context.store

    @property
    def ledger(self) -> UsageLedger:
        assert isinstance(self.context.usage, UsageLedger)
        return self.context.usage

    def run(self, work: Callable[[Context], Any]) -> Any:
        """The result of a coroutine on the control plane's own store and ledger: `run(lambda c: c.store.head())`."""
        return asyncio.run_coroutine_threadsafe(work(self.context), self.loop).result(DEADLINE_SECONDS)

    def as_reader(self) -> Control:
        """The control plane, called with the read-only credential."""
        return replace(self, admin=self.reader)


@contextmanager
def running(
    redis_url: str,
    account: str,
    *,
    sealer: Sealer = SEALER,
    no_auth: bool = False,
    tls: tuple[str, str] | tuple[None, None] = (None, None),
    fixed: Callable[[], Items] = dict,
    now: Callable[[], int] = lambda: int(time.time()),
    domain_target: str | None = None,
    store_replicas: int | None = None,
    key_prefix: str = "upk",
    oidc: OidcOptions | None = None,
    allow_private_targets: bool = False,
    console: bool | None = None,
) -> Iterator[Control]:
    """A control plane until the block ends. Its `now` also judges signatures: pin it together with the client's."""
    ready: Future[Control] = Future()
    options = ControlOptions(
        "127.0.0.1:0",
        redis_url,
        account,
        store_replicas=store_replicas,
        key_prefix=key_prefix,
        no_auth=no_auth,
        tls_cert=tls[0],
        tls_key=tls[1],
        sealer=sealer,
        domain_target=domain_target,
        oidc=oidc,
        allow_private_targets=allow_private_targets,
        console=console,
    )
    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_serve(options, fixed, now, ready, stop)), daemon=True)
    thread.start()
    control = ready.result(DEADLINE_SECONDS)
    try:
        yield control
    finally:
        control.loop.call_soon_threadsafe(stop.set)
        thread.join(DEADLINE_SECONDS)
    assert not thread.is_alive(), "the control plane does not stop"


async def _serve(
    options: ControlOptions,
    fixed: Callable[[], Items],
    now: Callable[[], int],
    ready: Future[Control],
    stop: asyncio.Event,
) -> None:
    try:
        async with control_plane(options, fixed, now, budget=REDIS_SECONDS) as (server, context):
            serving = asyncio.create_task(server.serve())
            ready.set_result(await _control(options, context, server, serving))
            await stop.wait()
            server.should_exit = True
            await serving
    except BaseException as error:
        if ready.done():
            raise
        ready.set_exception(error)


async def _control(options: ControlOptions, context: Context, server: Any, serving: asyncio.Task[None]) -> Control:
    now, sealer = context.now(), options.sealer
    admin = new_access_key("admin", sealer, now) if sealer.can_seal else None
    reader = new_access_key("reader", sealer, now, read_only=True) if sealer.can_seal else None
    token = new_token("bearer", now)
    for credential in filter(None, (admin, reader, token)):
        await add(context.store, credential, "tests")
    while not server.started and not serving.done():  # noqa: ASYNC110  (uvicorn has no event for it)
        await asyncio.sleep(0.005)
    assert not serving.done(), "the control plane has ended"
    port = server.servers[0].sockets[0].getsockname()[1]
    return Control(port, options.account_id, admin, reader, token, sealer, context, asyncio.get_running_loop())


@pytest.fixture
def control(shared_redis: RedisServer, account: str) -> Iterator[Control]:
    with running(shared_redis.url, account) as plane:
        yield plane


def boto(control: Control, attempts: int = 1) -> Any:
    """An unmodified boto3 client; it does not retry, so that a test sees the first answer, unless it is allowed to."""
    assert control.admin is not None, "boto3 signs, so the control plane needs a sealing key"
    return boto3.client(
        "apigateway",
        endpoint_url=control.url,
        region_name=REGION,
        aws_access_key_id=control.admin.credential.id,
        aws_secret_access_key=control.admin.secret,
        config=Config(retries={"total_max_attempts": attempts}, connect_timeout=5, read_timeout=60),
    )


@dataclass(frozen=True)
class Reply:
    """An answer as it came."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        return self.headers.get("x-amzn-errortype")


def signed(control: Control, verb: str, path: str, body: bytes, headers: Mapping[str, str]) -> dict[str, str]:
    """The headers, and those that botocore's signer adds for the whole path and query."""
    assert control.admin is not None, "there is no key to sign with"
    request = AWSRequest(method=verb, url=f"{control.url}{path}", data=body, headers=dict(headers))
    SigV4Auth(Credentials(control.admin.credential.id, control.admin.secret), "apigateway", REGION).add_auth(request)
    return {name: str(value) for name, value in request.headers.items()}


def raw(
    control: Control,
    verb: str,
    path: str,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    *,
    sign: bool = True,
) -> Reply:
    """HTTP as it is: `path` goes out just so, a `body` that is not bytes as JSON."""
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    sent = signed(control, verb, path, content, headers or {}) if sign else dict(headers or {})
    connection = http.client.HTTPConnection("127.0.0.1", control.port, timeout=DEADLINE_SECONDS)
    try:
        connection.request(verb, path, content, sent)
        answer = connection.getresponse()
        return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    finally:
        connection.close()


UNAVAILABLE: Final = "The store is unavailable; try again"


def patiently(control: Control, verb: str, path: str, body: Any = None, *, send: Callable[..., Reply] = raw) -> Reply:
    """Call again where Redis did not answer in time, as AWS's clients do: on a busy machine it can take a second."""
    for _ in range(10):
        reply = send(control, verb, path, body)
        if reply.status != 503 or reply.json()["message"] != UNAVAILABLE:
            break
    return reply
