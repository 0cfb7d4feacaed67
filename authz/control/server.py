"""Runs the control plane: wires its parts behind an HTTP server that slow clients and huge requests cannot block."""

from __future__ import annotations

import asyncio
import signal
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

import structlog
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from authz.control.alerts.addresses import Rules
from authz.control.alerts.dispatcher import Dispatcher
from authz.control.alerts.sending import WebhookSender
from authz.control.api import Api, operations
from authz.control.app import HEADER_BYTES, ControlPlane
from authz.control.auth import Authenticator, anybody, is_loopback
from authz.control.call import Alerts, Context
from authz.control.connections import Connection, Connections
from authz.control.console.app import ROOT as CONSOLE
from authz.control.console.app import console
from authz.control.console.oidc import OidcOptions, OpenIdConnect
from authz.control.operations.explaining import Explainer
from authz.control.pages.guard import Origins
from authz.control.pages.sessions import Sessions
from authz.control.pages.site import Parts
from authz.control.pages.throttle import PageThrottle
from authz.control.portal.app import BURST as PAGE_BURST
from authz.control.portal.app import PACE as PAGE_PACE
from authz.control.portal.app import portal
from authz.control.portal.invite import PATH as INVITATIONS
from authz.control.portal.invite import ROOT as PORTAL
from authz.control.portal.invite import Invitations
from authz.control.portal.pasted import GivenKeys
from authz.control.portal.programs import BURST, PACE, Programs
from authz.control.portal.programs import PATH as PROGRAMS
from authz.core.address import Address
from authz.core.keyform import DEFAULT_PREFIX, KeyForm
from authz.core.resources import DEFAULT_ACCOUNT
from authz.core.rules import HOST
from authz.core.stored import Items
from authz.doctor.fetchredis import look_at_redis
from authz.limiter.limiter import RedisLimiter
from authz.notice import Notice
from authz.observe.metrics import ControlMetrics
from authz.observe.status import HttpServer, app, check_listen, http_server
from authz.redisio.url import in_words
from authz.store.outbox import RedisOutbox
from authz.store.ports import StoreUnavailable, Writer
from authz.store.sealing import Sealer
from authz.store.store import Store
from authz.store.sweep import Sweeper
from authz.store.tokens import TokenStore
from authz.store.usage import UsageLedger

log = structlog.get_logger(__name__)

LISTEN: Final = "127.0.0.1:8085"
REDIS_SECONDS: Final = 1.0
SHUTDOWN_SECONDS: Final = 5
LOOK_SECONDS: Final = 1.0  # between two probes of the store, and the timeout of a probe
IN_CLEAR: Final = (
    "THE CONSOLE IS SERVED IN CLEAR TEXT: tokens and new keys cross the network over plain HTTP. Give --tls-cert and "
    "--tls-key, or --console-url with the https URL of the proxy in front, or --no-console"
)


@dataclass(frozen=True, slots=True)
class ControlOptions:
    """The options of the control plane."""

    listen: str = LISTEN
    redis_url: str = "redis://127.0.0.1:6379/0"
    account_id: str = DEFAULT_ACCOUNT
    retention_days: int = 400
    store_replicas: int | None = None
    no_auth: bool = False
    tls_cert: str | None = None
    tls_key: str | None = None
    sealer: Sealer = field(default_factory=Sealer)
    key_prefix: str = DEFAULT_PREFIX
    domain_target: str | None = None  # the host to which DNS records of custom domains should point
    allow_private_targets: bool = False  # of alerts: on private addresses and this machine, over http too
    http_listen: str | None = None  # serves /metrics, /healthz and /readyz, without credentials
    console: bool | None = None  # serve pages; None: on a loopback address, and over TLS
    console_url: str | None = None  # under which browsers reach the pages, if that is not an IP address or localhost
    grafana_url: str | None = None  # linked from the console
    public_url: str | None = None  # where callers reach Envoy: for the lines for a shell that the console shows
    oidc: OidcOptions | None = None  # OpenID Connect, for the console

    @property
    def serves_console(self) -> bool:
        address = Address.parse(self.listen)
        is_safe = self.tls_cert is not None or (not address.path and is_loopback(address.host))
        return is_safe if self.console is None else self.console

    @property
    def shows_secrets_in_clear(self) -> bool:
        """True if browsers reach the pages, with tokens and new keys, over plain HTTP from another machine.

        With a --console-url the proxy or the published port that it names decides, not our own address.
        """
        if not self.serves_console or self.tls_cert is not None:
            return False
        if self.console_url is not None:
            public = urlsplit(self.console_url)
            return public.scheme != "https" and not is_loopback(public.hostname or "")
        address = Address.parse(self.listen)
        return not (address.path or is_loopback(address.host))

    def problem(self) -> str | None:
        """The first mistake in these options, in words for the operator; None without mistakes."""
        for listen in filter(None, (self.listen, self.http_listen)):
            try:
                Address.parse(listen)
            except ValueError:
                return f"expected host:port or unix:/path to listen on, not {listen}"
        address = Address.parse(self.listen)
        if self.no_auth and not (address.path or is_loopback(address.host)):
            return "--no-auth lets everybody in, so it listens on a loopback address only"
        if self.domain_target and not HOST.fullmatch(self.domain_target):
            return f"expected the domain target to be a host name in lower case, not {self.domain_target}"
        urls = (
            ("--console-url", self.console_url),
            ("--grafana-url", self.grafana_url),
            ("--public-url", self.public_url),
        )
        for option, url in urls:
            if url is not None and not _is_web_url(url):
                return f"expected {option} to be a URL such as https://plans.example.com, not {url}"
        if bool(self.tls_cert) != bool(self.tls_key):
            return "TLS needs both a certificate and its key"
        return (self.oidc.problem() if self.oidc else None) or self._tls_problem()

    def _tls_problem(self) -> str | None:
        if self.tls_cert is None or self.tls_key is None:
            return None
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(self.tls_cert, self.tls_key)
        except OSError as error:  # also for malformed files: SSLError is an OSError
            return f"{self.tls_cert} and {self.tls_key} cannot be served: {error.strerror or error}"
        return None


