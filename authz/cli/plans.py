"""`authz init | check-config | schema | new-key`: the plans file."""

from __future__ import annotations

import os
import stat
from collections.abc import Sized
from importlib.resources import files
from pathlib import Path

import click

from authz.cli.options import FILE, File, config_file, load_file, settings_flags
from authz.config import file as configuration
from authz.config import schema as schemas
from authz.config.edit import with_key
from authz.config.faults import ConfigError
from authz.config.settings import load_settings
from authz.core.catalog import Catalog
from authz.core.problem import Problem
from authz.core.resources import ApiKey, digest
from authz.core.rules import warnings
from authz.ids import random_hex, random_key_value
from authz.transfer.files import written

ID_BYTES = 5
BOM = b"\xef\xbb\xbf"


@click.command()
@click.argument("path", metavar="[FILE]", type=FILE, default="plans.yaml")
@settings_flags("key_prefix")
def init(path: Path, **flags: object | None) -> None:
    """Write a first plans file with an API, a plan and a key, and its JSON schema beside it for editors.

    Prints the value of the key, which the file has as a digest only. FILE is plans.yaml unless given; one that exists
    is left as it is.
    """
    value = random_key_value(load_settings({}, os.environ, flags).settings.key_prefix)
    template = files("authz").joinpath("samples", "first.yaml").read_text("utf-8")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(template.replace("VALUE_SHA256", digest(value).hex()))
    except FileExistsError:
        raise ConfigError([Problem(str(path), "exists already, and is left as it is")]) from None
    click.echo(f"{path}: an API, a plan and a key; next: authz check-config {path}")
    click.echo(f"value of the key: {value}")
    path.with_name(schemas.NAME).write_text(schemas.text(), "utf-8")  # last: if this fails, the value is known


@click.command()
def schema() -> None:
    """Print the JSON schema of the plans file, for editors and validators."""
    click.echo(schemas.text(), nl=False)


@click.command("check-config")
@config_file
@click.option("--show", is_flag=True, help="Print each setting and where it comes from, secrets masked.")
@settings_flags()
def check_config(path: Path, show: bool, **flags: object | None) -> None:
    """Find all mistakes in a configuration at once; the exit status is 2 if there are any."""
    read, loaded = load_file(path, flags)
    resources = read.resources
    Catalog.compile(resources, loaded.settings.account_id)
    counted: dict[str, Sized] = {"API": resources.apis, "plan": resources.usage_plans, "key": resources.api_keys}
    counted |= {"customer": resources.customers} if resources.customers else {}
    counts = ", ".join(f"{len(found)} {what}{'' if len(found) == 1 else 's'}" for what, found in counted.items())
    unmeant = warnings(resources)
    click.echo(f"{path}: {counts}; {'no rule is broken' if unmeant else 'nothing wrong'}")
    for problem in (*unmeant, *loaded.warnings):
        click.echo(f"warning: {problem}", err=True)
    if read.warning:
        click.echo(f"warning: {path}: {read.warning}", err=True)
    if show:
        shown = loaded.shown()
        width = max(len(name) for name, _, _ in shown)
        for name, value, origin in shown:
            text = str(value).lower() if isinstance(value, bool) else value
            click.echo(f"{name:{width}}  {text}  ({origin})")


@click.command("new-key")
@click.option(
    "--into", type=File(exists=True), help="Add the key to this plans file, and keep the rest of it as it is."
)
@click.option("--id", "id_", metavar="ID", help="With --into: the key's id.  [default: a random one]")
@click.option("--name", default="", help="With --into: the key's name, for people.")
@click.option("--plan", metavar="ID", help="With --into: the usage plan that the key joins.")
@click.option("--customer", metavar="ID", help="With --into: the customer that holds the key, its customerId.")
@settings_flags("key_prefix")
def new_key(
    into: Path | None, id_: str | None, name: str, plan: str | None, customer: str | None, **flags: object | None
) -> None:
    """Make an API key: print its value, for its holder, and the digest that stands for it in a plans file.

    With --into the file gets the digest, never the value. A sidecar that follows the file takes the key within a
    second.
    """
    settings = configuration.load(into).settings if into else {}  # names all mistakes of the file, with their lines
    value = random_key_value(load_settings(settings, os.environ, flags, str(into)).settings.key_prefix)
    shown = digest(value).hex()
    if into is None:
        if id_ or name or plan or customer:
            raise click.UsageError("--id, --name, --plan and --customer are for --into")
    else:
        key = ApiKey(id_ or random_hex(ID_BYTES), name, value_sha256=shown, customer_id=customer)
        _add(into, key, plan)
        click.echo(f"id:          {key.id}")
    click.echo(f"value:       {value}")
    click.echo(f"valueSha256: {shown}")


def _add(path: Path, key: ApiKey, plan: str | None) -> None:
    """Put the key into the file. Raises ConfigError, and then the file is as it was."""
    body = path.read_bytes()
    text = with_key(body.removeprefix(BOM).decode(), key, plan, str(path))
    found = path.stat()
    with written(path, stat.S_IMODE(found.st_mode)) as file:
        if (found.st_uid, found.st_gid) != (os.geteuid(), os.getegid()):
            os.fchown(file.fileno(), found.st_uid, found.st_gid)  # or the sidecar's user could not read it
        file.write((BOM if body.startswith(BOM) else b"") + text.encode())


COMMANDS = (init, check_config, schema, new_key)
