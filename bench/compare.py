"""Put the same front Envoy before servers that you have started and before ours, and compare what a request costs.

\b
python -m bench.compare --configs rivals
python -m bench.compare --rls HOST:PORT --ext-authz HOST:PORT --pid PID --pid PID --redis-pid PID

The first line writes the files that the rivals below read. The second one measures, in rounds that take turns: no
check, each rival, both in one Envoy (the chain: first the check, then the limits), our no-op and ours on grpcio and
pyvoy. An Envoy is behind each as the upstream. It needs `wrk` on PATH. Rivals get the core that ours have (the first),
and their Redis the one of the load (the others).

envoyproxy/ratelimit, for --rls:

\b
taskset -c 1 valkey-server --port 6390 --save "" --appendonly no
BACKEND_TYPE=redis REDIS_SOCKET_TYPE=tcp REDIS_URL=127.0.0.1:6390 \\
  RUNTIME_ROOT=rivals RUNTIME_SUBDIRECTORY=ratelimit RUNTIME_WATCH_ROOT=false \\
  USE_STATSD=false LOG_LEVEL=error HOST=127.0.0.1 PORT=8090 \\
  GRPC_HOST=127.0.0.1 GRPC_PORT=8081 DEBUG_HOST=127.0.0.1 DEBUG_PORT=6070 \\
  taskset -c 0 ratelimit

limitador, for --rls:

\b
taskset -c 0 limitador-server --rls-ip 127.0.0.1 --rls-port 8081 \\
  --http-ip 127.0.0.1 --http-port 8090 rivals/limitador.yaml memory

OPA with its Envoy plugin, for --ext-authz:

\b
taskset -c 0 opa-envoy-plugin run --server --disable-telemetry \\
  --addr 127.0.0.1:8181 --log-level error \\
  --set plugins.envoy_ext_authz_grpc.addr=127.0.0.1:9191 \\
  --set plugins.envoy_ext_authz_grpc.path=bench/authz/allow \\
  --set plugins.envoy_ext_authz_grpc.skip-request-body-parse=true \\
  rivals/opa/policy.rego rivals/opa/keys.json

Any other Authorization service has to admit `GET /prod/pets/7` of host `a1.bench` with the x-api-key `value-of-key-`
and 27 digits, from 0 to 9,999, and to refuse other keys.

Exactness is measured without an Envoy, for the service of --rls, or for one of --ext-authz alone that knows
`value-of-the-roomy-key`. There, `value-of-the-tight-key` may call 100 times, `value-of-the-edge-key` 100 times
a second, and GET /prod/wide takes 1,000 calls in all; counters must be fresh.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import click
import psutil

from authz.config.settings import MAX_HOLD_MS
from bench.load.loops import missing_tools
from bench.measure.exact import Exactness, exactness
from bench.measure.machine import Cores, description
from bench.measure.report import Report, markdown, write
from bench.measure.rows import Bars, Bench, Samples, Section, Table, interleaved, table
from bench.measure.servers import hosts
from bench.measure.stats import Spread, ratio
from bench.rivals import files, limits
from bench.rivals.gates import PATIENCE_MS, Rival, Rivals
from bench.rivals.setups import WrongAnswer, our_rows, setups
from bench.sections.common import KEYS
from bench.sections.front import front_row

IN_FLIGHT: Final = (1, 8, 64)
COLUMNS: Final = {
    "server_us": "CPU of deciders, µs",
    "redis_us": "of Redis, µs",
    "envoy_us": "of Envoy, µs",
    "total_us": "in all, µs",
    "p50_ms": "p50, ms",
    "p99_ms": "p99, ms",
    "scripts": "scripts a call",
    "rate": "calls/s",
    "wrong": "wrong",
}
RATIOS: Final = {"total_us": "CPU in all", "p50_ms": "p50", "p99_ms": "p99"}
PARTS: Final = {"server_us": "deciders", "redis_us": "Redis", "envoy_us": "Envoy"}
EXACTNESS: Final = (
    "Measured over gRPC, without an Envoy. `no answer` are calls that a server turned away before it decided, as "
    "grpcio does with many at once; Envoy repeats those."
)
REPORT: Final = Report("COMPARISON.md", "What others cost", "python -m bench.compare")


def rival(_context: click.Context, option: click.Parameter, value: str | None) -> Rival | None:
    """`HOST:PORT` or `NAME=HOST:PORT`, read."""
    if value is None:
        return None
    name, _, address = value.rpartition("=")
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal()):
        raise click.BadParameter(f"expected HOST:PORT or NAME=HOST:PORT: {value}")
    return Rival(name or str(option.name).replace("_", "-"), address)


def running(_context: click.Context, _option: click.Parameter, value: tuple[int, ...] | int | None) -> object:
    for pid in value if isinstance(value, tuple) else (value,):
        if pid is not None and not psutil.pid_exists(pid):
            raise click.BadParameter(f"no process has the id {pid}")
    return value


@click.command(help=__doc__)
@click.option("--rls", metavar="[NAME=]HOST:PORT", callback=rival, help="A RateLimitService.")
@click.option("--ext-authz", metavar="[NAME=]HOST:PORT", callback=rival, help="An Authorization service.")
@click.option("--pid", "pids", multiple=True, type=int, callback=running, help="A process of theirs; repeatable.")
@click.option("--redis-pid", type=int, callback=running, help="The process of their Redis.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="Rounds of each row.")
@click.option("--seconds", default=1, show_default=True, type=click.IntRange(1, 60), help="Of load in each round.")
@click.option(
    "--in-flight",
    default=IN_FLIGHT,
    show_default=True,
    multiple=True,
    type=click.IntRange(1, 1000),
    help="Calls at a time; repeatable.",
)
@click.option("--keys", default=KEYS, show_default=True, type=click.IntRange(1, KEYS), help="That call, of 10,000.")
@click.option(
    "--hold-ms",
    default=0,
    show_default=True,
    type=click.IntRange(0, MAX_HOLD_MS),
    help="Measure ours with this holdMs, too.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help=f"Write {REPORT.file} and plots/comparison.svg there, too.",
)
@click.option(
    "--configs", type=click.Path(path_type=Path, file_okay=False), help="Write the rivals' files there, and end."
)
def main(
    rls: Rival | None,
    ext_authz: Rival | None,
    pids: tuple[int, ...],
    redis_pid: int | None,
    rounds: int,
    seconds: int,
    in_flight: tuple[int, ...],
    keys: int,
    hold_ms: int,
    output: Path | None,
    configs: Path | None,
) -> None:
    if configs:
        for path in files.write(configs, KEYS):
            click.echo(path)
        return
    if not (rls or ext_authz):
        raise click.UsageError("expected --rls, --ext-authz or both")
    if not pids:
        raise click.UsageError("expected --pid, the processes whose CPU is compared")
    if missing := [tool for tool in missing_tools() if tool.startswith("wrk ")]:
        raise click.ClickException(f"missing: {', '.join(missing)}")
    cores = Cores.here()
    machine = description(len(cores.all))
    os.sched_setaffinity(0, cores.load)
    with TemporaryDirectory(prefix="authz-bench-") as scratch:
        bench = Bench(cores, rounds, seconds, False, keys, Path(scratch), hosts(), _progress)
        try:
            sections = compared(bench, Rivals(rls, ext_authz, pids, redis_pid), in_flight, hold_ms)
        except WrongAnswer as error:
            raise click.ClickException(str(error)) from error
    for section in sections:
        click.echo(f"\n{section.title}\n")
        for found in section.tables:
            click.echo("\n".join(markdown(found)))
    if output:
        write(output, sections, machine, _notes(bench), time.strftime("%Y-%m-%d"), REPORT)


def _progress(line: str) -> None:
    click.echo(line, err=True)


def _notes(bench: Bench) -> list[str]:
    return [
        f"Each row ran {bench.rounds} rounds of {bench.seconds:g} s.",
        "Each decider had the first core; the load, Redis, the front Envoy and the Envoy behind it shared the other.",
        f"Envoy waits {PATIENCE_MS} ms for each decider.",
        f"`wrk` draws from {bench.keys:,} of {KEYS:,} keys.",
        "A call has four limits before --rls, and five and a key before ours.",
    ]


def compared(bench: Bench, rivals: Rivals, in_flight: Sequence[int], hold_ms: int = 0) -> list[Section]:
    """The tables of cost for each number in flight, ours over theirs, and exactness. Raises WrongAnswer."""
    with setups(bench, rivals, hold_ms) as targets:
        names = list(targets)
        rows = [front_row(bench, _label(name, n), targets[name], n, bench.keys) for n in in_flight for name in names]
        samples = interleaved(bench, rows)
    by_load = {n: {name: samples[_label(name, n)] for name in names} for n in in_flight}
    text = "CPU is that of one request. The Envoy behind and the load are not in it."
    costs = [Section(f"{n} in flight", text, [table(found, COLUMNS)]) for n, found in by_load.items()]
    costs[-1].plots = [_bars(*list(by_load.items())[-1])]
    over = _ratios(by_load, rivals.base, our_rows(bench.hosts, hold_ms))
    exact = limits.exactness_table(dict(_exactness(bench, rivals, hold_ms)))
    return [
        *costs,
        Section(f"Ours over {rivals.base}", "Ratios are of the same round.", [over]),
        Section("Exactness", EXACTNESS, [exact]),
    ]


def _label(name: str, in_flight: int) -> str:
    return f"{name}, {in_flight} in flight"


def _ratios(by_load: Mapping[int, Samples], base: str, names: Iterable[str]) -> Table:
    rows = [
        [_label(name, n), *(str(ratio(samples[name], samples[base], figure)) for figure in RATIOS)]
        for n, samples in by_load.items()
        for name in names
    ]
    return Table([f"over {base}", *RATIOS.values()], rows)


def _bars(in_flight: int, samples: Samples) -> Bars:
    parts = {
        label: [Spread.of([sample.get(figure, 0.0) for sample in found]).middle for found in samples.values()]
        for figure, label in PARTS.items()
    }
    return Bars("comparison", f"CPU of a request, {in_flight} in flight", "µs", list(samples), parts)


def _exactness(bench: Bench, rivals: Rivals, hold_ms: int) -> Iterator[tuple[str, Exactness]]:
    if rivals.rls:
        yield rivals.rls.name, exactness(limits.of_limits(rivals.rls.address))
    elif rivals.ext_authz and limits.has_limits(rivals.ext_authz.address):
        yield rivals.ext_authz.name, exactness(limits.of_check(rivals.ext_authz.address))
    for name, (host, hold) in our_rows(bench.hosts, hold_ms).items():
        with limits.ours(host, bench.cores, "--hold-ms", str(hold)) as questions:
            yield name, exactness(questions)


if __name__ == "__main__":
    main()
