"""Puts the same load on a server that you have started and on ours, A B A B, and measures whether limits hold.

\b
python -m bench.compare --rls 127.0.0.1:8081
python -m bench.compare --ext-authz 127.0.0.1:9191 --pid 4711

--rls speaks to a RateLimitService, as envoyproxy/ratelimit and limitador are. Give it

\b
domain: bench
descriptors:
  - {key: caller, rate_limit: {unit: second, requests_per_unit: 1000000}}
  - {key: caller_method, rate_limit: {unit: second, requests_per_unit: 1000000}}
  - {key: method, rate_limit: {unit: second, requests_per_unit: 1000000}}
  - {key: account, rate_limit: {unit: second, requests_per_unit: 1000000}}
  - {key: tight, rate_limit: {unit: day, requests_per_unit: 100}}
  - {key: wide, rate_limit: {unit: day, requests_per_unit: 1000}}
  - {key: edge, rate_limit: {unit: second, requests_per_unit: 100}}

Values differ in each run, so that counters are fresh.

--ext-authz speaks to an Authorization service. For the load it has to admit `GET /prod/pets/7` with the x-api-key
`value-of-key-` and 27 digits, from 0 to 9,999. For exactness: `value-of-the-tight-key` may call 100 times,
`value-of-the-edge-key` 100 times a second, `value-of-the-roomy-key` always; and GET /prod/wide takes 1,000 calls in
all. Counters must be fresh.

Pin it as ours is: `taskset -c 0`. With --pid (repeatable: the server, its Redis) its CPU is compared, too.
"""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from bench.load.h2 import Connection, framed
from bench.load.inputs import (
    CHECK,
    SHOULD_RATE_LIMIT,
    admits_any,
    check_request,
    document,
    of_keys,
    rate_limit_request,
    within_limit,
    written,
)
from bench.load.loops import Draw, Judge, Outcome, closed
from bench.measure.exact import CALLS, EDGE, TIGHT, WIDE, Exactness, Questions, exactness
from bench.measure.machine import Cores, cpu_seconds
from bench.measure.report import markdown
from bench.measure.rows import Row, Table, figures, table
from bench.measure.servers import Host, redis, sidecar
from bench.measure.stats import Sample, ratio

DOMAIN = "bench"
KEYS = 10_000
WARM_SECONDS = 0.3
CROWD = ("--max-in-flight", "10000")  # exactness needs 2,000 calls at once, none of them shed
COLUMNS = {"rate": "calls/s", "cpu_us": "CPU, µs", "p50_ms": "p50, ms", "p99_ms": "p99, ms", "wrong": "wrong"}


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two servers: its address, its requests, and the processes whose CPU counts."""

    name: str
    address: str
    path: str
    draw: Draw
    judge: Judge
    pids: Sequence[int]
    questions: Questions


@click.command(help=__doc__)
@click.option("--rls", metavar="HOST:PORT", help="A RateLimitService.")
@click.option("--ext-authz", metavar="HOST:PORT", help="An Authorization service.")
@click.option("--pid", "pids", multiple=True, type=int, help="A process of it, whose CPU is counted.")
@click.option(
    "--server", "host", type=click.Choice(["grpcio", "pyvoy"]), default="grpcio", show_default=True, help="Our server."
)
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="Turns of A and B.")
@click.option(
    "--seconds", default=2.0, show_default=True, type=click.FloatRange(0.1, 60), help="Of load in each round."
)
@click.option("--in-flight", default=64, show_default=True, type=click.IntRange(1, 1000), help="Calls at a time.")
def main(
    rls: str | None,
    ext_authz: str | None,
    pids: tuple[int, ...],
    host: Host,
    rounds: int,
    seconds: float,
    in_flight: int,
) -> None:
    if bool(rls) == bool(ext_authz):
        raise click.UsageError("expected one of --rls and --ext-authz")
    rival = rls_side(rls, pids) if rls else ext_authz_side("theirs", ext_authz or "", pids)
    cores = Cores.here()
    os.sched_setaffinity(0, cores.load)
    with our_side(host, cores) as ours:
        samples = taking_turns([rival, ours], rounds=rounds, seconds=seconds, in_flight=in_flight)
        found = {side.name: exactness(side.questions) for side in (rival, ours)}
    for lines in (table(samples, COLUMNS, "server"), ratios(samples), exactness_table(found)):
        click.echo("\n".join(markdown(lines)) + "\n")


# --- the two sides --------------------------------------------------------------------------------------------------


def rls_side(address: str, pids: Sequence[int]) -> Side:
    """Four descriptors a call, as our four limits that live in Redis."""
    run = uuid.uuid4().hex[:8]
    ask = Questions(
        address,
        SHOULD_RATE_LIMIT,
        within_limit,
        tight=rate_limit_request(DOMAIN, (("tight", run),), (("wide", run),)),
        wide=rate_limit_request(DOMAIN, (("wide", run),)),
        edge=rate_limit_request(DOMAIN, (("edge", run),)),
    )
    return Side("theirs", address, SHOULD_RATE_LIMIT, rls_draw(run), within_limit, pids, ask)


def rls_draw(run: str) -> Draw:
    """Calls of callers drawn uniformly from 10,000."""
    draw = random.Random(1).random
    shared = ((("method", run),), (("account", run),))

    def one() -> bytes:
        caller = f"{run}-{int(draw() * KEYS)}"
        return framed(rate_limit_request(DOMAIN, (("caller", caller),), (("caller_method", caller),), *shared))

    return one


def ext_authz_side(name: str, address: str, pids: Sequence[int]) -> Side:
    ask = Questions(
        address,
        CHECK,
        admits_any,
        tight=check_request(value_of_named("tight"), "/prod/wide"),
        wide=check_request(value_of_named("roomy"), "/prod/wide"),
        edge=check_request(value_of_named("edge"), "/prod/edge"),
    )
    return Side(name, address, CHECK, of_keys(KEYS), admits_any, pids, ask)


def value_of_named(name: str) -> str:
    return f"value-of-the-{name}-key"


@contextmanager
def our_side(host: Host, cores: Cores) -> Iterator[Side]:
    """A sidecar and a Redis, both counted."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="authz-bench-")))
        store = stack.enter_context(redis(cores.load))
        config = written(exact_document(KEYS), scratch)
        server = stack.enter_context(sidecar(config, store.address, *CROWD, host=host, cores=cores.server))
        yield ext_authz_side("ours", server.address, (server.pid, store.pid))


