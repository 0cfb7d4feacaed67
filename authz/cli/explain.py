"""`authz explain`: the answer that a request would get, and why."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import msgspec
from click.core import ParameterSource
from msgspec.structs import replace

from authz.aws.convert import from_resources
from authz.check import LimiterUnavailable
from authz.cli.control import on_store_of
from authz.cli.options import FILE, config_file, load_file, settings_flags
from authz.config.faults import ConfigError
from authz.config.settings import Settings, load_settings
from authz.control.operations.explaining import Explainer
from authz.core.address import is_ip
from authz.core.catalog import Compiler
from authz.core.keyform import KeyForm
from authz.core.problem import Problem
from authz.core.request import Request, joined
from authz.core.resources import Resources
from authz.envoy import accesslog
from authz.envoy.accesslog import LogLine
from authz.explain import explain as tell
from authz.limiter.limiter import RedisLimiter
from authz.redisio.url import mask_url
from authz.store.sealing import load_sealer
from authz.store.store import Store

EXPLAIN_SECONDS = 2.0


@click.command()
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
@click.option("--source", metavar="ADDRESS", help="The client's IP address, for keys with allowedSources.")
@click.option(
    "--redis", "ask_redis", is_flag=True, help="Read from Redis what remains of each limit, and show the answer."
)
@settings_flags("redis_url", "account_id", "response_profile", "key_prefix", "store", "pepper_file")
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
    source: str | None,
    ask_redis: bool,
    **flags: object | None,
) -> None:
    """Show how a request is read, which limits cover it and the answer it would get. Spends nothing.

    The request is METHOD and URL, or a line of the access log that `authz envoy-config` sets up. With --store the
    store's plans count beside the file's, which need not be there, and Redis is always read.

    \b
    authz explain GET https://host/prod/pets/7 -H 'x-api-key: …' --redis
    authz explain GET https://host/prod/pets/7 -H 'x-api-key: …' --store
    authz explain --request-id 5f8e1c2a-… --access-log envoy.log --redis
    """
    line = _logged(log_line, request_id, access_log)
    if line and method is not None:
        raise click.UsageError("METHOD and URL stand in the log line; name the plans' file with --config")
    request = _request(method, url, line, headers, extensions, metadata)
    if source is not None:
        if not is_ip(source):
            raise click.BadParameter("expected an IP address, such as 203.0.113.7", param_hint="--source")
        request = replace(request, source=source)
    resources, settings = _loaded(path, flags)
    if settings.store:
        click.echo(_of_store(request, line, resources, settings))
    else:
        click.echo(asyncio.run(_of_file(request, line, resources, settings, ask_redis=ask_redis)))


def _loaded(path: Path, flags: Mapping[str, object | None]) -> tuple[Resources, Settings]:
    """The file's resources, and the settings. With a store there need be no file."""
    named = click.get_current_context().get_parameter_source("path") is not ParameterSource.DEFAULT
    if not (named or path.exists()):
        settings = load_settings({}, os.environ, flags).settings
        if settings.store:
            return Resources(), settings
    read, loaded = load_file(path, flags)
    return read.resources, loaded.settings


async def _of_file(
    request: Request, line: LogLine | None, resources: Resources, settings: Settings, *, ask_redis: bool
) -> str:
    form = KeyForm.of(settings.key_prefix)
    catalog = Compiler(settings.account_id, settings.failure_policy, form)(resources)
    now, profile = time.time_ns() // 1000, settings.response_profile
    if not ask_redis:
        return await tell(catalog, request, now, profile=profile, line=line)
    async with _limiter(settings) as limiter:
        return await tell(catalog, request, now, limiter, profile, line=line)


def _of_store(request: Request, line: LogLine | None, resources: Resources, settings: Settings) -> str:
    sealer = load_sealer(os.environ, settings.pepper_file)
    fixed = from_resources(resources, int(time.time()), sealer.index)

    async def act(store: Store) -> str:
        async with _limiter(settings) as limiter:
            account, form, profile = settings.account_id, KeyForm.of(settings.key_prefix), settings.response_profile
            return await Explainer(store, sealer, limiter, account, lambda: fixed, form, profile)(request, line)

    return on_store_of(settings, act, EXPLAIN_SECONDS, lambda: fixed)


@asynccontextmanager
async def _limiter(settings: Settings) -> AsyncIterator[RedisLimiter]:
    """A limiter to look with. Its failures name the Redis."""
    limiter = RedisLimiter(settings.redis_url, account=settings.account_id, budget=EXPLAIN_SECONDS)
    try:
        yield limiter
    except LimiterUnavailable as error:
        raise LimiterUnavailable(f"{mask_url(settings.redis_url)}: {error}") from None
    finally:
        await limiter.aclose()


def _logged(log_line: str | None, request_id: str | None, access_log: Path | None) -> LogLine | None:
    """The log line that the options name, if they name one. Raises ConfigError for text that isn't a log line."""
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
