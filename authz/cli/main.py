"""The command line: `authz serve | control | up | check-config | explain | envoy-config | new-key | …`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
import structlog
from click.core import ParameterSource

from authz.check import LimiterUnavailable
from authz.cli import plans, transfer
from authz.cli.console import console
from authz.cli.control import audit, control, credentials
from authz.cli.doctor import doctor
from authz.cli.envoy import envoy_config
from authz.cli.explain import explain
from authz.cli.options import FILE, Grouped, config_file, settings_flags, takes_file, with_options
from authz.cli.up import PORTS, Port, UpOptions, ports_from
from authz.cli.up import up as run_up
from authz.cli.usage import usage
from authz.config import file as config
from authz.config.faults import ConfigError
from authz.config.file import Config
from authz.config.settings import ServerName, Settings, load_settings
from authz.observe import log
from authz.workers.supervisor import serve as run_serve

F = TypeVar("F", bound=Callable[..., Any])


class Commands(Grouped):
    """All commands, in groups by purpose."""

    sections = {
        "Try": {
            "up": "Start everything on this machine.",
            "explain": "Show the answer to a request, and why.",
        },
        "Run": {
            "serve": "Run the sidecar that answers Envoy.",
            "control": "Run the control plane, for AWS's tools.",
            "envoy-config": "Print Envoy's side.",
        },
        "Plans": {
            "init": "Write a first plans.yaml.",
            "check-config": "Find all mistakes in a plans.yaml.",
            "new-key": "Make an API key.",
            "schema": "Print the JSON schema of a plans.yaml.",
            "import": "Bring plans from files into the store.",
            "export": "Write the store's plans to files.",
        },
        "Operate": {
            "doctor": "Find mistakes in a running system.",
            "console": "Sign in to the console.",
            "credentials": "Manage callers of the control plane.",
            "usage": "Show how much plans are used.",
            "audit": "List all changes of the store.",
            "backup": "Write an account to a file.",
            "restore": "Restore an account from a file.",
        },
    }


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="envoy-usage-plans")
def cli() -> None:
    """Usage plans for any Envoy: API keys, throttles and quotas as Amazon API Gateway sells them."""


for command in (
    control,
    console,
    credentials,
    audit,
    doctor,
    envoy_config,
    explain,
    usage,
    *plans.COMMANDS,
    *transfer.COMMANDS,
):
    cli.add_command(command)


def main() -> None:
    """Run a command. An operator's mistakes are printed one a line, without a traceback, with exit status 2."""
    try:
        cli()
    except (ConfigError, LimiterUnavailable, OSError) as error:
        click.echo(str(error), err=True)
        sys.exit(2)


@cli.command()
@config_file
@settings_flags()
def serve(path: Path, **flags: object | None) -> None:
    """Run the sidecar that answers Envoy.

    Stops on TERM or INT: NOT_SERVING, a drain, then the calls in flight. Reloads the file on HUP, and whenever it
    changes. With --store it needs no file. With --workers each worker is a process, and USR2 replaces them one by one.
    """
    run_serve(lambda: _to_serve(path, flags))


def _to_serve(path: Path, flags: Mapping[str, object | None]) -> tuple[Settings, tuple[Path, Config] | None]:
    """The settings, and the file unless the store alone is served."""
    named = click.get_current_context().get_parameter_source("path") is not ParameterSource.DEFAULT
    if not (named or path.exists()) and load_settings({}, os.environ, flags).settings.store:
        read, file = {}, None
    else:
        # A child process reads the file, so that this one never holds its text, and so no key's value.
        found = asyncio.run(config.load_in_child(path))
        read, file = found.settings, (path, found)
    loaded = load_settings(read, os.environ, flags, str(path))
    log.configure(loaded.settings.log_level, loaded.settings.log_format)
    for renamed in loaded.warnings:
        structlog.get_logger(__name__).warning("setting renamed", setting=renamed.address, advice=renamed.rule)
    return loaded.settings, file


def _port(port: Port) -> Callable[[F], F]:
    text = f"Port of {port.what}, on 127.0.0.1.  [default: {port.default}]"
    return click.option(port.option, port.field, type=click.IntRange(1, 65535), help=text)


@cli.command()
@takes_file()
@click.option("--config", "path", type=FILE, help="Your own configuration.  [default: the sample]")
@click.option(
    "--port-base",
    type=click.IntRange(1, 65536 - len(PORTS)),
    help=f"Use the {len(PORTS)} ports from this one on, in the order of the next {len(PORTS)} options.",
)
@with_options(*map(_port, PORTS))
@click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False), help="Keep data and logs here.")
@click.option("--redis-url", help="Use this Redis instead of an embedded Valkey.")
@click.option(
    "--server", type=click.Choice(["grpcio", "pyvoy"]), help="What serves gRPC.  [default: pyvoy where it can run]"
)
@click.option("--host", "former_server", type=click.Choice(["grpcio", "pyvoy"]), hidden=True)
@click.option("--envoy-binary", type=click.Path(path_type=Path, dir_okay=False), help="Use this Envoy.")
def up(path: Path | None, port_base: int | None, former_server: ServerName | None, **options: Any) -> None:
    """Run everything on this machine, to try it: Envoy, the sidecar, Valkey and an echo upstream. Ctrl-C ends it."""
    if former_server:
        click.echo("warning: --host: renamed; use --server. The next release refuses the old name", err=True)
        options["server"] = options["server"] or former_server
    try:
        code = asyncio.run(run_up(UpOptions(config=path, **{**options, **ports_from(options, port_base)})))
    except KeyboardInterrupt:  # before it has begun to listen for one
        code = 0
        click.echo("\nauthz up: stopped")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all has ended, and one more Ctrl-C would only bring a traceback
    sys.exit(code)
