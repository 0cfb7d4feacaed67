"""`authz console`: a way into the console for a person on this machine."""

from __future__ import annotations

import asyncio
import time
from urllib.parse import urlencode

import click

from authz.cli.control import PLACE, operator, store_settings
from authz.cli.options import with_options
from authz.control.console.app import ROOT
from authz.control.pages.sessions import LINK_SECONDS, OwnerSession, Sessions
from authz.control.server import LISTEN
from authz.redisio.url import mask_url
from authz.store.ports import StoreUnavailable
from authz.store.tokens import TokenStore

SECONDS = 10.0


@click.group()
def console() -> None:
    """Sign in to the console, the pages of `authz control`."""


@console.command()
@click.option(
    "--url",
    default=f"http://{LISTEN}",
    show_default=True,
    envvar="AUTHZ_CONSOLE_URL",
    show_envvar=True,
    help="The URL under which your browser reaches the control plane.",
)
@click.option("--read-only", is_flag=True, help="Sign in with a read-only session.")
@with_options(*PLACE)
def link(url: str, read_only: bool, redis_url: str | None, account_id: str | None) -> None:
    """Print a link that signs in once, within 15 minutes.

    A program that can write to the Redis of the account can make one; it needs no credential.
    """
    settings = store_settings(redis_url, account_id)
    session = OwnerSession(operator("console"), read_only=read_only)
    try:
        made = asyncio.run(new_link(settings.redis_url, settings.account_id, url, session))
    except StoreUnavailable as error:
        raise OSError(f"{mask_url(settings.redis_url)}: {error}") from None
    click.echo(made)
    click.echo(f"It works once, within {LINK_SECONDS // 60} minutes.", err=True)


async def new_link(redis_url: str, account: str, url: str, session: OwnerSession) -> str:
    """A URL that begins this session once. Raises StoreUnavailable."""
    tokens = TokenStore(redis_url, account=account, budget=SECONDS)
    try:
        token = await Sessions(tokens, lambda: int(time.time())).new_link(session)
    finally:
        await tokens.aclose()
    return f"{url.rstrip('/')}{ROOT}/link?{urlencode({'token': token})}"
