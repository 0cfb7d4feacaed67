"""A soak: sidecars that are killed, replaced and reloaded, a Redis that dies and comes back, and limits that hold.

    python -m bench.soak [--minutes 10] [--policy deny] [--server grpcio] [--hold-ms 0]

Three sidecars, two of them with two workers, share a Valkey that writes each command to disk before it answers. Clients
ask all of them about a few keys with small limits. Meanwhile sidecars and workers end, by TERM and by KILL, the file
changes, Redis is killed and started again with its data, and connections to it are cut. Then each key's answers are
looked at: no window of t seconds may hold more than burst + rate · t admitted calls that certainly were decided in it,
no quota may admit more than its limit, and Redis must have counted all admitted calls and at most those besides whose
answer was lost. Exits with 1 otherwise, or if descriptors leak. With `--policy local` the calls let through by outages
are printed beside the bound of an outage, and are no violation. With `--hold-ms` sidecars hold units ahead: Redis may
then count more calls than were admitted, as a process that ends loses its holds; the bound is printed beside them.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import struct
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import psutil
import yaml
from redis import Redis

from authz.config.settings import MAX_HOLD_MS
from authz.core.limits import redis_key
from authz.envoy.pb import ext_authz_pb2 as pb
from bench.load.h2 import Connection, framed
from bench.load.inputs import CHECK, check_request, value_of
from tests.support.ledger import SIZE, Ledger
from tests.support.proxy import Proxy, proxy
from tests.support.servers import AuthzServer, Host, RedisServer, authz_serve, redis_server

ACCOUNT = "soak"
RATE, BURST, QUOTA = 20, 10, 300
KEYS: dict[str, dict[str, Any]] = {  # a plan and its only key have one name
    "throttled-1": {"throttle": {"rateLimit": RATE, "burstLimit": BURST}},
    "throttled-2": {"throttle": {"rateLimit": RATE, "burstLimit": BURST}},
    "quota-1": {"quota": {"limit": QUOTA, "period": "MONTH"}},
    "quota-2": {"quota": {"limit": 10 * QUOTA, "period": "MONTH"}},
    "both": {
        "throttle": {"rateLimit": RATE / 4, "burstLimit": BURST},
        "quota": {"limit": 2 * QUOTA, "period": "MONTH"},
    },
}
NUMBER = {name: at for at, name in enumerate(KEYS)}
WORKERS = (1, 2, 2)  # of each sidecar; the first lives from beginning to end
PROCESSES = sum(WORKERS)
CLIENTS, PAUSE_SECONDS = 12, 0.06  # each client waits at most this long between two calls
DEADLINE = "2S"  # as in the header grpc-timeout
TOO_MANY = 429
HOLDS_START, HOLD, UNITS, REQUESTS = 9, ">dddddd", 3, 4  # layout: redisio/lua/prelude/holds.lua
HOLDS_END_SECONDS = 1.0  # longer than any hold lasts
SECOND = 1_000_000_000
SPARE_DESCRIPTORS = 16
LONG_SECONDS = 60  # a life worth telling of
NEVER = -(10**40)


# --- calls, and their answers --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Span:
    """When a call was sent and when its answer was here, in ns of the clock that Redis goes by."""

    sent: int
    received: int


@dataclass(slots=True)
class Answers:
    """Of one key: the admitted calls, and how many of each other kind."""

    admitted: list[Span] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)

    @property
    def unknown(self) -> int:
        """Calls without an answer that may have been charged."""
        return self.kinds["unavailable"] + self.kinds["lost"]


class Clients:
    """Ask all sidecars, each in a thread of its own; in another lives the proxy before Redis."""

    def __init__(self, redis: RedisServer) -> None:
        self.answers = {key: Answers() for key in KEYS}
        self.proxy: Proxy
        self._redis = redis
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready, self._resting = threading.Event(), threading.Event()
        self._serving = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)
        self._asking: list[threading.Thread] = []
        self._noting = threading.Lock()

    def __enter__(self) -> Clients:
        self._serving.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.rest()
        self.tell(self._stop.set)
        self._serving.join()
        self._loop.close()

    def tell(self, act: Callable[[], None]) -> None:
        """Done in the proxy's thread."""
        self._loop.call_soon_threadsafe(act)

    def ask(self, endpoints: Sequence[str]) -> None:
        """From now on."""
        clients = [threading.Thread(target=self._client, args=(n, endpoints), daemon=True) for n in range(CLIENTS)]
        for client in clients:
            client.start()
        self._asking += clients

    def rest(self) -> None:
        """Send no more calls, and wait for the last answers."""
        self._resting.set()
        for client in self._asking:
            client.join()

    async def _serve(self) -> None:
        async with proxy(self._redis) as self.proxy:
            self._ready.set()
            await self._stop.wait()

    def _client(self, number: int, endpoints: Sequence[str]) -> None:
        draw = random.Random(number)
        lines: dict[str, Connection] = {}
        while not self._resting.wait(draw.random() * PAUSE_SECONDS):
            self._call(lines, draw.choice(endpoints), draw.choice(list(KEYS)))
        for line in lines.values():
            line.close()

    def _call(self, lines: dict[str, Connection], endpoint: str, key: str) -> None:
        try:
            line = lines.get(endpoint) or lines.setdefault(endpoint, Connection(endpoint, CHECK, DEADLINE))
        except OSError:
            self._note(key, "not asked")  # no server listens
            return
        sent = time.time_ns()
        try:
            kind = _kind(_answer(line, check_request(value_of(NUMBER[key]))))
        except OSError:
            lines.pop(endpoint).close()
            kind = "lost"
        self._note(key, kind, Span(sent, time.time_ns()))

    def _note(self, key: str, kind: str, span: Span | None = None) -> None:
        with self._noting:
            self.answers[key].kinds[kind] += 1
            if span and kind == "admitted":
                self.answers[key].admitted.append(span)


