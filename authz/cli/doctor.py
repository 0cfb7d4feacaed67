"""`authz doctor`: finds mistakes in a running system, and names the fix for each."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Final

import click

from authz.cli.options import File, takes_file
from authz.config import file as configuration
from authz.config.faults import ConfigError
from authz.config.settings import with_password_of
from authz.core.problem import Problem
from authz.doctor.examine import examine
from authz.doctor.fetch import GrpcTls, Targets, look
from authz.doctor.finding import SEVERITIES
from authz.doctor.report import as_json, reference, show
from authz.redisio.url import check_tls_files, mask_url

FILE: Final = File(exists=True)


def _addresses(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse a URL with a login, without repeating it: reports show the addresses."""
    for value in values:
        scheme, mark, _rest = value.partition("://")
        if not value.startswith("unix:/") and ("@" in value or (mark and scheme not in ("http", "https"))):
            raise click.BadParameter("expected http://host:port, host:port or unix:/path, and no user name")
    return values


@click.command()
@click.option(
    "--envoy",
    "envoys",
    multiple=True,
    metavar="URL",
    callback=_addresses,
    help="Envoy's admin, as http://127.0.0.1:9901.",
)
@click.option(
    "--sidecar",
    "sidecars",
    multiple=True,
    metavar="URL",
    callback=_addresses,
    help="A sidecar's httpListen; repeatable.",
)
@click.option(
    "--control", "controls", multiple=True, metavar="URL", callback=_addresses, help="A control plane's --http-listen."
)
@click.option("--grpc", multiple=True, metavar="HOST:PORT", help="An address that Envoy sends checks to; repeatable.")
@click.option("--redis", metavar="URL", help="The Redis of the sidecars, spelt as redisUrl is.")
@click.option("--redis-password-file", type=FILE, help="File with the password of Redis, for a URL that has none.")
@click.option("--account-id", envvar="AUTHZ_ACCOUNT_ID", help="The account in Redis.  [default: the sidecars' setting]")
@takes_file()
@click.option("--config", "path", type=FILE, help="The sidecars' file, to know which headers they read.")
@click.option(
    "--cluster", "clusters", multiple=True, help="The cluster of the sidecars, if Envoy has other ext_authz filters."
)
@click.option("--grpc-ca", type=FILE, help="CA certificates (PEM): --grpc speaks TLS.")
@click.option("--grpc-cert", type=FILE, help="A client's certificate (PEM) for --grpc.")
@click.option("--grpc-key", type=FILE, help="That certificate's private key (PEM).")
@click.option("--grpc-name", help="The name in the certificate of --grpc.  [default: the address]")
@click.option("--json", "for_machines", is_flag=True, help="Print one JSON object.")
@click.option(
    "--fail-on",
    type=click.Choice(["error", "warning", "never"]),
    default="warning",
    show_default=True,
    help="The least severe finding that makes the exit status 1.",
)
@click.option("--list", "list_all", is_flag=True, help="Print all rules, in Markdown, and look at nothing.")
def doctor(
    envoys: tuple[str, ...],
    sidecars: tuple[str, ...],
    controls: tuple[str, ...],
    grpc: tuple[str, ...],
    redis: str | None,
    redis_password_file: Path | None,
    account_id: str | None,
    path: Path | None,
    clusters: tuple[str, ...],
    grpc_ca: Path | None,
    grpc_cert: Path | None,
    grpc_key: Path | None,
    grpc_name: str | None,
    for_machines: bool,
    fail_on: str,
    list_all: bool,
) -> None:
    """Find mistakes in a running system, and name the fix for each. Changes nothing.

    Give any of the addresses. Each adds rules, and some rules compare two of them. An address that does not answer is
    an error. Exit status: 0 without findings, or with `info` only; 1 with others; 2 for a wrong flag.

    \b
    authz doctor --envoy http://127.0.0.1:9901 --sidecar http://127.0.0.1:9190 --redis redis://127.0.0.1:6379/0
    """
    if list_all:
        click.echo(reference(), nl=False)
        return
    read = configuration.load(path) if path else None
    targets = Targets(
        envoys=envoys,
        sidecars=sidecars,
        controls=controls,
        grpc=grpc,
        redis=_redis_url(redis, redis_password_file),
        account=account_id,
        clusters=clusters,
        apis=read.resources.apis if read else (),
        published=read.published if read else (),
        tls=GrpcTls(grpc_ca, grpc_cert, grpc_key, grpc_name) if grpc_ca or grpc_cert else None,
    )
    looked_at = [*envoys, *sidecars, *controls, *grpc, *([mask_url(redis)] if redis else [])]
    if not looked_at:
        raise click.UsageError("give at least one of --envoy, --sidecar, --control, --grpc and --redis")
    if redis_password_file and not redis:
        raise click.UsageError("--redis-password-file is for --redis")
    if any((grpc_ca, grpc_cert, grpc_key, grpc_name)) and not grpc:
        raise click.UsageError("--grpc-ca and its like are for --grpc")
    if bool(grpc_cert) != bool(grpc_key):
        raise click.UsageError("--grpc-cert and --grpc-key belong together")
    findings = examine(asyncio.run(look(targets)))
    if for_machines:
        click.echo(as_json(findings, looked_at))
    else:
        show(findings, looked_at, sys.stdout)
    failing = () if fail_on == "never" else SEVERITIES[: SEVERITIES.index(fail_on) + 1]
    sys.exit(any(finding.severity in failing for finding in findings))


def _redis_url(url: str | None, password_file: Path | None) -> str | None:
    """Raises ConfigError for a URL that breaks a rule, or a file that does not fit it."""
    if url is None:
        return None
    try:
        check_tls_files(url)
    except ValueError as rule:
        raise ConfigError([Problem("flag --redis", str(rule))]) from None
    try:
        return with_password_of(url, str(password_file)) if password_file else url
    except ValueError as rule:
        raise ConfigError([Problem("flag --redis-password-file", str(rule))]) from None
