"""`authz control | credentials | audit`: the control plane, its callers, and a record of their writes."""

from __future__ import annotations

import asyncio
import getpass
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
import uvloop

from authz.aws.convert import from_resources
from authz.cli.options import FILE, takes_file, with_options
from authz.config import file as configuration
from authz.config.faults import ConfigError
from authz.config.live import LiveCatalog
from authz.config.settings import Settings, load_settings
from authz.control import auth
from authz.control.console.oidc import ClaimRule, OidcOptions
from authz.control.server import LISTEN, ControlOptions
from authz.control.server import serve as run_control
from authz.core.problem import Problem
from authz.core.stored import Credential, Items
from authz.core.zones import SECOND_US, iso_time
from authz.observe import log
from authz.redisio.url import mask_url
from authz.store.audit import audit as audit_lines
from authz.store.ports import StoreRefusal, StoreUnavailable
from authz.store.sealing import load_sealer
from authz.store.store import Store

T = TypeVar("T")

SECONDS = 10.0
LIST_PAGE = 500
PEPPER_VARIABLE, KEY_VARIABLE = "AUTHZ_PEPPER_FILE", "AUTHZ_SEALING_KEY_FILE"

PLACE = (
    click.option(
        "--redis-url", help="The Redis that holds the store.  [env: AUTHZ_REDIS_URL, AUTHZ_REDIS_PASSWORD_FILE]"
    ),
    click.option("--account-id", help="The account whose store it is.  [env: AUTHZ_ACCOUNT_ID]"),
)
SECRETS = (
    click.option(
        "--pepper-file", type=FILE, envvar=PEPPER_VARIABLE, show_envvar=True, help="The file with the pepper of keys."
    ),
    click.option(
        "--sealing-key-file",
        type=FILE,
        envvar=KEY_VARIABLE,
        show_envvar=True,
        help="The file with the keys that seal secrets.",
    ),
)


class Claim(click.ParamType[ClaimRule]):
    """`CLAIM=VALUE`, a rule for signing in. Semicolons part several in an environment variable."""

    name = "claim=value"
    envvar_list_splitter = ";"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> ClaimRule:
        try:
            return value if isinstance(value, ClaimRule) else ClaimRule.parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


OIDC = (
    click.option(
        "--oidc-issuer",
        metavar="URL",
        envvar="AUTHZ_OIDC_ISSUER",
        show_envvar=True,
        help="The OpenID Connect provider for signing in to the console.",
    ),
    click.option(
        "--oidc-client-id",
        envvar="AUTHZ_OIDC_CLIENT_ID",
        show_envvar=True,
        help="Our client id there. Its redirect URI is CONSOLE-URL/console/oidc/callback.",
    ),
    click.option(
        "--oidc-client-secret-file",
        type=FILE,
        envvar="AUTHZ_OIDC_CLIENT_SECRET_FILE",
        show_envvar=True,
        help="The file with the client's secret; none for a public client.",
    ),
    click.option(
        "--oidc-admin",
        type=Claim(),
        multiple=True,
        envvar="AUTHZ_OIDC_ADMIN",
        show_envvar=True,
        help="A claim that makes an administrator, such as groups=api-admins. May be repeated.",
    ),
    click.option(
        "--oidc-reader",
        type=Claim(),
        multiple=True,
        envvar="AUTHZ_OIDC_READER",
        show_envvar=True,
        help="A claim that lets one look at everything and change nothing. May be repeated.",
    ),
)