def _answer(line: Connection, message: bytes) -> bytes:
    """Raises OSError."""
    (asked,) = line.send([framed(message)])
    while True:
        for stream, answer in line.receive():
            if stream == asked:
                return answer


def _kind(message: bytes) -> str:
    if not message:
        return "lost"
    response = pb.CheckResponse.FromString(message)
    if response.HasField("ok_response"):
        return "admitted"
    return "refused" if response.denied_response.status.code == TOO_MANY else "unavailable"


# --- the ceiling --------------------------------------------------------------------------------------------------


def excess(spans: Sequence[Span], rate: float, burst: int) -> float:
    """By how much the calls within a window [a, b] pass burst + rate · (b - a), at most; 0 or less is right.

    A call was decided between its sending and its answer, so a window certainly holds those that lie in it as a whole.
    From the latest sending to the earliest, with the best window for each end kept in a tree: n log n for n calls.
    """
    ends = sorted(range(len(spans)), key=lambda at: spans[at].received)
    place = {at: number for number, at in enumerate(ends)}
    best = _Best(len(spans))
    per_ns = round(rate * SECOND)  # in billionths of a call and of a nanosecond, so that all is exact
    most = NEVER
    for at in sorted(range(len(spans)), key=lambda at: -spans[at].sent):
        span = spans[at]
        best.open(place[at], -per_ns * span.received)
        best.add(place[at], SECOND * SECOND)
        most = max(most, best.most + per_ns * span.sent)
    return -float(burst) if most == NEVER else most / (SECOND * SECOND) - burst


class _Best:
    """Numbers at places; only opened places count. Adds to all from a place on, and knows the greatest."""

    def __init__(self, places: int) -> None:
        self._size = 1 << max(0, (places - 1).bit_length())
        self._most = [NEVER] * (2 * self._size)
        self._added = [0] * (2 * self._size)

    @property
    def most(self) -> int:
        return self._most[1]

    def open(self, place: int, value: int) -> None:
        at = place + self._size
        self._most[at] = value + self._added[at]
        self._settle(at)

    def add(self, place: int, value: int) -> None:
        """To this place and all after it."""
        at = place + self._size
        self._lift(at, value)
        while at > 1:
            if at % 2 == 0:
                self._lift(at + 1, value)
            at //= 2
            self._join(at)

    def _lift(self, at: int, value: int) -> None:
        self._added[at] += value
        if self._most[at] != NEVER:
            self._most[at] += value

    def _settle(self, at: int) -> None:
        while at > 1:
            at //= 2
            self._join(at)

    def _join(self, at: int) -> None:
        below = max(self._most[2 * at], self._most[2 * at + 1])
        self._most[at] = NEVER if below == NEVER else below + self._added[at]


