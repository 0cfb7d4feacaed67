"""`authz usage`: the use of plans by key, customer or day, and the alerts of quotas."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec
from click.core import ParameterSource

from authz.aws.convert import from_resources
from authz.aws.errors import ApiError
from authz.aws.usage import MAX_DAYS, Days, days, iso_day
from authz.cli.control import PLACE, on_store_of, operator, store_settings
from authz.cli.options import FILE, with_options
from authz.config import file as configuration
from authz.control.call import ID_LENGTH
from authz.control.operations.overview import LISTED, overview_document
from authz.core.bounds import MAX_INT
from authz.core.resources import Counts, Period
from authz.core.stored import Items
from authz.ids import random_hex
from authz.store.alerts import document_of
from authz.store.audit import printable
from authz.store.figures import KEPT, Sums
from authz.store.lastuse import document_of as unused_document
from authz.store.lastuse import unused_keys
from authz.store.ports import AlertQuery
from authz.store.quotas import (
    REASON_LENGTH,
    UnfitName,
    UnknownName,
    find_held,
    grant_line,
    quota_words,
    standing_document,
    standings,
)
from authz.store.report import (
    PARTS,
    Group,
    Query,
    Rows,
    csv_lines,
    document,
    in_order,
    merge,
    read_all,
)
from authz.store.store import Store
from authz.store.sweep import overview_of
from authz.store.usage import UsageLedger

T = TypeVar("T")

SECONDS: Final = 10.0
DAYS: Final = 30
ALERTS: Final = 100
PAGE: Final = 500
BARS: Final = "▁▂▃▄▅▆▇█"
NUMBERS: Final = ("requests", "units", "overage", "throttled", "over quota", "shadow throttled", "shadow over quota")
WIDTH: Final = 31  # bars of a sparkline; more days share bars

CONFIG = click.option("--config", "path", type=FILE, envvar="AUTHZ_CONFIG", help="A file whose plans are shown too.")
WHO = (
    click.option("--plan", "plan_id", metavar="ID", help="Only this usage plan."),
    click.option("--key", "key_id", metavar="ID", help="Only this key."),
    click.option("--customer", "customer_id", metavar="ID", help="Only this customer's keys."),
)
PLAN = click.option("--plan", "plan_id", metavar="ID", required=True, help="The usage plan.")
HOLDER = (
    click.option("--key", "key_id", metavar="ID", help="The key; its customer's quotas, if the plan's are shared."),
    click.option("--customer", "customer_id", metavar="ID", help="The customer, if the plan's quotas are shared."),
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class Parts(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases of click
    """Some of PARTS, separated by commas."""

    name = "parts"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        parts = tuple(dict.fromkeys(str(value).split(",")))
        if strange := [part for part in parts if part not in PARTS]:
            self.fail(f"expected some of {', '.join(PARTS)}, got {strange[0]!r}", param, ctx)
        return parts


@click.group(invoke_without_command=True)
@with_options(*WHO)
@click.option("--start", metavar="DATE", help="The first day (UTC), as 2026-03-01.")
@click.option("--end", metavar="DATE", help="The last day.  [default: today]")
@click.option("--days", "count", type=click.IntRange(1, MAX_DAYS), help="How many days.  [default: 30]")
@click.option(
    "--group-by",
    "by",
    type=Parts(),
    metavar="PARTS",
    default="plan,key",
    show_default=True,
    help="A row for each of these: plan, customer, key, day.",
)
@JSON
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@CONFIG
@with_options(*PLACE)
@click.pass_context
def usage(
    context: click.Context,
    plan_id: str | None,
    key_id: str | None,
    customer_id: str | None,
    start: str | None,
    end: str | None,
    count: int | None,
    by: tuple[str, ...],
    as_json: bool,
    as_csv: bool,
    path: Path | None,
    redis_url: str | None,
    account_id: str | None,
) -> None:
    """Print how much plans are used: requests, units, overage, and refused calls by reason.

    Rows without any use are left out. On a terminal each row ends in a sparkline of its requests by day.

    \b
    authz usage --plan silver --days 7
    authz usage --customer acme --group-by plan,day --start 2026-03-01 --end 2026-03-31 --csv
    """
    if command := context.invoked_subcommand:
        if given := [
            name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        ]:
            option = next(param.opts[0] for param in context.command.params if param.name == given[0])
            raise click.UsageError(f"{option} has no effect before {command}; give it behind")
        return
    if as_json and as_csv:
        raise click.UsageError("--json and --csv are two forms; give one")
    query = Query(_days(start, end, count), by, plan_id, key_id, customer_id)

    async def act(store: Store, ledger: UsageLedger) -> None:
        if as_json:
            await _print_json(document(*row) async for rows in read_all(store, ledger, query) for row in rows.items())
        elif as_csv:
            click.echo(csv_lines({}, head=True), nl=False)
            async for rows in read_all(store, ledger, query):
                click.echo(csv_lines(rows), nl=False)
        else:
            draws = "day" not in query.by and sys.stdout.isatty()
            for line in await _table(read_all(store, ledger, _read_for(query, draws)), query, draws):
                click.echo(line)

    _on_usage(act, path, redis_url, account_id)


@usage.command("alerts")
@with_options(*WHO)
@click.option(
    "--count", default=ALERTS, show_default=True, type=click.IntRange(1, 100_000), help="The most alerts to print."
)
@click.option("--oldest-first", is_flag=True, help="Begin with the oldest.")
@click.option("--after", metavar="ID", help="Go on after the alert with this id.")
@JSON
@with_options(*PLACE)
def alerts(
    plan_id: str | None,
    key_id: str | None,
    customer_id: str | None,
    count: int,
    oldest_first: bool,
    after: str | None,
    as_json: bool,
    redis_url: str | None,
    account_id: str | None,
) -> None:
    """Print the alerts of quotas, the newest first: calls that reached a percent of a limit."""
    query = AlertQuery(plan_id, key_id, customer_id, newest_first=not oldest_first)

    async def act(_: Store, ledger: UsageLedger) -> list[dict[str, Any]]:
        found, position = list[dict[str, Any]](), after
        while len(found) < count:
            page = await ledger.alerts(query, min(PAGE, count - len(found)), position)
            found += map(document_of, page.alerts)
            position = page.position
            if position is None:
                break
        return found

    found = _on_usage(act, None, redis_url, account_id)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
        return
    for alert in found:
        who = f"key {alert['keyId']}" if "keyId" in alert else f"customer {alert['customerId']}"
        what = f"{alert['percent']} % of {alert['limit']:,} {alert['counts'].lower()}"
        click.echo(f"{alert['id']}  {alert['at']}  {alert['usagePlanId']}  {who}  {alert['period']}  {what}")


@usage.command("overview")
@click.option(
    "--count", default=LISTED, show_default=True, type=click.IntRange(1, KEPT), help="The most lines of each list."
)
@with_options(JSON, CONFIG, *PLACE)
def overview(count: int, as_json: bool, path: Path | None, redis_url: str | None, account_id: str | None) -> None:
    """Print today's use by plan, the busiest and the most refused callers, and the quotas near their limits.

    Of an account with more than 1,000 keys these are the figures of a control plane's last sweep.
    """

    async def act(store: Store, ledger: UsageLedger) -> dict[str, Any]:
        return await overview_document(store, await overview_of(store, ledger), count)

    found = _on_usage(act, path, redis_url, account_id)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    elif not found["ready"]:
        click.echo("no control plane has swept this account yet")
    else:
        click.echo("\n".join(_overview_lines(found)))


def _overview_lines(found: dict[str, Any]) -> Iterator[str]:
    yield f"as of {found['asOf']}, for {found['day']} (UTC)"
    for title, rows in (
        ("plans", found["plans"]),
        ("most calls", found["top"]),
        ("most refused by throttles", found["refused"]["throttle"]),
        ("most refused by quotas", found["refused"]["quota"]),
        ("most would be refused by shadow plans", found["shadow"]),
    ):
        if rows:
            yield f"\n{title}"
            heads = ["plan", "key", "name", "requests", "throttled", "over quota", "shadow"]
            yield from _aligned([heads, *map(_caller_cells, rows)], 3, 4)
    if found["near"]:
        yield "\nquotas near their limits"
        heads = ["plan", "key or customer", "period", "counts", "used", "limit", "percent"]
        yield from _aligned([heads, *map(_near_cells, found["near"])], 4, 3)


def _caller_cells(row: dict[str, Any]) -> list[str]:
    key, name = row.get("keyId", "-"), row.get("keyName") or (row.get("usagePlanName") if "keyId" not in row else "")
    refused = (row["refused"]["throttle"], row["refused"]["quota"], sum(row["shadow"].values()))
    return [row["usagePlanId"], key, printable(name or "-"), *map(_number, (row["requests"], *refused))]


def _near_cells(row: dict[str, Any]) -> list[str]:
    holder = row.get("keyId") or f"customer {printable(row['customerId'])}"
    numbers = (_number(row["used"]), _number(row["limit"]), f"{row['percent']} %")
    return [row["usagePlanId"], holder, row["period"], row["counts"], *numbers]


@usage.command("quotas")
@with_options(PLAN, *HOLDER, JSON, CONFIG, *PLACE)
def quotas(
    plan_id: str,
    key_id: str | None,
    customer_id: str | None,
    as_json: bool,
    path: Path | None,
    redis_url: str | None,
    account_id: str | None,
) -> None:
    """Print the used and the remaining units of each quota of a key or customer in a plan."""

    async def act(store: Store, ledger: UsageLedger) -> list[dict[str, Any]]:
        held = await find_held(store, plan_id, key_id, customer_id)
        return [standing_document(one) for one in await standings(ledger, held)]

    found = _on_usage(act, path, redis_url, account_id)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
        return
    heads = ("period", "counts", "limit", "used", "remaining", "overage", "until")
    lines = [heads]
    for one in found:
        cells = [_number(value) if isinstance(value, int) else str(value) for value in map(one.get, heads[:-1])]
        lines.append((*cells, one.get("end", "-")))
    for line in _aligned(lines, 2, 4):
        click.echo(line)


@usage.command("grant")
@with_options(PLAN, *HOLDER)
@click.option("--period", type=click.Choice([*Period]), help="The quota's period, if the plan has several quotas.")
@click.option("--counts", type=click.Choice([*Counts]), help="What the quota counts, if two have the period.")
@click.option("--units", required=True, type=click.IntRange(1, MAX_INT), help="Units to add to what remains.")
@click.option("--reason", required=True, help="For the audit.")
@click.option("--name", help="Names the grant: sent again, it is made once.  [default: a random one, printed]")
@with_options(CONFIG, *PLACE)
def grant(
    plan_id: str,
    key_id: str | None,
    customer_id: str | None,
    period: str | None,
    counts: str | None,
    units: int,
    reason: str,
    name: str | None,
    path: Path | None,
    redis_url: str | None,
    account_id: str | None,
) -> None:
    """Add units to what remains of a quota in its current period: a top-up.

    Calls that are made at the same time are counted exactly. The units end with the period; those of a quota of the
    period TOTAL stay.

    \b
    authz usage grant --plan trial --key k1 --units 500 --reason 'order 4711' --name order-4711
    """
    if not 0 < len(reason) <= REASON_LENGTH or (name is not None and not 0 < len(name) <= ID_LENGTH):
        raise click.UsageError(f"expected a reason of 1 to {REASON_LENGTH} characters, and a name of 1 to {ID_LENGTH}")
    named = name or f"grant-{random_hex()}"

    async def act(store: Store, ledger: UsageLedger) -> str:
        held = await find_held(store, plan_id, key_id, customer_id)
        quota = held.quota(Period(period) if period else None, Counts(counts) if counts else None)
        line = grant_line("GrantUsage", held, quota, units, named, reason)
        written = await ledger.grant(plan_id, held.holder, quota, units, name=named, who=operator("usage"), what=line)
        remaining = max(0, quota.settings.limit - written.result.used)
        if written.at_risk:
            click.echo(f"warning: written, and lost if the master of Redis fails now: {written.at_risk}", err=True)
        done = "was made before" if written.result.repeated else f"{units:,} {quota.settings.counts.lower()} granted"
        return f"{named}: {done}; {remaining:,} remain of {quota_words(held, quota)}"

    try:
        click.echo(_on_usage(act, path, redis_url, account_id))
    except OSError as error:
        raise OSError(f"{error}; to try again without granting twice, give --name {named}") from None


@usage.command("unused-keys")
@click.option("--days", "count", default=DAYS, show_default=True, type=click.IntRange(1), help="How many days.")
@JSON
@CONFIG
@with_options(*PLACE)
def unused(count: int, as_json: bool, path: Path | None, redis_url: str | None, account_id: str | None) -> None:
    """Print the keys that had no counted call for `--days` days. Newer keys are left out.

    A line has the key's id, its last day of use (UTC), its state and its name. Of a key without a day, no use is kept.
    """

    async def act(store: Store, ledger: UsageLedger) -> None:
        if count > ledger.kept_days:
            raise click.UsageError(f"--days: expected at most {ledger.kept_days}, the days for which usage is kept")
        if as_json:
            await _print_json(document async for document in _unused(store, ledger, count))
            return
        async for key in _unused(store, ledger, count):
            state = "enabled" if key["enabled"] else "disabled"
            name = printable(key.get("name", ""))
            click.echo(f"{key['id']:20}  {key.get('lastUsedDate', 'never'):10}  {state:8}  {name}".rstrip())

    _on_usage(act, path, redis_url, account_id)


async def _unused(store: Store, ledger: UsageLedger, count: int) -> AsyncIterator[dict[str, Any]]:
    position: str | None = None
    while True:
        page = await unused_keys(store, ledger, count, PAGE, position)
        for use in page.items:
            yield unused_document(use)
        position = page.position
        if position is None:
            return


def _on_usage(
    act: Callable[[Store, UsageLedger], Awaitable[T]], path: Path | None, redis_url: str | None, account_id: str | None
) -> T:
    """Act on the store and its usage, beside a file's items. Raises ConfigError or OSError."""
    read = configuration.load(path) if path else None
    settings = store_settings(redis_url, account_id, read.settings if read else {})
    items: Items = from_resources(read.resources, 0, bytes.hex) if read else {}

    async def run(store: Store) -> T:
        ledger = UsageLedger(
            settings.redis_url,
            account=settings.account_id,
            retention_days=settings.usage_retention_days,
            budget=SECONDS,
            replicas=settings.store_replicas,
        )
        try:
            return await act(store, ledger)
        except (UnknownName, UnfitName) as error:
            hint = "" if path or isinstance(error, UnfitName) else " in the store; --config names a file with others"
            raise click.UsageError(f"{error}{hint}") from None
        finally:
            await ledger.aclose()

    return on_store_of(settings, run, SECONDS, lambda: items)


