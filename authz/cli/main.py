"""The command line: `authz serve | control | up | check-config | explain | envoy-config | new-key | …`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click
import msgspec
import structlog
from click.core import ParameterSource

from authz.check import LimiterUnavailable
from authz.cli.control import audit, control, credentials, with_options
from authz.cli.doctor import doctor
from authz.cli.options import FILE, Grouped, takes_file
from authz.cli.transfer import COMMANDS
from authz.cli.up import PORTS, Port, UpOptions, ports_from
from authz.cli.up import up as run_up
from authz.config import file as config
from authz.config.faults import ConfigError
from authz.config.file import Config
from authz.config.settings import Loaded, Option, ServerName, Settings, endpoints_of, load_settings, options
from authz.core.catalog import Catalog
from authz.core.request import Request, joined
from authz.core.resources import digest
from authz.core.rules import Problem, warnings
from authz.envoy import accesslog
from authz.envoy.accesslog import LogLine
from authz.envoy.config import PARTS, Address, EnvoyOptions, Part, Tls, render
from authz.explain import explain as tell
from authz.limiter.limiter import RedisLimiter
from authz.observe import log
from authz.redisio.url import mask_url
from authz.workers.supervisor import serve as run_serve

F = TypeVar("F", bound=Callable[..., Any])

ENVOY = EnvoyOptions()
SDS = Tls(ca="", name="").sds
EXPLAIN_SECONDS = 2.0

CONFIG = click.option(
    "--config",
    "path",
    type=FILE,
    envvar="AUTHZ_CONFIG",
    show_envvar=True,
    default="plans.yaml",
    show_default=True,
    help="The configuration file.",
)


def config_file(command: F) -> F:
    """The configuration file, as --config or as an argument."""
    return takes_file()(CONFIG(command))


def settings_flags(*fields: str) -> Callable[[F], F]:
    """A flag for each of these settings, or for all; what is not given comes from environment, file or default."""

    def add(command: F) -> F:
        for option in reversed(options()):
            if not fields or option.field in fields:
                kind = click.Choice(option.choices) if option.choices else None
                metavar = None if option.choices else _metavar(option)
                bare: dict[str, Any] = {"is_flag": False, "flag_value": "true"} if option.default is False else {}
                command = click.option(
                    option.flag, option.field, type=kind, metavar=metavar, default=None, help=_help(option), **bare
                )(command)
                if old := option.former:
                    command = click.option(old.flag, old.field, type=kind, hidden=True, **bare)(command)
        return command

    return add


def _metavar(option: Option) -> str:
    return {bool: "BOOLEAN", int: "INTEGER", float: "NUMBER"}.get(type(option.default), "TEXT")


def _help(option: Option) -> str:
    return f"{option.help}  [env: {option.variable}; default: {str(option.default).lower()}]"


class Commands(Grouped):
    """All commands, by what they are for."""

    sections = {
        "Try": {
            "up": "Start everything on this machine.",
            "explain": "Tell what a request would be answered, and why.",
        },
        "Run": {
            "serve": "The sidecar that Envoy asks.",
            "control": "The control plane, for AWS's tools.",
            "envoy-config": "Print Envoy's side.",
        },
        "Plans": {
            "check-config": "Say what is wrong with a plans.yaml.",
            "new-key": "Make an API key's value.",
            "import": "Bring plans from files into the store.",
            "export": "Write the store's plans to files.",
        },
        "Operate": {
            "doctor": "Find the traps in a running system.",
            "credentials": "Who may call the control plane.",
            "audit": "Who changed what.",
            "backup": "Write all of an account to a file.",
            "restore": "Bring it back.",
        },
    }


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="envoy-usage-plans")
def cli() -> None:
    """Usage plans for any Envoy: API keys, throttles and quotas as Amazon API Gateway sells them."""


for command in (control, credentials, audit, doctor, *COMMANDS):
    cli.add_command(command)


def main() -> None:
    """Run a command; an operator's mistake is told in a line each, without a traceback. Exit status 2."""
    try:
        cli()
    except (ConfigError, LimiterUnavailable, OSError) as error:
        click.echo(str(error), err=True)
        sys.exit(2)