def counted(redis: RedisServer, key: str) -> int:
    """How many calls Redis has counted against the key's quota, or, without one, today; with those of lost holds."""
    with Redis.from_url(redis.url) as client:
        raw: Any = client.get(redis_key(ACCOUNT, "ledger", key, key))
    if not raw:
        return 0
    ledger, has_quota, start = Ledger.of(raw[:SIZE]), "quota" in KEYS[key], SIZE + HOLDS_START
    held = sum(hold[UNITS if has_quota else REQUESTS] for hold in struct.iter_unpack(HOLD, raw[start:]))
    return (ledger.used if has_quota else ledger.day_used) + int(held)


def most_held(key: str) -> int:
    """The calls that all processes hold at once at most: a quarter of the rest each time, divided by the processes."""
    limits = KEYS[key]
    sizes = [limits[kind][size] for kind, size in (("throttle", "burstLimit"), ("quota", "limit")) if kind in limits]
    return int(min(sizes)) // 2


@dataclass(frozen=True, slots=True)
class Finding:
    """The findings about a key, and whether they break a promise."""

    key: str
    said: str
    is_violation: bool


def findings(
    key: str, answers: Answers, used: int, *, strict: bool, outages: int, losses: int = 0
) -> Iterator[Finding]:
    """Compare a key's answers and its count with its limits. At most `losses` calls were held and lost."""
    admitted, limits = len(answers.admitted), KEYS[key]
    if "throttle" in limits:
        rate, burst = limits["throttle"]["rateLimit"], int(limits["throttle"]["burstLimit"])
        over = excess(answers.admitted, rate, burst)
        bound = "" if strict else f"; an outage may add as much again: {max(burst, PROCESSES)} + {rate:g}/s"
        yield Finding(key, f"{over:+.2f} calls over the throttle's ceiling at worst{bound}", strict and over > 0)
    if "quota" in limits:
        limit = int(limits["quota"]["limit"])
        bound = "" if strict else f"; an outage may add {max(limit, PROCESSES)} in each of {outages} outages"
        yield Finding(key, f"{admitted} of a quota of {limit}{bound}", strict and admitted > limit)
        yield Finding(key, f"{used} counted", strict and used > limit)
    most = admitted + answers.unknown + losses
    said = f"{used} counted of {admitted} admitted, {answers.unknown} of unknown fate"
    if losses:
        said += f"; {max(0, used - admitted - answers.unknown)} to {max(0, used - admitted)} lost with holds"
        said += f", which may lose {losses}"
    yield Finding(key, said, strict and not admitted <= used <= most)


# --- chaos --------------------------------------------------------------------------------------------------------