def _days(start: str | None, end: str | None, count: int | None) -> Days:
    """The days that the options name."""
    if start and count:
        raise click.UsageError("--start and --days both say where to begin; give one")
    last = end or datetime.now(UTC).date().isoformat()
    try:
        first = start or (date.fromisoformat(last) - timedelta(days=(count or DAYS) - 1)).isoformat()
        return days(first, last, MAX_DAYS)
    except (ApiError, ValueError) as error:
        raise click.UsageError(str(error)) from None


async def _print_json(documents: Any) -> None:
    """Print a list, one object a line."""
    before = "["
    async for each in documents:
        click.echo(before + "\n" + msgspec.json.encode(each).decode(), nl=False)
        before = ","
    click.echo("[]" if before == "[" else "\n]")


# --- the table ----------------------------------------------------------------------------------------------------


def _read_for(query: Query, draws: bool) -> Query:
    """The query whose rows a table needs: days make the rows of a year many, so they are read for sparklines only."""
    return replace(query, by=(*query.by, "day")) if draws else query


async def _table(pages: AsyncIterator[Rows], query: Query, draws: bool) -> Sequence[str]:
    """The lines of a table; it keeps a row and a drawn sparkline for each group, and days while a group may grow."""
    rows, series, drawn = Rows(), dict[Group, dict[int, int]](), dict[Group, str]()
    async for page in pages:
        for read, sums in page.items():
            group = read._replace(day=None) if draws else read
            merge(rows, {group: sums})
            if draws and read.day is not None:
                by_day = series.setdefault(group, {})
                by_day[read.day] = by_day.get(read.day, 0) + sums.requests
        if query.is_summed_by_key:
            drawn |= _drawn(series, query)
            series.clear()
    drawn |= _drawn(series, query)
    if not rows:
        return ["no use in these days"]
    total = Sums(*map(sum, zip(*rows.values(), strict=True)))
    has_shadow = total.shadow_by_throttle or total.shadow_by_quota
    shown = len(NUMBERS) if has_shadow else len(NUMBERS) - 2
    lines = [[*_name_columns(query), *NUMBERS[:shown], *(["by day"] if draws else [])]]
    for group, sums in in_order(rows).items():
        lines.append([*_names(query, group), *map(_number, sums[:shown]), *([drawn[group]] if draws else [])])
    if len(rows) > 1:
        names = ["total", *[""] * (len(_name_columns(query)) - 1)]
        lines.append([*names, *map(_number, total[:shown]), *([""] if draws else [])])
    return list(_aligned(lines, len(_name_columns(query)), shown))