def _load(path: Path, flags: Mapping[str, object | None]) -> tuple[Config, Loaded]:
    read = config.load(path)
    return read, load_settings(read.settings, os.environ, flags, str(path))


@cli.command()
@config_file
@settings_flags()
def serve(path: Path, **flags: object | None) -> None:
    """Run the sidecar that Envoy asks.

    Stops on TERM or INT: NOT_SERVING, a drain, then the calls in flight. Reloads the file on HUP, and whenever it
    changes. With --store it needs no file. With --workers it is a process each, which USR2 replaces one by one.
    """
    run_serve(lambda: _to_serve(path, flags))


def _to_serve(path: Path, flags: Mapping[str, object | None]) -> tuple[Settings, tuple[Path, Config] | None]:
    """The settings, and the file, if there is to be one."""
    named = click.get_current_context().get_parameter_source("path") is not ParameterSource.DEFAULT
    if not (named or path.exists()) and load_settings({}, os.environ, flags).settings.store:
        read, file = {}, None
    else:
        # In a child process, so that this one never holds the text: neither its memory nor a key's value.
        found = asyncio.run(config.load_in_child(path))
        read, file = found.settings, (path, found)
    loaded = load_settings(read, os.environ, flags, str(path))
    log.configure(loaded.settings.log_level, loaded.settings.log_format)
    for renamed in loaded.warnings:
        structlog.get_logger(__name__).warning("setting renamed", setting=renamed.address, advice=renamed.rule)
    return loaded.settings, file


@cli.command("check-config")
@config_file
@click.option("--show", is_flag=True, help="Print each setting and where it comes from, secrets masked.")
@settings_flags()
def check_config(path: Path, show: bool, **flags: object | None) -> None:
    """Say what is wrong with a configuration, all of it at once; exit status 2 if anything is."""
    read, loaded = _load(path, flags)
    resources = read.resources
    Catalog.compile(resources, loaded.settings.account_id)
    counted = (("API", resources.apis), ("plan", resources.usage_plans), ("key", resources.api_keys))
    counts = ", ".join(f"{len(found)} {what}{'' if len(found) == 1 else 's'}" for what, found in counted)
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


@cli.command("new-key")
def new_key() -> None:
    """Print a new API key's value, to be given to its holder, and the digest that stands for it in the file."""
    value = config.new_key()
    click.echo(f"value:       {value}")
    click.echo(f"valueSha256: {digest(value).hex()}")