def _is_web_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


@asynccontextmanager
async def control_plane(
    options: ControlOptions,
    fixed: Callable[[], Items] = dict,
    now: Callable[[], int] = lambda: int(time.time()),
    metrics: ControlMetrics | None = None,
    budget: float = REDIS_SECONDS,
) -> AsyncIterator[tuple[HttpServer, Context]]:
    """Yield a server that is ready to `serve()`, and the context of its calls. Closes their connections to Redis.

    `budget` is the seconds that a command of Redis may take.
    """
    where, replicas = options.redis_url, options.store_replicas
    store = Store(where, account=options.account_id, budget=budget, fixed=fixed, replicas=replicas)
    usage = UsageLedger(
        where, account=options.account_id, retention_days=options.retention_days, budget=budget, replicas=replicas
    )
    limiter = RedisLimiter(options.redis_url, account=options.account_id, budget=budget)
    form = KeyForm.of(options.key_prefix)
    explainer = Explainer(store, options.sealer, limiter, options.account_id, fixed, form)
    outbox = RedisOutbox(where, account=options.account_id, budget=budget, replicas=replicas)
    sender = WebhookSender(Rules(options.allow_private_targets), now=now)
    context = Context(
        store,
        usage,
        options.sealer,
        options.account_id,
        now,
        fixed,
        explainer,
        options.domain_target,
        options.key_prefix,
        Alerts(outbox, sender),
        lambda: look_at_redis(where, options.account_id, sample=False),
    )
    metrics = metrics or ControlMetrics()
    dispatcher = Dispatcher(store, outbox, sender, options.sealer, options.account_id, metrics, now)
    tokens = TokenStore(where, account=options.account_id, budget=budget)
    application = _application(options, context, limiter, tokens, metrics)
    running = [asyncio.create_task(limiter.run()), asyncio.create_task(dispatcher.run())]
    try:
        yield _http_server(application, options), context
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        sender.close()
        await outbox.aclose()
        await tokens.aclose()
        await limiter.aclose()
        await usage.aclose()
        await store.aclose()


def _application(
    options: ControlOptions, context: Context, limiter: RedisLimiter, tokens: TokenStore, metrics: ControlMetrics
) -> ASGIApp:
    """The API, and beside it the pages if they are served."""
    authenticator = Authenticator(context.store, options.sealer, context.now)
    gate = anybody if options.no_auth else authenticator
    if not options.serves_console:
        return ControlPlane(context, gate, observe=metrics.observe)
    sessions = Sessions(tokens, context.now)
    origins = Origins(options.tls_cert is not None, options.console_url)
    throttle = partial(PageThrottle, limiter, options.account_id)
    table = (*operations(), Invitations(sessions, origins).operation())
    parts = Parts(Api(context, table), sessions, throttle(), origins, options.grafana_url, options.public_url)
    oidc = OpenIdConnect(options.oidc, tokens, sessions) if options.oidc else None
    given_keys = GivenKeys(context.store, options.sealer, context.now)
    # A customer's attempts to sign in are no owner's: behind one proxy both have one address.
    for_customers = replace(parts, throttle=throttle("portal-sign-in"))
    return Doors(
        ControlPlane(context, gate, table, observe=metrics.observe),
        console(parts, authenticator.of_token, authenticator.credential, oidc),
        portal(for_customers, given_keys, throttle("portal", PAGE_PACE, PAGE_BURST)),
        Programs(parts.api, given_keys, throttle("usage", PACE, BURST)),
    )


