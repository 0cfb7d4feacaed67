"""What a long command shows a person: a bar while it works, and the counts at its end. Standard output has neither."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Final

import click

KINDS: Final = {"restapi": "API", "usageplan": "plan", "apikey": "key", "customer": "customer"}
RARE: Final = frozenset({"customer"})  # words that are left out of a summary where there are none

Step = Callable[[int], None]

quiet_option = click.option("-q", "--quiet", is_flag=True, help="Show no progress and no counts.")


@contextmanager
def progress(label: str, length: int | None, quiet: bool) -> Iterator[Step]:
    """A bar on standard error, if that is a terminal. The yielded function advances the bar by its argument."""
    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    counted = count() if length is None else range(length)
    with click.progressbar(counted, label=label, file=sys.stderr, show_pos=length is None) as bar:
        yield bar.update


def summarize(counts: dict[str, int], quiet: bool, size: int | None = None) -> None:
    """Print one line of counts to standard error: `2 APIs, 1 plan, 40 keys, 1,234 bytes`."""
    if quiet:
        return
    parts = [_counted(number, word) for word, number in counts.items() if number or word not in RARE]
    parts += [] if size is None else [_counted(size, "byte")]
    click.echo(", ".join(parts), err=True)


def _counted(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"
