"""Sends requests of a customer who edits every id in them, and fails if one reads or changes anything of others."""

from __future__ import annotations

import random
from collections import Counter

import click

from tests.support.intruder import attack, intruded

A_WORLD = 1_000  # requests


@click.command("portal")
@click.option("--requests", default=100_000, show_default=True)
@click.option("--seed", default=1, show_default=True)
def command(requests: int, seed: int) -> None:
    """A customer of the portal who edits every id."""
    chance, statuses = random.Random(seed), Counter[int]()
    for number in range(requests):
        if number % A_WORLD == 0:
            pages = intruded()
        statuses[attack(pages, chance)] += 1
    counts = ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))
    click.echo(f"{requests} requests read and changed nothing of others ({counts})")