@dataclass(frozen=True, slots=True)
class Doors:
    """Leads each request to the pages or to the API, by its path."""

    api: ASGIApp
    console: ASGIApp
    portal: ASGIApp
    programs: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._behind(scope["path"])(scope, receive, send)

    def _behind(self, path: str) -> ASGIApp:
        if path == PROGRAMS:
            return self.programs
        if path == INVITATIONS:
            return self.api
        for root, pages in ((CONSOLE, self.console), (PORTAL, self.portal)):
            if path == root or path.startswith(f"{root}/"):
                return pages
        return self.api


def _http_server(application: ASGIApp, options: ControlOptions) -> HttpServer:
    address = Address.parse(options.listen)
    place: dict[str, Any] = {"uds": address.path} if address.path else {"host": address.host, "port": address.port}
    return HttpServer(
        uvicorn.Config(
            application,
            http=Connection.among(Connections()),
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            proxy_headers=False,  # else uvicorn takes a client's address from its own header, behind 127.0.0.1
            ws="none",
            h11_max_incomplete_event_size=2 * HEADER_BYTES,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            ssl_certfile=options.tls_cert,
            ssl_keyfile=options.tls_key,
            **place,
        )
    )


async def serve(options: ControlOptions, fixed: Callable[[], Items] = dict) -> None:
    """Serve until TERM or INT. Raises OSError if it cannot listen on an address."""
    for listen in filter(None, (options.listen, options.http_listen)):
        check_listen(listen)
    if options.no_auth:
        log.warning("EVERY PROGRAM ON THIS MACHINE MAY CHANGE EVERYTHING: --no-auth asks for no credentials")
    if options.shows_secrets_in_clear:
        log.warning(IN_CLEAR, listen=options.listen)
    metrics = ControlMetrics()
    async with control_plane(options, fixed, metrics=metrics) as (server, context):
        watch = Watch(context.store, metrics, options)
        servers = [server, *([watch.server(options.http_listen)] if options.http_listen else [])]
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, _stop, servers)
        log.info(
            "serving",
            listen=options.listen,
            http=options.http_listen,
            tls=options.tls_cert is not None,
            auth=not options.no_auth,
            console=options.serves_console,
        )
        sweeper = Sweeper(context.store, context.usage, context.store.address)
        beside = [asyncio.create_task(work) for work in (watch.run(), sweeper.run())]
        try:
            await asyncio.gather(*(_until_stopped(one, servers) for one in servers))
        finally:
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)  # the sweeper gives its lease back
    log.info("stopped")


def _stop(servers: Sequence[HttpServer]) -> None:
    for server in servers:
        server.should_exit = True


async def _until_stopped(server: HttpServer, servers: Sequence[HttpServer]) -> None:
    """Serve until `server` ends or fails to listen; then stop all `servers`."""
    try:
        await server.serve()
    finally:
        _stop(servers)


class Watch:
    """Probes the store once a second. Without the store the control plane is alive but not ready, and reports why."""

    def __init__(self, store: Writer, metrics: ControlMetrics, options: ControlOptions) -> None:
        self._store = store
        self._metrics = metrics
        self._options = options
        self._answers = False
        self._notice = Notice("the store is unavailable", redis=store.address)

    def details(self) -> dict[str, Any]:
        """The details that `/readyz` and `/healthz` answer."""
        return {
            "ready": self._answers,
            "store": "answering" if self._answers else "not answering",
            "redisAddress": self._store.address,
            "redisProblem": self._notice.reason,
            "console": {
                "served": self._options.serves_console,
                "url": self._options.console_url,
                "inClear": self._options.shows_secrets_in_clear,
            },
        }

    def server(self, listen: str) -> HttpServer:
        """A server of `/metrics`, `/healthz` and `/readyz`. It requires no credentials."""
        return http_server(app(self._metrics, self.details), listen)

    async def run(self) -> None:
        """Probe the store until cancelled."""
        while True:
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._store.head()
            except (StoreUnavailable, TimeoutError) as error:
                self._notice.says(in_words(error))
                self._answers = False
            else:
                self._notice.ended("the store answers again")
                self._answers = True
            self._metrics.store_up.set(self._answers)
            await asyncio.sleep(LOOK_SECONDS)
