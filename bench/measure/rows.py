"""What a section is made of: rows that take turns, what each round of a row measures, and the figures' tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from redis import Redis

from bench.load.loops import Outcome
from bench.measure.machine import Cores, cpu_seconds, thread_seconds
from bench.measure.servers import Host, Running
from bench.measure.stats import Sample, Spread, ratio

WARM_SHARE = 0.15  # of a round's time, before anything is counted

Load = Callable[[float], Outcome]  # takes its length in seconds
Samples = Mapping[str, Sequence[Sample]]


@dataclass(frozen=True, slots=True)
class Bench:
    """What every section is given."""

    cores: Cores
    rounds: int
    seconds: float  # of load in each round of a row
    quick: bool
    keys: int  # in the store of the section that is about many
    scratch: Path
    hosts: Sequence[Host]
    say: Callable[[str], None]
    before: Path | None = None  # another tree of this repository, to compare with


@dataclass(frozen=True, slots=True)
class Row:
    """A name, and what runs one round of it."""

    name: str
    run: Callable[[], Sample]


@dataclass(frozen=True, slots=True)
class Table:
    """`head` names the columns; the first column holds names."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Plot:
    """Lines over x, on a logarithmic axis. `name` is the file's."""

    name: str
    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float, float]]]


@dataclass(frozen=True, slots=True)
class Bars:
    """A bar a label, stacked from its parts; each part has a value for every label. `name` is the file's."""

    name: str
    title: str
    x: str
    labels: Sequence[str]
    parts: Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True)
class Goal:
    """A target of the project: met if the median is at most that."""

    what: str
    most: float
    found: Spread

    @property
    def is_met(self) -> bool:
        return self.found.middle <= self.most


@dataclass(slots=True)
class Section:
    """A part of the results."""

    title: str
    text: str
    tables: list[Table] = field(default_factory=list)
    plots: Sequence[Plot | Bars] = ()
    goals: list[Goal] = field(default_factory=list)
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """The processes behind a row, with the CPU of each."""

    server: Sequence[Running] = ()
    redis: Running | None = None
    envoy: Running | None = None


def interleaved(bench: Bench, rows: Sequence[Row]) -> dict[str, list[Sample]]:
    """All rows once, then all once more: what slows the machine down for a while slows each of them down."""
    found: dict[str, list[Sample]] = {row.name: [] for row in rows}
    for number in range(bench.rounds):
        for row in rows:
            found[row.name].append(row.run())
        bench.say(f"  round {number + 1} of {bench.rounds}")
    return found


def measured(target: Target, load: Load, seconds: float) -> Sample:
    """A round: first a moment that does not count. CPU in µs a call, latencies in ms.

    `wrong` is the share of calls that were refused or got no answer. `scripts` are the runs of scripts a call, and
    `commands` all that Redis ran, what scripts ask for included; a Redis without an address has neither.
    """
    load(WARM_SHARE * seconds)
    commands = Commands.of(target.redis) if target.redis and target.redis.addresses else None
    before = _cpu(target)
    outcome = load(seconds)
    after = _cpu(target)
    calls = max(1, outcome.answered)
    sample = {f"{name}_us": 1e6 * (after[name] - before[name]) / calls for name in after}
    if target.redis and commands:
        now = Commands.of(target.redis)
        sample["scripts"] = (now.scripts - commands.scripts) / calls
        sample["commands"] = (now.all - commands.all) / calls
    return sample | figures(outcome)


def _cpu(target: Target) -> dict[str, float]:
    used = {"server": cpu_seconds(server.pid for server in target.server)} if target.server else {}
    beside = {"redis": target.redis, "envoy": target.envoy}
    return used | {name: thread_seconds(found.pid) for name, found in beside.items() if found}


def figures(outcome: Outcome) -> dict[str, float]:
    """Of any run: calls a second, latencies in ms, the share that went wrong."""
    total = max(1, outcome.answered + outcome.failed)
    found = {"rate": outcome.answered / outcome.seconds, "wrong": (outcome.refused + outcome.failed) / total}
    if outcome.latencies:
        ordered = sorted(outcome.latencies)
        for name, share in (("p50_ms", 0.5), ("p90_ms", 0.9), ("p99_ms", 0.99), ("p999_ms", 0.999), ("max_ms", 1.0)):
            found[name] = 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]
    return found


@dataclass(frozen=True, slots=True)
class Commands:
    """The commands of a Redis so far: runs of scripts, and all commands, those of scripts and our own included."""

    scripts: int
    all: int

    @classmethod
    def of(cls, redis: Running) -> Commands:
        with Redis.from_url(redis.address) as client:
            stats: Mapping[str, Mapping[str, int]] = client.info("commandstats")
        calls = {name.removeprefix("cmdstat_"): found["calls"] for name, found in stats.items()}
        return cls(sum(calls.get(name, 0) for name in ("eval", "evalsha")), sum(calls.values()))


def table(samples: Samples, columns: Mapping[str, str], first: str = "row") -> Table:
    """A line a row; `columns` is figure -> heading. A figure that a row does not have is left empty."""
    rows = [
        [name, *(str(Spread.of(values)) if (values := _values(found, figure)) else "" for figure in columns)]
        for name, found in samples.items()
    ]
    return Table([first, *columns.values()], rows)


def _values(found: Sequence[Sample], figure: str) -> list[float]:
    return [sample[figure] for sample in found if figure in sample]


def goal(what: str, most: float, samples: Samples, over: str, under: str, figure: str) -> Goal:
    return Goal(what, most, ratio(samples[over], samples[under], figure))