@cli.command()
@click.argument("method", required=False)
@click.argument("url", required=False)
@config_file
@click.option("--log-line", metavar="JSON", help="A line of Envoy's access log instead of METHOD and URL; - reads it.")
@click.option("--request-id", metavar="ID", help="The x-amzn-requestid of an answer; with --access-log.")
@click.option(
    "--access-log", type=FILE, help="Find the line of --request-id in this access log of Envoy's; - reads it."
)
@click.option("-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="A request header; repeatable.")
@click.option("-e", "--extension", "extensions", multiple=True, metavar="NAME=VALUE", help="A context extension.")
@click.option("-m", "--metadata", multiple=True, metavar="NAMESPACE=JSON", help="Dynamic metadata, for AUTHORIZER.")
@click.option("--redis", "ask_redis", is_flag=True, help="Ask Redis what is left, and tell the answer.")
@settings_flags("redis_url", "account_id", "response_profile")
def explain(
    path: Path,
    method: str | None,
    url: str | None,
    log_line: str | None,
    request_id: str | None,
    access_log: Path | None,
    headers: tuple[str, ...],
    extensions: tuple[str, ...],
    metadata: tuple[str, ...],
    ask_redis: bool,
    **flags: object | None,
) -> None:
    """Tell how a request is read, which limits cover it and the answer it would get. Spends nothing.

    The request is METHOD and URL, or a line of the access log that `authz envoy-config` sets up.

    \b
    authz explain GET https://host/prod/pets/7 -H 'x-api-key: …' --redis
    authz explain --request-id 5f8e1c2a-… --access-log envoy.log --redis
    """
    line = _logged(log_line, request_id, access_log)
    if line and method is not None:
        raise click.UsageError("METHOD and URL stand in the log line; name the plans' file with --config")
    request = _request(method, url, line, headers, extensions, metadata)
    read, loaded = _load(path, flags)
    settings = loaded.settings
    catalog = Catalog.compile(read.resources, settings.account_id, settings.failure_policy)

    async def run() -> str:
        now = time.time_ns() // 1000
        if not ask_redis:
            return await tell(catalog, request, now, profile=settings.response_profile, line=line)
        limiter = RedisLimiter(settings.redis_url, account=settings.account_id, budget=EXPLAIN_SECONDS)
        try:
            return await tell(catalog, request, now, limiter, settings.response_profile, line=line)
        except LimiterUnavailable as error:
            raise LimiterUnavailable(f"{mask_url(settings.redis_url)}: {error}") from None
        finally:
            await limiter.aclose()

    click.echo(asyncio.run(run()))


def _logged(log_line: str | None, request_id: str | None, access_log: Path | None) -> LogLine | None:
    """The line that the options name, if they name one. Raises ConfigError where it is none."""
    if log_line is not None and (request_id is not None or access_log):
        raise click.UsageError("--log-line is a line already; --request-id and --access-log find one")
    if (request_id is None) is not (access_log is None):
        raise click.UsageError("--request-id and --access-log belong together: an id, and where its line is")
    if log_line is not None:
        if log_line == "-":
            return accesslog.read_one(sys.stdin.buffer, "standard input")
        return accesslog.parse(log_line, "--log-line")
    if request_id is None or access_log is None:
        return None
    if str(access_log) == "-":
        return accesslog.find(sys.stdin.buffer, "standard input", request_id)
    if not access_log.exists():
        raise ConfigError([Problem(str(access_log), "no such file")])
    with access_log.open("rb") as file:
        return accesslog.find(file, str(access_log), request_id)


def _request(
    method: str | None,
    url: str | None,
    line: LogLine | None,
    headers: tuple[str, ...],
    extensions: tuple[str, ...],
    metadata: tuple[str, ...],
) -> Request:
    sent = joined(_pair(header, ":", "-H") for header in headers)
    named = dict(_pair(extension, "=", "-e") for extension in extensions)
    left = {name: _json(text) for name, text in (_pair(given, "=", "-m") for given in metadata)}
    if line:
        return line.request(sent, named, left)
    if method is None or url is None:
        raise click.UsageError(f"Missing argument '{'METHOD' if method is None else 'URL'}'.")
    parts = urlsplit(url)
    if not parts.netloc:
        raise click.BadParameter("expected a whole URL, such as https://host/prod/pets", param_hint="URL")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Request(method.upper(), parts.netloc.rpartition("@")[2], path, sent, named, left)


def _pair(text: str, separator: str, option: str) -> tuple[str, str]:
    name, found, value = text.partition(separator)
    if not found:
        raise click.BadParameter(f"expected NAME{separator}VALUE, got {name!r}", param_hint=option)
    return name.strip(), value.strip()


def _json(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise click.BadParameter(f"expected JSON after the namespace: {error}", param_hint="-m") from None


@cli.command("envoy-config")
@config_file
@click.option("--listen", default=ENVOY.listen, show_default=True, help="Where Envoy listens.")
@click.option("--admin", default=ENVOY.admin, show_default=True, help="Envoy's administration interface.")
@click.option("--stats-listen", help="Serve /stats/prometheus and /ready here, and nothing else, for Prometheus.")
@click.option("--upstream", default=ENVOY.upstream, show_default=True, help="The API that Envoy protects.")
@click.option(
    "--authz",
    "endpoints",
    multiple=True,
    help="A sidecar's address; one a worker.  [default: by grpcListen and workers]",
)
@click.option(
    "--timeout-ms",
    type=click.IntRange(min=1),
    default=ENVOY.timeout_ms,
    show_default=True,
    help="Envoy's patience for a check.",
)
@click.option("--cors-origin", "origins", multiple=True, help="Answer CORS preflights for this origin; repeatable.")
@click.option("--tls", is_flag=True, help="Ask authz over TLS; needs --tls-ca.")
@click.option("--tls-ca", metavar="FILE", help="The CAs (PEM) that sign authz's certificate, where Envoy runs.")
@click.option("--tls-name", metavar="NAME", help="DNS name, address or URI in it.  [default: the host of --authz]")
@click.option("--tls-cert", metavar="FILE", help="The certificate (PEM) that Envoy shows, for tlsClientCaFile.")
@click.option("--tls-key", metavar="FILE", help="The private key (PEM) of --tls-cert.")
@click.option("--tls-sds", metavar="DIRECTORY", help=f"Where Envoy finds what `--only sds-…` prints.  [default: {SDS}]")
@click.option("--only", type=click.Choice(PARTS), help="Print just this part.")
@settings_flags("grpc_listen", "workers", "max_in_flight", "response_profile", "store")
def envoy_config(
    path: Path,
    listen: str,
    admin: str,
    stats_listen: str | None,
    upstream: str,
    endpoints: tuple[str, ...],
    timeout_ms: int,
    origins: tuple[str, ...],
    tls: bool,
    tls_ca: str | None,
    tls_name: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    tls_sds: str | None,
    only: Part | None,
    **flags: object | None,
) -> None:
    """Print an Envoy configuration for a file: complete and working, or the filter and cluster to put into yours."""
    read, loaded = _load(path, flags)
    authz = endpoints or tuple(endpoints_of(loaded.settings.grpc_listen, loaded.settings.workers))
    if not tls and any((tls_ca, tls_name, tls_cert, tls_key, tls_sds)):
        raise click.UsageError("--tls-ca and its like are for --tls")
    try:
        options = EnvoyOptions(
            listen=listen,
            admin=admin,
            stats_listen=stats_listen,
            upstream=upstream,
            authz=authz,
            timeout_ms=timeout_ms,
            tls=_tls(authz, tls_ca, tls_name, (tls_cert, tls_key), tls_sds) if tls else None,
            cors_origins=origins,
            only=only,
            store=loaded.settings.store,
            max_in_flight=loaded.settings.max_in_flight,
            retry_after=loaded.settings.response_profile == "standard",
        )
        _check_tls(loaded.settings, options)
        click.echo(render(read.resources, options), nl=False)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _tls(
    authz: tuple[str, ...], ca: str | None, name: str | None, pair: tuple[str | None, str | None], sds: str | None
) -> Tls:
    """Raises ValueError where authz could not be known by it."""
    hosts = {Address.parse(address).host for address in authz}
    if not ca:
        raise ValueError("--tls needs --tls-ca: the CAs that sign authz's certificate")
    if not name and (len(hosts) > 1 or "" in hosts):
        raise ValueError("--tls needs --tls-name: the name in authz's certificate")
    return Tls(ca, name or hosts.pop(), *pair, sds or SDS)


def _check_tls(settings: Settings, options: EnvoyOptions) -> None:
    """Raises ValueError where authz and Envoy would not understand each other."""
    if options.only == "filter":
        return
    if settings.tls_cert_file and not options.tls:
        raise ValueError("authz speaks TLS alone (tlsCertFile): --tls and --tls-ca tell Envoy how to ask it")
    if settings.tls_client_ca_file and options.tls and not options.tls.certificate:
        raise ValueError("authz asks who calls (tlsClientCaFile): --tls-cert and --tls-key name what Envoy shows")


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
