"""Renders the templates of the pages. All values are escaped; a value that a template lacks is an error."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from functools import cache, partial
from hashlib import sha256
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment, PackageLoader, PrefixLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup

from authz.control.pages.words import limit_words, number_words, throttle_of
from authz.core.zones import SECOND_US, zone_of

NAME_BYTES: Final = 12
STATIC: Final = files("authz.control.pages") / "static"


def moment_words(at: int | str, zone: str) -> str:
    """A moment in a time zone, with UTC beside it: µs of Unix time, or an ISO time of UTC."""
    utc = _utc(at)
    local = utc.astimezone(zone_of(zone))
    return _in_utc(utc) if zone == "UTC" else f"{local:%Y-%m-%d %H:%M:%S} {local:%Z} ({utc:%H:%M} UTC)"


def _utc(at: int | str) -> datetime:
    return datetime.fromisoformat(at) if isinstance(at, str) else datetime.fromtimestamp(at / SECOND_US, UTC)


def _in_utc(utc: datetime) -> str:
    return f"{utc:%Y-%m-%d %H:%M:%S} UTC"


@pass_context
def _moment(context: Context, at: int | str | None) -> Markup | str:
    """A moment in the viewer's time zone, with UTC beside it: µs of Unix time, or an ISO time of UTC."""
    if at is None:
        return "never"
    utc, shown = _utc(at), moment_words(at, str(context.get("zone", "UTC")))
    return Markup('<time datetime="{}" title="{}">{}</time>').format(f"{utc:%Y-%m-%dT%H:%M:%SZ}", _in_utc(utc), shown)


@cache
def asset(name: str) -> str:
    """The URL of a file of `static/`. It changes with the content, so that browsers may keep what they have."""
    return f"static/{name}?{sha256((STATIC / name).read_bytes()).hexdigest()[:12]}"


ENVIRONMENT: Final = Environment(
    loader=PrefixLoader({room: PackageLoader(f"authz.control.{room}") for room in ("pages", "console", "portal")}),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.filters |= {"limit": limit_words, "moment": _moment, "number": number_words, "throttle": throttle_of}
ENVIRONMENT.globals |= {"asset": asset, "random_name": partial(secrets.token_urlsafe, NAME_BYTES)}


def render(template: str, /, **values: Any) -> str:
    """Render a template such as `console/plans.html`."""
    return ENVIRONMENT.get_template(template).render(values)
