"""Measure section after section: `python -m bench [--quick] [--only SECTION …]`.

Starts all servers itself, on loopback, and writes RESULTS.md and plots beside this file.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import structlog

from authz.hosts.pyvoy_launch import obstacle
from bench.load.loops import missing_tools
from bench.measure.machine import Cores, description
from bench.measure.million import KEYS, QUICK_KEYS
from bench.measure.report import markdown, targets, write
from bench.measure.rows import Bench, Section
from bench.measure.servers import hosts
from bench.sections import SECTIONS

ROUNDS = 5
SECONDS, QUICK_SECONDS = 1.2, 0.4
HERE = Path(__file__).parent
STRICTLY = (
    "Sidecars run as users start them, but with `failurePolicy: deny` and 500 ms of patience for Redis, so that no "
    "answer comes from anywhere else; calls carry a deadline of 1 s."
)


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="A few minutes: short rounds, small sizes. Figures are rough.")
@click.option(
    "--only", "names", multiple=True, type=click.Choice(list(SECTIONS)), help="Just this section; repeatable."
)
@click.option("--rounds", default=ROUNDS, show_default=True, type=click.IntRange(1), help="Rounds of each row.")
@click.option("--seconds", type=click.FloatRange(0.1, 60), help=f"Load in each round (default: {SECONDS:g}).")
@click.option("--keys", type=click.IntRange(10_000), help=f"In the store (default: {KEYS:,}; quick: {QUICK_KEYS:,}).")
@click.option(
    "--before",
    type=click.Path(path_type=Path, exists=True, file_okay=False, resolve_path=True),
    help="Another tree of this repository, such as a clone of an earlier commit: the section sellers compares with it.",
)
@click.option("--output", default=HERE, type=click.Path(path_type=Path, file_okay=False), help="Where the results go.")
def main(
    quick: bool,
    names: tuple[str, ...],
    rounds: int,
    seconds: float | None,
    keys: int | None,
    before: Path | None,
    output: Path,
) -> None:
    if missing := missing_tools():
        raise click.ClickException(f"missing: {', '.join(missing)}")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    cores, began = Cores.here(), time.monotonic()
    machine = description(len(cores.all))
    os.sched_setaffinity(0, cores.load)
    gc.freeze()
    with TemporaryDirectory(prefix="authz-bench-") as scratch:
        seconds = seconds or (QUICK_SECONDS if quick else SECONDS)
        keys = keys or (QUICK_KEYS if quick else KEYS)
        bench = Bench(cores, rounds, seconds, quick, keys, Path(scratch), hosts(), click.echo, before)
        sections: list[Section] = []
        for name in SECTIONS:
            if not names or name in names:
                sections.append(_run(name, bench))
                # After each, so that a run which is cut short has written what it found.
                notes = _notes(bench, time.monotonic() - began)
                write(output, sections, machine, notes, time.strftime("%Y-%m-%d"))
    if goals := [goal for section in sections for goal in section.goals]:
        click.echo("\n".join(markdown(targets(goals))))
    click.echo("RESULTS.md is written")
    if failed := [section.title for section in sections if section.failed]:
        raise click.ClickException(f"not measured: {', '.join(failed)}")


def _run(name: str, bench: Bench) -> Section:
    """A section that fails says why, in the results too, and the others go on."""
    click.echo(f"{name}:")
    try:
        return SECTIONS[name](bench)
    except Exception as error:
        click.echo(f"  failed: {error}", err=True)
        return Section(name, f"Not measured ({type(error).__name__}).", failed=True)


def _notes(bench: Bench, took: float) -> list[str]:
    shared = "" if len(bench.cores.all) > 1 else " There is one core: everything shares it."
    other = _other(len(bench.cores.load))
    found = [
        f"Each row ran {bench.rounds} rounds of {bench.seconds:g} s; the whole took {took / 60:.1f} minutes.",
        f"The server had a core to itself; the load, Redis and a front Envoy shared {other}.{shared}",
        "Rows with another placement say so.",
        STRICTLY,
    ]
    if "pyvoy" not in bench.hosts:
        found.append(f"The rows of pyvoy are missing: {obstacle()}.")
    if bench.quick:
        found.append("A quick run: rounds are short and sizes small, so figures are rough.")
    return found


def _other(cores: int) -> str:
    return "the other" if cores == 1 else f"the other {cores}"


if __name__ == "__main__":
    sys.exit(main())