@dataclass
class Scene:
    """What runs, and what may happen to it. All of it in the main thread, for servers end with who started them."""

    config: Path
    redis: RedisServer
    sidecars: list[AuthzServer]
    clients: Clients
    outages: int = 0
    edits: int = 0
    happened: Counter[str] = field(default_factory=Counter)

    def happenings(self) -> Iterator[Callable[[], None]]:
        return cycle(
            [
                self.cut,
                self.reload,
                self.term_sidecar,
                self.restart_redis,
                self.kill_worker,
                self.cut,
                self.kill_sidecar,
                self.replace_workers,
                self.restart_redis,
                self.stall,
            ]
        )

    def happen(self, act: Callable[[], None]) -> None:
        act()
        self.happened[act.__name__.replace("_", " ")] += 1

    def cut(self) -> None:
        """The next replies get lost half way."""

        def cut() -> None:
            self.clients.proxy.cuts += 3

        self.clients.tell(cut)

    def stall(self) -> None:
        """For longer than any caller waits, then on as if nothing had been."""
        self.outages += 1
        self.clients.tell(self.clients.proxy.open.clear)
        time.sleep(1.0)
        self.clients.tell(self.clients.proxy.open.set)

    def reload(self) -> None:
        """With an unused plan; by the watcher, and by HUP."""
        self.edits += 1
        written(self.config, self.edits)
        self.sidecars[0].send(signal.SIGHUP)

    def term_sidecar(self) -> None:
        self.sidecars[2].send(signal.SIGTERM)
        self.sidecars[2].wait()
        self.sidecars[2].start()

    def kill_sidecar(self) -> None:
        """Workers, supervisor and all."""
        os.killpg(self.sidecars[2].pid, signal.SIGKILL)
        self.sidecars[2].wait()
        self.sidecars[2].start()

    def kill_worker(self) -> None:
        """Its supervisor starts another."""
        workers = psutil.Process(self.sidecars[1].pid).children(recursive=True)
        with suppress(psutil.NoSuchProcess):
            random.choice(workers).kill()

    def replace_workers(self) -> None:
        self.sidecars[1].send(signal.SIGUSR2)

    def restart_redis(self) -> None:
        self.outages += 1
        self.redis.restart(empty=False)


def document(edits: int) -> dict[str, Any]:
    covered = [{"apiId": "a1", "stage": "prod"}]
    plans = [{"id": name, "name": name, "keys": [name], "apiStages": covered, **KEYS[name]} for name in KEYS]
    unused = [{"id": f"unused-{number}", "name": f"Edit {edits}"} for number in range(edits % 50)]
    return {
        "apis": [{"id": "a1", "stages": [{"name": "prod"}]}],
        "apiKeys": [{"id": name, "value": value_of(at)} for name, at in NUMBER.items()],
        "usagePlans": plans + unused,
    }


def written(path: Path, edits: int) -> Path:
    """Replaced at once, as an editor does it."""
    other = path.with_suffix(".new")
    other.write_text(yaml.safe_dump(document(edits)))
    other.replace(path)
    return path


# --- looking on ---------------------------------------------------------------------------------------------------


@dataclass
class Samples:
    """Of each process: when (s), its memory (MB) and its descriptors."""

    of: dict[tuple[str, int], list[tuple[float, float, int]]] = field(default_factory=lambda: defaultdict(list))

    def take(self, sidecars: Sequence[AuthzServer]) -> None:
        now = time.monotonic()
        for number, sidecar in enumerate(sidecars):
            with suppress(psutil.NoSuchProcess):
                main = psutil.Process(sidecar.pid)
                for process in (main, *main.children(recursive=True)):
                    # Denied to any but root: one that is just ending, which the kernel takes for root's.
                    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                        taken = (now, process.memory_info().rss / 1e6, process.num_fds())
                        if not taken[1]:  # it has ended, and its status is not read yet
                            continue
                        self.of[f"sidecar {number}", process.pid].append(taken)