def _drawn(series: dict[Group, dict[int, int]], query: Query) -> dict[Group, str]:
    return {group: _line(by_day, query.days) for group, by_day in series.items()}


def _name_columns(query: Query) -> Sequence[str]:
    """The columns that name a row."""
    return [part for part in PARTS if part in query.by or (part == "customer" and "key" in query.by)]


def _names(query: Query, group: Group) -> Iterator[str]:
    for part in _name_columns(query):
        value = getattr(group, part)
        yield iso_day(value) if part == "day" else printable(value or "-")


def _number(number: int) -> str:
    return f"{number:,}"


def _line(by_day: dict[int, int], asked: Days) -> str:
    """A sparkline of the days; of more than WIDTH days, some share a bar."""
    numbers = [by_day.get(day, 0) for day in range(asked.first, asked.last + 1)]
    share = -(-len(numbers) // WIDTH)
    bars = [sum(numbers[at : at + share]) for at in range(0, len(numbers), share)]
    most = max(bars) or 1
    return "".join(BARS[-(-bar * (len(BARS) - 1) // most)] for bar in bars)


def _aligned(lines: Sequence[Sequence[str]], names: int, numbers: int) -> Iterable[str]:
    """Align `names` columns to the left, then `numbers` columns to the right, and the others to the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (
            cell.rjust(width) if names <= at < names + numbers else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()
