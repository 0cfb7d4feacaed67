"""`authz envoy-config`: Envoy's side of the configuration."""

from __future__ import annotations

from pathlib import Path

import click

from authz.cli.options import FILE, config_file, load_file, settings_flags
from authz.config.documents import DocumentError, as_yaml, read_document
from authz.config.faults import ConfigError
from authz.config.settings import Settings, endpoints_of
from authz.core.address import Address
from authz.core.problem import Problem
from authz.envoy.config import PARTS, EnvoyOptions, Part, Tls, render

ENVOY = EnvoyOptions()
SDS = Tls(ca="", name="").sds


@click.command("envoy-config")
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
@click.option(
    "--metadata-namespace",
    "namespaces",
    multiple=True,
    help="Send authz this dynamic metadata too, as APIs of the store need it; repeatable.",
)
@click.option(
    "--filters", type=FILE, help="HTTP filters to put before the check: a YAML file with a list `http_filters`."
)
@click.option(
    "--trusted-hops",
    type=click.IntRange(0, 100),
    default=ENVOY.trusted_hops,
    show_default=True,
    help="Proxies of yours before Envoy. x-forwarded-for then has the client's address, for allowedSources.",
)
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
    namespaces: tuple[str, ...],
    filters: Path | None,
    trusted_hops: int,
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
    read, loaded = load_file(path, flags)
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
            namespaces=namespaces,
            filters=_filters(filters) if filters else "",
            trusted_hops=trusted_hops,
            retry_after=loaded.settings.response_profile == "standard",
        )
        _check_tls(loaded.settings, options)
        click.echo(render(read.resources, options), nl=False)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _filters(path: Path) -> str:
    """The list `http_filters` of a file, as YAML. Raises ConfigError for a file without it."""
    try:
        document = read_document(path.read_bytes())
    except OSError as error:
        raise ConfigError([Problem(str(path), error.strerror or "cannot be read")]) from None
    except DocumentError as error:
        raise ConfigError([Problem(str(path), str(error))]) from None
    found = document.get("http_filters")
    if not isinstance(found, list) or not found or document.keys() != {"http_filters"}:
        raise ConfigError([Problem(str(path), "expected a list `http_filters` and nothing beside it")])
    for at, one in enumerate(found):
        if not isinstance(one, dict) or not one.get("name"):
            raise ConfigError([Problem(f"{path}: $.http_filters[{at}]", "expected a filter with a name")])
    return as_yaml(found)


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