def exact_document(keys: int) -> dict[str, Any]:
    """The file of the load, and beside it what exactness asks for."""
    found = document(keys=keys, layers=5)
    api = found["apis"][0]
    api["resources"] |= {"/wide": {"GET": {}}, "/edge": {"GET": {}}}
    # Rate 0: the burst and no more, at any time of day.
    wide = {"throttlingRateLimit": 0, "throttlingBurstLimit": WIDE}
    api["stages"][0]["methodSettings"] |= {"wide/GET": wide}
    covers = [{"apiId": "a1", "stage": "prod"}]
    limits: Mapping[str, Mapping[str, Any]] = {
        "tight": {"throttle": {"rateLimit": 0, "burstLimit": TIGHT}},
        "edge": {"throttle": {"rateLimit": EDGE, "burstLimit": EDGE}},
        "roomy": {},
    }
    for name, limit in limits.items():
        found["usagePlans"].append({"id": name, "name": name, "apiStages": covers, "keys": [f"key-{name}"], **limit})
        found["apiKeys"].append({"id": f"key-{name}", "value": value_of_named(name)})
    return found


# --- the load -------------------------------------------------------------------------------------------------------


def taking_turns(sides: Sequence[Side], *, rounds: int, seconds: float, in_flight: int) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {side.name: [] for side in sides}
    rows = [Row(side.name, _round_of(side, seconds, in_flight)) for side in sides]
    for _ in range(rounds):
        for row in rows:
            found[row.name].append(row.run())
    return found


def _round_of(side: Side, seconds: float, in_flight: int) -> Callable[[], Sample]:
    def run() -> Sample:
        connection = Connection(side.address, side.path)

        def load(time: float) -> Outcome:
            return closed([connection], side.draw, side.judge, in_flight=in_flight, seconds=time)

        try:
            load(WARM_SECONDS)
            before = cpu_seconds(side.pids)
            outcome = load(seconds)
        finally:
            connection.close()
        used = 1e6 * (cpu_seconds(side.pids) - before) / max(1, outcome.answered)
        return figures(outcome) | ({"cpu_us": used} if side.pids else {})

    return run


def ratios(samples: Mapping[str, Sequence[Sample]]) -> Table:
    """Theirs over ours, round by round."""
    theirs, ours = samples["theirs"], samples["ours"]
    common = [name for name in COLUMNS if name != "wrong" and name in theirs[0] and name in ours[0]]
    return Table(["theirs over ours", *(COLUMNS[name] for name in common)],
                 [["ratio", *(str(ratio(theirs, ours, name)) for name in common)]])  # fmt: skip


def exactness_table(found: Mapping[str, Exactness]) -> Table:
    head = [
        "server",
        f"admitted of {CALLS:,} at once, limit {TIGHT}",
        "admitted across a window's edge",
        f"a bucket of {EDGE} could have",
        "charged by refused calls",
        "no answer",
    ]
    rows = [
        [name, str(e.admitted), str(e.edge_admitted), str(e.edge_most), str(e.charged), str(e.failed)]
        for name, e in found.items()
    ]
    return Table(head, rows)


if __name__ == "__main__":
    main()
