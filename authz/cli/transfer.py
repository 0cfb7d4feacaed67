"""`authz import | export | backup | restore`: resources between files and the store."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import click

from authz.cli.control import PLACE, SECRETS, on_store, store_settings
from authz.cli.options import FILE, File, takes_file, with_options
from authz.cli.progress import KINDS, Step, progress, quiet_option, summarize
from authz.core.stored import Items
from authz.store.backup import Backups
from authz.store.sealing import Sealer, load_sealer
from authz.store.store import Store
from authz.transfer import transfer
from authz.transfer.files import written
from authz.transfer.inbound import Reading, without_mistyped
from authz.transfer.transfer import Export, Import, everything

T = TypeVar("T")

PATH = File(exists=True, directories=True)

SECONDS = 60.0  # a whole store in one answer takes longer than a request's budget


def _run(act: Callable[[Store], Awaitable[T]], redis_url: str | None, account_id: str | None) -> T:
    return on_store(act, redis_url, account_id, SECONDS)


def _sealer(pepper_file: Path | None, sealing_key_file: Path | None) -> Sealer:
    return load_sealer(os.environ, pepper_file, sealing_key_file)


def _warn(warnings: list[str]) -> None:
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)


@click.command("import")
@takes_file("PATH", required=True, kind=PATH)
@click.option("--config", "path", type=PATH, help="Another way to name the PATH.")
@click.option("--dry-run", is_flag=True, help="Print what would change, and change nothing.")
@click.option("--api-id", metavar="ID", help="The id of an OpenAPI document's API; made of its title unless given.")
@click.option("--stage", metavar="NAME", help="Deploy an OpenAPI document's API to this stage.")
@quiet_option
@with_options(*PLACE, *SECRETS)
def import_(
    path: Path,
    dry_run: bool,
    api_id: str | None,
    stage: str | None,
    quiet: bool,
    redis_url: str | None,
    account_id: str | None,
    pepper_file: Path | None,
    sealing_key_file: Path | None,
) -> None:
    """Import plans, keys, APIs and stages from a file into the store.

    PATH is a plans.yaml; output of `aws apigateway get-…` (a JSON file or a directory of them); AWS's CSV file of
    API keys; an OpenAPI document; a CloudFormation or SAM template; or output of `terraform show -json`.

    Prints a line for each change: + is new, ~ differs, - is taken out of a plan. What the store has besides stays.
    Doing it again changes nothing. A file of stages, resources, gateway responses or plan keys tells by its name whose
    they are: get-stages-APIID.json, get-usage-plan-keys-PLANID.json.
    """
    sealer = _sealer(pepper_file, sealing_key_file)
    now = int(time.time())
    wanted = Reading(now, sealer, api_id, stage).wanted(path)
    without_mistyped(wanted, store_settings(redis_url, account_id).key_prefix)

    async def act(store: Store) -> Import:
        with progress("Importing", len(wanted.items), quiet) as step:
            made = Import(store, sealer, wanted, now, "authz import", step)
            await (made.preview() if dry_run else made.run())
        return made

    made = _run(act, redis_url, account_id)
    for change in made.changes:
        click.echo(str(change))
    _warn(made.warnings)
    done = "would change" if dry_run else "changed"
    click.echo(f"{path}: {len(made.changes)} {done}" if made.changes else f"{path}: nothing to do")
    summarize(_held(wanted.items), quiet)


@click.command("export")
@click.argument("path", type=click.Path(path_type=Path), required=False)
@click.option("--format", "form", type=click.Choice(["yaml", "aws"]), default="yaml", show_default=True)
@click.option("--include-values", is_flag=True, help="Write the values of keys that the sealing key opens.")
@quiet_option
@with_options(*PLACE, *SECRETS)
def export(
    path: Path | None,
    form: str,
    include_values: bool,
    quiet: bool,
    redis_url: str | None,
    account_id: str | None,
    pepper_file: Path | None,
    sealing_key_file: Path | None,
) -> None:
    """Write the store's resources: a plans.yaml (to PATH, or printed), or the aws cli's JSON files into a directory.

    Without values a key is written as the SHA-256 of its value, which only a store without a pepper knows. A warning
    names each thing that is left out.
    """
    if form == "aws" and path is None:
        raise click.UsageError("--format aws writes several files: name a directory")
    sealer = _sealer(pepper_file, sealing_key_file)

    async def read(store: Store) -> Items:
        with progress("Reading", None, quiet) as step:
            return await everything(store, step)

    found = Export(_run(read, redis_url, account_id), sealer, include_values)
    size = 0
    if form == "aws" and path is not None:
        path.mkdir(parents=True, exist_ok=True)
        for name, body in found.aws().items():
            size += _write(path / name, body)
    elif path is None:
        text = found.yaml()
        size = len(text.encode())
        click.echo(text, nl=False)
    else:
        size = _write(path, found.yaml().encode())
    _warn(found.warnings)
    summarize(_held(found.items), quiet, size)


@click.command("backup")
@click.argument("path", type=FILE)
@quiet_option
@with_options(*PLACE)
def backup(path: Path, quiet: bool, redis_url: str | None, account_id: str | None) -> None:
    """Write a file with the account's resources, as of one moment, and its counters. Protect it like Redis itself."""

    async def act(store: Store) -> Copied:
        with progress("Reading", None, quiet) as step:
            return await _copied(store, step, lambda seen: transfer.backup(Backups(store.database), path, seen))

    copied = _run(act, redis_url, account_id)
    click.echo(f"{path}: {copied.redis_keys} Redis keys")
    summarize(copied.counts, quiet, copied.size)


@click.command("restore")
@click.argument("path", type=File(exists=True))
@quiet_option
@with_options(*PLACE)
@click.confirmation_option(
    "--yes", help="Do not ask.", prompt="This replaces all resources and counters of the account. Go on?"
)
def restore(path: Path, quiet: bool, redis_url: str | None, account_id: str | None) -> None:
    """Replace the account's resources and counters with those of a backup. Sidecars reload everything."""

    size = path.stat().st_size

    async def act(store: Store) -> Copied:
        with progress("Restoring", size, quiet) as step:
            return await _copied(store, step, lambda seen: transfer.restore(Backups(store.database), path, seen))

    copied = _run(act, redis_url, account_id)
    click.echo(f"{path}: {copied.redis_keys} Redis keys restored")
    summarize(copied.counts, quiet, copied.size)


@dataclass(frozen=True, slots=True)
class Copied:
    """The counts of a backup or a restore, for its last line."""

    redis_keys: int
    counts: dict[str, int]
    size: int


async def _copied(store: Store, step: Step, copy: Callable[[transfer.Seen], Awaitable[int]]) -> Copied:
    """Copy a whole store, with a step for each byte, and count what it has."""
    counters = size = 0

    def seen(length: int, is_counter: bool) -> None:
        nonlocal counters, size
        counters += is_counter
        size += length
        step(length)

    redis_keys = await copy(seen)
    held = {word: await store.count(kind) for kind, word in KINDS.items()}
    return Copied(redis_keys, {**held, "counter": counters}, size)


def _held(items: Items) -> dict[str, int]:
    return {word: sum(kind == found for found, _ in items) for kind, word in KINDS.items()}


def _write(path: Path, body: bytes) -> int:
    """Write a file for its owner's eyes. Returns how many bytes it has."""
    with written(path) as file:
        return file.write(body)


COMMANDS = (import_, export, backup, restore)