@click.command()
@click.option(
    "--listen", default=LISTEN, show_default=True, help="The address for AWS's tools: host:port or unix:/path."
)
@click.option(
    "--http-listen", help="The address of /metrics, /healthz and /readyz, without authentication; off unless given."
)
@takes_file()
@click.option("--config", "path", type=FILE, envvar="AUTHZ_CONFIG", help="A file whose resources are shown as well.")
@with_options(*PLACE, *SECRETS)
@click.option(
    "--store-replicas",
    type=click.IntRange(0, 100),
    help="Replicas that must have a write; its answer warns if they don't.  "
    "[env: AUTHZ_STORE_REPLICAS; default: 1 with a Sentinel or a cluster, else 0]",
)
@click.option("--key-prefix", help="First letters of the keys that are made.  [env: AUTHZ_KEY_PREFIX; default: upk]")
@click.option("--no-auth", is_flag=True, help="Accept every caller; on a loopback address only.")
@click.option("--tls-cert", type=FILE, help="Certificate chain (PEM), for https.")
@click.option("--tls-key", type=FILE, help="The certificate's private key (PEM).")
@click.option(
    "--domain-target",
    metavar="HOST",
    envvar="AUTHZ_DOMAIN_TARGET",
    show_envvar=True,
    help="The host of your Envoys. The DNS records of custom domains should point there.",
)
@click.option(
    "--console/--no-console",
    default=None,
    help="Serve pages for people under /console and /portal.  [default: on a loopback address and over TLS]",
)
@click.option(
    "--console-url",
    metavar="URL",
    envvar="AUTHZ_CONSOLE_URL",
    show_envvar=True,
    help="The URL under which browsers reach the pages, unless that is an IP address or localhost.",
)
@click.option(
    "--grafana-url",
    metavar="URL",
    envvar="AUTHZ_GRAFANA_URL",
    show_envvar=True,
    help="A Grafana with this system's dashboards, which the console links to.",
)
@click.option(
    "--public-url",
    metavar="URL",
    envvar="AUTHZ_PUBLIC_URL",
    show_envvar=True,
    help="The URL under which callers reach Envoy, for the lines with curl that the console shows.",
)
@with_options(*OIDC)
@click.option(
    "--allow-private-targets",
    is_flag=True,
    envvar="AUTHZ_ALLOW_PRIVATE_TARGETS",
    show_envvar=True,
    help="Send alerts to private addresses and to this machine too, over http or https.",
)
def control(
    listen: str,
    http_listen: str | None,
    path: Path | None,
    redis_url: str | None,
    account_id: str | None,
    pepper_file: Path | None,
    sealing_key_file: Path | None,
    store_replicas: int | None,
    key_prefix: str | None,
    no_auth: bool,
    tls_cert: Path | None,
    tls_key: Path | None,
    domain_target: str | None,
    console: bool | None,
    console_url: str | None,
    grafana_url: str | None,
    public_url: str | None,
    oidc_issuer: str | None,
    oidc_client_id: str | None,
    oidc_client_secret_file: Path | None,
    oidc_admin: tuple[ClaimRule, ...],
    oidc_reader: tuple[ClaimRule, ...],
    allow_private_targets: bool,
) -> None:
    """Serve Amazon API Gateway's API for usage plans, keys, APIs and stages, from the store in Redis.

    Stops on TERM or INT. Reads the file again whenever it changes.
    """
    # A child process reads the file, so that this one never holds its text, and so no key's value.
    read = asyncio.run(configuration.load_in_child(path)) if path else None
    settings = store_settings(redis_url, account_id, read.settings if read else {}, store_replicas, key_prefix)
    log.configure(settings.log_level, settings.log_format)
    sealer = load_sealer(os.environ, pepper_file or settings.pepper_file, sealing_key_file or settings.sealing_key_file)
    options = ControlOptions(
        listen=listen,
        http_listen=http_listen,
        redis_url=settings.redis_url,
        account_id=settings.account_id,
        retention_days=settings.usage_retention_days,
        store_replicas=settings.store_replicas,
        key_prefix=settings.key_prefix,
        no_auth=no_auth,
        tls_cert=os.fspath(tls_cert) if tls_cert else None,
        tls_key=os.fspath(tls_key) if tls_key else None,
        sealer=sealer,
        domain_target=domain_target or None,
        console=console,
        console_url=console_url or None,
        grafana_url=grafana_url or None,
        public_url=public_url or None,
        oidc=_oidc(oidc_issuer, oidc_client_id, oidc_client_secret_file, oidc_admin, oidc_reader),
        allow_private_targets=allow_private_targets,
    )
    if problem := options.problem():
        raise click.UsageError(problem)
    live: LiveCatalog[Items] | None = None
    if path and read:
        now = int(time.time())  # the items are dated with the start of this process
        live = LiveCatalog(path, read, lambda resources: from_resources(resources, now, sealer.index))
    uvloop.run(_serve(options, live) if live else run_control(options))


def _oidc(
    issuer: str | None,
    client_id: str | None,
    secret_file: Path | None,
    admins: tuple[ClaimRule, ...],
    readers: tuple[ClaimRule, ...],
) -> OidcOptions | None:
    """Raises UsageError if there is no issuer that the other options could concern."""
    if not issuer:
        if client_id or secret_file or admins or readers:
            raise click.UsageError("the options of OpenID Connect need --oidc-issuer")
        return None
    secret = secret_file.read_text("utf-8").strip() if secret_file else None
    return OidcOptions(issuer, client_id or "", secret, admins, readers)


async def _serve(options: ControlOptions, live: LiveCatalog[Items]) -> None:
    watching = asyncio.create_task(live.watch())
    try:
        await run_control(options, lambda: live.current)
    finally:
        watching.cancel()


def store_settings(
    redis_url: str | None,
    account_id: str | None,
    file_settings: dict[str, Any] | None = None,
    store_replicas: int | None = None,
    key_prefix: str | None = None,
) -> Settings:
    flags = {
        "redis_url": redis_url,
        "account_id": account_id,
        "store_replicas": store_replicas,
        "key_prefix": key_prefix,
    }
    return load_settings(file_settings or {}, os.environ, flags).settings


def on_store(
    act: Callable[[Store], Awaitable[T]], redis_url: str | None, account_id: str | None, seconds: float = SECONDS
) -> T:
    """Act on the store. Raises ConfigError or OSError with one line for the operator."""
    return on_store_of(store_settings(redis_url, account_id), act, seconds)


