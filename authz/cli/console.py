"""`authz console`: a way into the console for a person on this machine."""

from __future__ import annotations

import asyncio
import time
from urllib.parse import urlencode

import click

from authz.cli.control import PLACE, on_store_of, operator, store_settings
from authz.cli.options import with_options
from authz.config.settings import Settings
from authz.control.console.app import ROOT
from authz.control.pages.sessions import LINK_SECONDS, OwnerSession, Session, Sessions
from authz.control.portal.invite import NAME, Invitation, link_url, record, session_of
from authz.control.server import LISTEN
from authz.redisio.url import mask_url
from authz.store.ports import StoreUnavailable
from authz.store.store import Store
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
@click.option("--customer", metavar="ID", help="Sign in to the portal instead, as this customer. The audit records it.")
@with_options(*PLACE)
def link(url: str, read_only: bool, customer: str | None, redis_url: str | None, account_id: str | None) -> None:
    """Print a link that signs in once, within 15 minutes.

    A program that can write to the Redis of the account can make one; it needs no credential.
    """
    settings = store_settings(redis_url, account_id)
    try:
        if customer:
            click.echo(_portal_link(settings, url, Invitation(customer_id=customer, may_rotate=not read_only)))
        else:
            session = OwnerSession(operator("console"), read_only=read_only)
            click.echo(asyncio.run(new_link(settings.redis_url, settings.account_id, url, session)))
    except StoreUnavailable as error:
        raise OSError(f"{mask_url(settings.redis_url)}: {error}") from None
    click.echo(f"It works once, within {LINK_SECONDS // 60} minutes.", err=True)


def _portal_link(settings: Settings, url: str, invitation: Invitation) -> str:
    """A URL that begins the session of a customer once, after a line for the audit."""

    async def made(store: Store) -> str:
        await store.write(record, who=operator("console"), what=f"{NAME} {invitation.words}")
        return await _new_token(settings.redis_url, settings.account_id, session_of(invitation))

    return link_url(url, on_store_of(settings, made))


async def new_link(redis_url: str, account: str, url: str, session: OwnerSession) -> str:
    """A URL that begins this session once. Raises StoreUnavailable."""
    token = await _new_token(redis_url, account, session)
    return f"{url.rstrip('/')}{ROOT}/link?{urlencode({'token': token})}"


async def _new_token(redis_url: str, account: str, session: Session) -> str:
    tokens = TokenStore(redis_url, account=account, budget=SECONDS)
    try:
        return await Sessions(tokens, lambda: int(time.time())).new_link(session)
    finally:
        await tokens.aclose()
