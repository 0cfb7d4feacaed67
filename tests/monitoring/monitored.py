"""Everything that is monitored, for real: Redis, two sidecars, a control plane, Envoy, and callers.

One sidecar has two workers, and Envoy asks it. The other has TLS, and is there for its certificates.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import Any, Final

import httpx
import yaml

from authz.config.file import load
from authz.envoy.config import EnvoyOptions, render
from tests.e2e.stack import ControlServer, credentials
from tests.monitoring.prometheus import Prometheus, prometheus
from tests.support.builders import value_of
from tests.support.proxy import Proxy, proxy
from tests.support.servers import (
    HOST,
    AuthzServer,
    EnvoyServer,
    RedisServer,
    _running,
    authz_serve,
    echo_server,
    envoy,
    free_port,
    is_ok,
    redis_server,
    until,
)
from tests.support.topologies import Certificates

WORKERS: Final = 2
PAUSE_SECONDS: Final = 0.05  # of each caller, between two requests
LOOK_SECONDS: Final = 0.2
REDIS_TIMEOUT_MS: Final = "1000"
DAYS: Final = 30  # of a certificate with which all is well
NOBODYS: Final = "nobodys"  # a key that does not exist

PLENTY: Final = {"throttle": {"rateLimit": 1000, "burstLimit": 1000}, "quota": {"limit": 1_000_000, "period": "MONTH"}}
PLANS: Final[Mapping[str, Mapping[str, Any]]] = {
    "gold": PLENTY,
    "silver": PLENTY,
    "tiny": {"throttle": {"rateLimit": 8, "burstLimit": 8}},
    "taster": {"quota": {"limit": 3, "period": "MONTH"}},
    "trial": {"mode": "shadow", "quota": {"limit": 3, "period": "MONTH"}},
    "strict": {**PLENTY, "failurePolicy": "deny"},
    "free": {**PLENTY, "failurePolicy": "allow"},
}
# Who calls what all the time, and after how many turns of PAUSE_SECONDS: most limits are met, and no alert's bound.
CALLERS: Final = (
    ("gold", "/prod/pets", 1),
    ("gold", "/prod/narrow", 8),
    ("gold", "/prod/shared", 8),
    ("silver", "/prod/pets", 2),
    ("tiny", "/prod/pets", 20),
    ("trial", "/prod/pets", 10),
    ("strict", "/prod/pets", 4),
    ("free", "/prod/pets", 4),
    (NOBODYS, "/prod/pets", 80),
    ("", "/prod/pets", 80),
    ("gold", "/prod/nowhere", 80),
)


def document() -> dict[str, Any]:
    """An API, and plans by name, each with one key of the same name; a limit of each kind is met by the callers."""
    narrow = {"/narrow/GET": {"rateLimit": 1, "burstLimit": 1}}
    covered = {"apiId": "a1", "stage": "prod", "throttle": narrow}
    shared = {"shared/GET": {"throttlingRateLimit": 1, "throttlingBurstLimit": 1}}
    resources: dict[str, Any] = {path: {"GET": {}} for path in ("/pets", "/narrow", "/shared")}
    return {
        "apis": [{"id": "a1", "resources": resources, "stages": [{"name": "prod", "methodSettings": shared}]}],
        "apiKeys": [{"id": name, "value": value_of(name)} for name in PLANS],
        "usagePlans": [
            {"id": name, "name": name, "keys": [name], "apiStages": [covered], **plan} for name, plan in PLANS.items()
        ],
    }


@dataclass
class Held:
    """A proxy before Redis, in a thread of its own; what a test sets of it holds from the next reply on."""

    proxy: Proxy
    loop: asyncio.AbstractEventLoop

    @property
    def url(self) -> str:
        return self.proxy.url

    def delay(self, seconds: float) -> None:
        """Each script takes this much longer."""
        self.proxy.delay = seconds


@contextmanager
def held(redis: RedisServer) -> Iterator[Held]:
    ready, over, made = threading.Event(), asyncio.Event(), list[Held]()

    async def serve() -> None:
        async with proxy(redis) as between:
            made.append(Held(between, asyncio.get_running_loop()))
            ready.set()
            await over.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(30), "no proxy"
    try:
        yield made[0]
    finally:
        made[0].loop.call_soon_threadsafe(over.set)
        thread.join(30)


class Traffic:
    """Callers that go on until the block ends, and more of them where a test says so."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._over = threading.Event()
        self._lock = threading.Lock()
        self.statuses: dict[int, int] = {}

    @contextmanager
    def of(self, *callers: tuple[str, str, int]) -> Iterator[None]:
        """In one thread, each caller in its turns; a key of no plan does not exist."""
        over = threading.Event()
        thread = threading.Thread(target=self._call, args=(callers, over), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(30)

    def _call(self, callers: tuple[tuple[str, str, int], ...], over: threading.Event) -> None:
        turn = 0
        with httpx.Client(base_url=self._url, timeout=10, trust_env=False) as client:
            while not over.is_set():
                for key, path, turns in callers:
                    if turn % turns == 0:
                        self._ask(client, path, key)
                turn += 1
                over.wait(PAUSE_SECONDS)

    def _ask(self, client: httpx.Client, path: str, key: str) -> None:
        headers = {"host": "a1.test"} | ({"x-api-key": value_of(key)} if key else {})
        with suppress(httpx.TransportError):
            status = client.get(path, headers=headers).status_code
            with self._lock:
                self.statuses[status] = self.statuses.get(status, 0) + 1


@dataclass
class Monitored:
    """What runs, and who watches."""

    redis: RedisServer
    held: Held
    sidecar: AuthzServer
    control: ControlServer
    envoy: EnvoyServer
    prometheus: Prometheus
    traffic: Traffic
    config: Path
    certificates: Certificates
    addresses: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def write(self, text: str) -> None:
        """The configuration, in one step."""
        draft = self.config.with_suffix(".draft")
        draft.write_text(text)
        draft.replace(self.config)

    def certify(self, days: int) -> None:
        """The files of the sidecar with TLS are replaced by others that are good for this long."""
        with TemporaryDirectory(dir=self.config.parent) as scratch:
            made = Certificates.make(Path(scratch, "made"), days)
            for name, file in vars(made).items():
                file.replace(getattr(self.certificates, name))

    def kill_worker(self) -> None:
        """The first one; returns when another has taken its place."""
        pid = self._pid()
        os.kill(pid, signal.SIGKILL)
        until(lambda: self._pid() not in (0, pid), "no new worker", self.sidecar)

    def _pid(self) -> int:
        details = httpx.get(f"{self.sidecar.http}/healthz", trust_env=False).json()
        worker = details["workers"][0]
        return int(worker.get("pid", 0)) if worker["ready"] else 0

    @contextmanager
    def operated(self) -> Iterator[None]:
        """A reader looks at the plans, over and over."""
        over = threading.Event()

        def look() -> None:
            while not over.wait(LOOK_SECONDS):
                with suppress(httpx.TransportError):
                    self.control.get("/usageplans")

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(30)

    def aim(self) -> None:
        """Prometheus's targets, as they were at first."""
        self.prometheus.aim(**self.addresses)


@contextmanager
def control_plane(place: Path, config: Path, http: str, *options: str) -> Iterator[ControlServer]:
    """With /metrics at `http`, and an access key."""
    listen = f"{HOST}:{free_port()}"
    own = ("--config", str(config), "--listen", listen, "--http-listen", http)
    server = ControlServer(
        command=(sys.executable, "-m", "authz", "control", *own, *options),
        log=place / "control.log",
        is_ready=lambda: is_ok(f"http://{http}/readyz"),
        url=f"http://{listen}",
    )
    with _running(server):
        server.access_key, server.secret = credentials(*options)
        yield server


@contextmanager
def monitored() -> Iterator[Monitored]:
    """Everything is up and scraped, and callers call."""
    with TemporaryDirectory(prefix="authz-monitored-") as scratch, ExitStack() as running:
        place = Path(scratch)
        config, pepper, sealing_key = place / "plans.yaml", place / "pepper", place / "sealing-key"
        config.write_text(yaml.safe_dump(document()))
        for file in (pepper, sealing_key):
            file.write_text(token_hex(32))
        redis = running.enter_context(redis_server())
        slow = running.enter_context(held(redis))
        secrets = ("--pepper-file", str(pepper), "--sealing-key-file", str(sealing_key))
        flags = (
            "--redis-url",
            slow.url,
            "--store",
            "true",
            "--redis-timeout-ms",
            REDIS_TIMEOUT_MS,
            "--drain-seconds",
            "0",
        )
        sidecar = running.enter_context(authz_serve(config, *flags, *secrets, workers=WORKERS))
        certificates = Certificates.make(place / "tls", DAYS)
        tls = ("--tls-cert-file", certificates.certificate, "--tls-key-file", certificates.key)
        clients = ("--tls-client-ca-file", certificates.ca, "--redis-url", redis.url, "--drain-seconds", "0")
        secured = running.enter_context(authz_serve(config, *map(str, (*tls, *clients))))
        stats, http = f"{HOST}:{free_port()}", f"{HOST}:{free_port()}"
        control = running.enter_context(control_plane(place, config, http, "--redis-url", redis.url, *secrets))
        echo = running.enter_context(echo_server())
        wiring = EnvoyOptions(
            listen=f"{HOST}:{free_port()}",
            admin=f"{HOST}:{free_port()}",
            stats_listen=stats,
            upstream=echo.address,
            authz=tuple(sidecar.endpoints),
            timeout_ms=3000,
        )
        front = running.enter_context(envoy(render(load(config).resources, wiring)))
        watcher = running.enter_context(prometheus())
        sidecars = [one.http.removeprefix("http://") for one in (sidecar, secured)]
        addresses = {"authz": sidecars, "authz_control": [http], "envoy": [stats]}
        traffic = Traffic(front.url)
        it = Monitored(redis, slow, sidecar, control, front, watcher, traffic, config, certificates, addresses)
        it.aim()
        running.enter_context(traffic.of(*CALLERS))
        running.enter_context(it.operated())
        yield it