def on_store_of(
    settings: Settings,
    act: Callable[[Store], Awaitable[T]],
    seconds: float = SECONDS,
    fixed: Callable[[], Items] = dict,
) -> T:
    """Act on the store that the settings name, beside a file's items. Raises ConfigError or OSError."""

    async def run() -> T:
        store = Store(
            settings.redis_url,
            account=settings.account_id,
            budget=seconds,
            fixed=fixed,
            replicas=settings.store_replicas,
        )
        try:
            return await act(store)
        finally:
            if at_risk := store.database.at_risk:
                click.echo(f"warning: written, and lost if the master of Redis fails now: {at_risk}", err=True)
            await store.aclose()

    try:
        return asyncio.run(run())
    except StoreRefusal as refused:
        raise ConfigError([Problem("the store", str(refused))]) from None
    except StoreUnavailable as error:
        raise OSError(f"{mask_url(settings.redis_url)}: {error}") from None
    except msgspec.ValidationError as fault:
        what = f"it holds what this version does not know, as a newer one writes it: {fault}"
        raise ConfigError([Problem("the store", what)]) from None


@click.group()
def credentials() -> None:
    """Manage the credentials of the control plane's callers."""


def _name(_: click.Context, __: click.Parameter, name: str) -> str:
    """Refuse a name that would break a line of the audit."""
    if not name.strip() or not name.isprintable():
        raise click.BadParameter("expected printable characters")
    return name


@credentials.command()
@click.argument("name", callback=_name)
@click.option("--read-only", is_flag=True, help="It may read everything but the values of keys, and change nothing.")
@click.option("--token", is_flag=True, help="A bearer token for curl, instead of an access key for AWS's tools.")
@with_options(*PLACE, *SECRETS)
def create(
    name: str,
    read_only: bool,
    token: bool,
    redis_url: str | None,
    account_id: str | None,
    pepper_file: Path | None,
    sealing_key_file: Path | None,
) -> None:
    """Make an access key, or a token, and print its secret, which can't be printed again."""
    sealer = load_sealer(os.environ, pepper_file, sealing_key_file)
    if not (token or sealer.can_seal):
        raise click.UsageError(
            "an access key's secret must be sealed: give --sealing-key-file, or make a bearer token with --token"
        )
    now = int(time.time())
    new = (
        auth.new_token(name, now, read_only=read_only)
        if token
        else auth.new_access_key(name, sealer, now, read_only=read_only)
    )
    on_store(lambda store: auth.add(store, new, operator()), redis_url, account_id)
    if token:
        click.echo(f"Authorization: Bearer {new.secret}")
    else:
        click.echo(f"export AWS_ACCESS_KEY_ID={new.credential.id}")
        click.echo(f"export AWS_SECRET_ACCESS_KEY={new.secret}")
        click.echo("unset AWS_SESSION_TOKEN")  # another account's would have each call refused


def operator(command: str = "credentials") -> str:
    """The operator's name for the audit: the user of this process, if the system knows one."""
    try:
        return f"authz {command} ({getpass.getuser()})"
    except (OSError, KeyError):
        return f"authz {command}"


@credentials.command("list")
@with_options(*PLACE)
def list_(redis_url: str | None, account_id: str | None) -> None:
    """Print all credentials, without their secrets."""
    for found in on_store(_all_credentials, redis_url, account_id):
        what = "token" if found.token_sha256 else "access-key"
        role = "read-only" if found.read_only else "admin"
        click.echo(f"{found.id}  {iso_time(found.created_date * SECOND_US)}  {what:10}  {role:9}  {found.name}")


async def _all_credentials(store: Store) -> list[Credential]:
    ids = await store.members("credential")
    found: list[Credential] = []
    for start in range(0, len(ids), LIST_PAGE):
        items = await store.many("credential", ids[start : start + LIST_PAGE])
        found += [item for item in items if isinstance(item, Credential)]
    return found


@credentials.command()
@click.argument("id_", metavar="ID")
@with_options(*PLACE)
def delete(id_: str, redis_url: str | None, account_id: str | None) -> None:
    """Delete a credential: its next call is refused."""
    if not on_store(lambda store: auth.remove(store, id_, operator()), redis_url, account_id):
        raise click.UsageError(f"there is no credential {id_}")


@click.command()
@click.option("--count", default=100, show_default=True, type=click.IntRange(1, 10_000), help="How many lines.")
@click.option(
    "--after", type=click.IntRange(0, 2**63), help="Start with the line after this version, in place of the last lines."
)
@with_options(*PLACE)
def audit(count: int, after: int | None, redis_url: str | None, account_id: str | None) -> None:
    """Print the record of writes to the store: version, time, caller and operation, without values."""
    for line in on_store(lambda store: audit_lines(store.database, count, after), redis_url, account_id):
        click.echo(f"{line.version}  {iso_time(line.at)}  {line.who}  {line.what}")