def slope(samples: Sequence[tuple[float, float, int]]) -> float:
    """Megabytes a minute, by least squares; the first fifth, in which caches fill, is left out."""
    kept = samples[len(samples) // 5 :]
    if len(kept) < 2:
        return 0.0
    times, sizes = [at / 60 for at, _, _ in kept], [size for _, size, _ in kept]
    middle, mean = sum(times) / len(times), sum(sizes) / len(sizes)
    spread = sum((at - middle) ** 2 for at in times)
    return sum((at - middle) * (size - mean) for at, size in zip(times, sizes, strict=True)) / spread if spread else 0.0


def leaks(samples: Sequence[tuple[float, float, int]]) -> bool:
    """Whether the descriptors of the last fifth are all more than those of the first, and some to spare."""
    fifth = max(1, len(samples) // 5)
    return (
        min(held for _, _, held in samples[-fifth:]) > max(held for _, _, held in samples[:fifth]) + SPARE_DESCRIPTORS
    )


# --- the soak -----------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """What came of a soak."""

    answers: dict[str, Answers]
    findings: list[Finding]
    happened: Counter[str]
    samples: Samples

    @property
    def violations(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.is_violation]

    def lines(self) -> Iterator[str]:
        total = sum((answers.kinds for answers in self.answers.values()), Counter[str]())
        yield f"answers: {_told(total)}"
        yield f"happened: {_told(self.happened)}"
        for finding in self.findings:
            yield f"{'VIOLATION ' if finding.is_violation else ''}{finding.key}: {finding.said}"
        for (name, pid), samples in self.samples.of.items():
            if samples[-1][0] - samples[0][0] >= LONG_SECONDS:
                (_, first, opened), (_, last, held) = samples[0], samples[-1]
                most = max(held for _, _, held in samples)
                yield (
                    f"{name}, process {pid}, {samples[-1][0] - samples[0][0]:.0f} s: {first:.1f} to {last:.1f} MB, "
                    f"{slope(samples):+.2f} MB/min; descriptors {opened} to {held}, {most} at most"
                )


def _told(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counter.most_common())


@contextmanager
def scene(host: Host, policy: str, hold_ms: int) -> Iterator[Scene]:
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="authz-soak-")))
        config = written(scratch / "plans.yaml", 0)
        redis = stack.enter_context(redis_server("valkey", "--appendfsync", "always"))
        clients = stack.enter_context(Clients(redis))
        own = ("--redis-url", clients.proxy.url, "--account-id", ACCOUNT, "--failure-policy", policy)
        often = ("--redis-timeout-ms", "300", "--drain-seconds", "0.3", "--replicas", str(PROCESSES))
        ahead = ("--hold-ms", str(hold_ms))
        sidecars = [
            stack.enter_context(authz_serve(config, *own, *often, *ahead, host=host, workers=workers))
            for workers in WORKERS
        ]
        clients.ask([endpoint for sidecar in sidecars for endpoint in sidecar.endpoints])
        yield Scene(config, redis, sidecars, clients)


def soak(host: Host, policy: str, pause_seconds: float, goes_on: Callable[[int], bool], hold_ms: int = 0) -> Report:
    """While `goes_on(number of events so far)`, cause an event every `pause_seconds`."""
    samples = Samples()
    with scene(host, policy, hold_ms) as stage:
        for number, act in enumerate(stage.happenings()):
            if not goes_on(number):
                break
            stage.happen(act)
            until = time.monotonic() + pause_seconds
            while True:
                samples.take(stage.sidecars)
                if time.monotonic() >= until:
                    break
                time.sleep(min(0.5, pause_seconds))
        answers, outages = stage.clients.answers, stage.outages
        stage.clients.rest()
        if hold_ms:
            time.sleep(HOLDS_END_SECONDS)
        lives = stage.happened.total() if hold_ms else 0
        used = {key: counted(stage.redis, key) for key in KEYS}
    found = [
        finding
        for key in KEYS
        for finding in findings(
            key,
            answers[key],
            used[key],
            strict=policy == "deny",
            outages=outages,
            losses=lives * most_held(key),
        )
    ]
    first = next(iter(samples.of.items()))
    found.append(Finding(first[0][0], f"{first[1][-1][2]} descriptors at the end", leaks(first[1])))
    return Report(answers, found, stage.happened, samples)


@click.command(help=__doc__)
@click.option("--minutes", type=click.FloatRange(0.1, 120), default=10.0, show_default=True)
@click.option("--pause", type=click.FloatRange(0.1, 60), default=4.0, show_default=True, help="Seconds between events.")
@click.option("--policy", type=click.Choice(["deny", "local"]), default="deny", show_default=True)
@click.option("--server", "host", type=click.Choice(["grpcio", "pyvoy"]), default="grpcio", show_default=True)
@click.option("--hold-ms", type=click.IntRange(0, MAX_HOLD_MS), default=0, show_default=True, help="Hold units ahead.")
def main(minutes: float, pause: float, policy: str, host: Host, hold_ms: int) -> None:
    end = time.monotonic() + 60 * minutes
    report = soak(host, policy, pause, lambda _number: time.monotonic() < end, hold_ms)
    for line in report.lines():
        click.echo(line)
    click.echo(f"{len(report.violations)} violations")
    if report.violations:
        sys.exit(1)


if __name__ == "__main__":
    main()
