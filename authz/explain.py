"""`authz explain`: how one request is read, which limits cover it, and its answer. Spends nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Final

from msgspec.structs import replace

from authz.check import NO_KEYS, KeyCache, LimiterUnavailable, resolved
from authz.core.catalog import Caller, Catalog, Contract, Unlooked
from authz.core.costs import CostSource
from authz.core.limits import Charge, Layer, Limit, Quota, remaining
from authz.core.request import Request
from authz.core.resources import Anchor, Period, QuotaSettings
from authz.core.responses import Profile, render
from authz.core.sources import client_address
from authz.core.verdict import Allowed, Denied, Grant, Reason, Subject, Verdict, judge, priced
from authz.core.zones import iso_time
from authz.envoy.accesslog import LogLine, Told
from authz.limiter.limiter import Peeked, RedisLimiter

MOST_NAMES: Final = 10  # of APIs or stages, in a note
MILLISECOND: Final = 1000  # µs


async def explain(
    catalog: Catalog,
    request: Request,
    now: int,
    limiter: RedisLimiter | None = None,
    profile: Profile = "standard",
    keys: KeyCache = NO_KEYS,
    line: LogLine | None = None,
    caller: Caller | None = None,
) -> str:
    """Explain a request in lines. `now` is in µs of Unix time; with a limiter, Redis's own time and state count.

    `line` is the access log's line that the request was taken from, `caller` the key that this line names. Without a
    line, a request without a key is explained as the caller's.
    Raises LimiterUnavailable where Redis does not answer.
    """
    peeked: Peeked | None = None
    if limiter:
        now = (await limiter.peek(Charge(()))).tally.now
    past: list[str] = []
    if line:
        past += _then(line)
        request, note = _as_then(catalog, request, line.authz or Told(), now)
        past += note
    noted = _Noted(keys)
    grant = await resolved(lambda: catalog, noted, request, now)
    if caller and not line and isinstance(grant, Denied) and grant.reason is Reason.KEY_MISSING:
        grant, note = _as_caller(catalog, request, now, caller)
        past += note
    if line and isinstance(grant, Denied) and grant.reason is Reason.KEY_MISSING:
        grant, note = _by_id(catalog, request, now, line.authz or Told(), caller, grant)
        past += note
    if line and line.authz and isinstance(grant, Grant) and grant.cost_source is CostSource.ABSENT:
        grant, note = _cost_then(grant, request, line.authz)
        past += note
    if limiter and isinstance(grant, Grant):
        peeked = await limiter.peek(Charge(grant.limits, grant.meter, grant.cost))
        if peeked.tally.stale:
            raise LimiterUnavailable("the quota's period ended during the look-up; try again")
    known = noted.caller or caller or catalog.caller(grant.subject.key)
    contract = catalog.contract(known, grant.subject) if known else None
    return "\n".join([*past, *_story(request, grant, peeked, profile, _notes(catalog, request, grant), contract)])


class _Noted:
    """A cache of keys that remembers the caller that it has found."""

    def __init__(self, keys: KeyCache) -> None:
        self.caller: Caller | None = None
        self._keys = keys

    def known(self, digest: bytes) -> Caller | Unlooked | None:
        found = self._keys.known(digest)
        self.caller = found if isinstance(found, Caller) else self.caller
        return found

    async def find(self, digest: bytes) -> Caller | None:
        self.caller = await self._keys.find(digest)
        return self.caller


def _then(line: LogLine) -> Iterator[str]:
    """How the request was answered when it was logged, and a note for each part of it that the log line lacks."""
    told = line.authz or Told()
    parts = [str(line.status or ""), told.decision, *dict.fromkeys((told.reason, told.layer))]
    parts += [f"plan {told.plan}" if told.plan else "", f"key {told.key_id}" if told.key_id else ""]
    yield f"then      {', '.join(filter(None, parts)) or 'not told'}{f' at {line.time}' if line.time else ''}"
    if line.authz is None:
        yield "note      the log line has no `authz`: Envoy did not ask authz about this request, or logs it otherwise"
    lacks = "headers nor metadata" if "?" in line.path else "headers, query nor metadata"
    yield f"note      the log line holds no {lacks}; what the limits are now, and not then, follows"


def _as_then(catalog: Catalog, request: Request, told: Told, now: int) -> tuple[Request, list[str]]:
    """The request with as few of Envoy's context extensions as make it lead where it led then."""
    places = {name: value for name in ("api", "stage", "resource") if (value := getattr(told, name))}
    names = list(places)
    tries = [
        replace(request, extensions={**{name: places[name] for name in names[:count]}, **request.extensions})
        for count in range(len(names) + 1)
    ]
    best = max(tries, key=lambda one: _agreement(catalog, one, told, now))  # the first of several
    added = [name for name in best.extensions if name not in request.extensions]
    if not added:
        return request, []
    given = " ".join(f"-e {name}={best.extensions[name]}" for name in added)
    return best, [f"note      host and path alone lead elsewhere than they led then; taken from the line: {given}"]


def _agreement(catalog: Catalog, request: Request, told: Told, now: int) -> int:
    """Count how many of API, stage and resource the request reaches as the line says, in this order."""
    found = catalog.resolve(request, now)
    if not isinstance(found, Grant | Denied):
        return 0
    subject = found.subject
    pairs = (
        (subject.api, told.api),
        (subject.stage, told.stage),
        (subject.route.resource if subject.route else "", told.resource),
    )
    agreed = 0
    for ours, theirs in pairs:
        if theirs and ours != theirs:  # a place that was unknown then may be known now
            break
        agreed += 1
    return agreed


def _by_id(
    catalog: Catalog, request: Request, now: int, told: Told, caller: Caller | None, missing: Denied
) -> tuple[Grant | Denied, list[str]]:
    """The grant of the key that the line names by its id. No line has a key's value."""
    unknown = replace(missing, reason=Reason.KEY_UNKNOWN)
    give = "give the caller's with -H, or in a body's `headers`"
    if told.key_id:
        known = caller or catalog.caller(told.key_id)
        if known:
            grant, notes = _as_caller(catalog, request, now, known)
            by_id = f"note      the key was taken by its id, {told.key_id}; a log line has no key's value"
            return grant, [by_id, *notes]
        return unknown, [f"note      no key has the id {told.key_id} now"]
    if told.reason == Reason.KEY_UNKNOWN:
        return unknown, [f"note      the key was unknown then, and a log line has no key's value: {give}"]
    if told.reason == Reason.KEY_MISSING:
        return missing, []
    return missing, [f"note      the log line names no key: {give}"]


def _as_caller(catalog: Catalog, request: Request, now: int, caller: Caller) -> tuple[Grant | Denied, list[str]]:
    """The grant of a request as if the caller had sent its key."""
    notes = []
    if caller.sources and not client_address(request):
        notes = ["note      the client's address is not known, so allowedSources was not compared"]
    found = catalog.resolve_as(caller, request, now)
    return priced(found, request) if isinstance(found, Grant) else found, notes


def _cost_then(grant: Grant, request: Request, told: Told) -> tuple[Grant, list[str]]:
    """The grant with the cost that the line has: its metadata is not in the line."""
    found: object = told.cost
    for name in reversed(grant.cost_from.metadata if grant.cost_from else ()):
        found = {name: found}
    note = f"note      the metadata was taken from the cost in the line, {told.cost:g}"
    return priced(grant, replace(request, metadata=found)), [note]


def _notes(catalog: Catalog, request: Request, grant: Grant | Denied) -> Iterator[str]:
    """How the API was chosen where the request names none, and what an unknown name could have been."""
    named, host = request.extensions.get("api"), request.host.lower()
    known = f"the APIs are {_some(catalog.apis)}"
    reason = grant.reason if isinstance(grant, Denied) else None
    if named and named not in catalog.apis:
        yield f"note      there is no API {named}, which the extension api names; {known}"
    elif reason is Reason.UNKNOWN_API:
        yield f"note      {host} leads to no API; {known}"
        yield "note      Envoy's route may name one by a context extension: repeat this with -e api=NAME, or in a body"
        yield '            with "extensions": {"api": "NAME"}; the access log has the name in authz.api'
    elif not named and grant.subject.route is None and catalog.is_only(host):  # worth knowing where it led nowhere
        yield f"note      {host} is in no `hosts`; the only API, {grant.subject.api}, was taken"
    if reason is Reason.KEY_UNKNOWN:
        value = grant.subject.credentials and grant.subject.credentials.find(request)
        if value and catalog.form and catalog.form.is_mistyped(value):
            yield "note      the key has the form of generated ones, and its checksum is wrong: it was mistyped"
    if reason is Reason.SOURCE_NOT_ALLOWED:
        address = client_address(request)
        yield (
            f"note      the key's allowedSources do not hold {address}"
            if address
            else (
                "note      the key has allowedSources, and the request has no address: give the client's as its source"
            )
        )
    if reason is Reason.UNKNOWN_STAGE:
        api = grant.subject.api
        stages = _some(catalog.apis[api].stages)
        yield f"note      {catalog.stage_of(request)!r} was read as the stage; the stages of {api} are {stages}"


def _some(names: Collection[str]) -> str:
    shown = sorted(names)[:MOST_NAMES]
    more = len(names) - len(shown)
    return (", ".join(shown) or "none") + (f" and {more} more" if more else "")


def _story(
    request: Request,
    grant: Grant | Denied,
    peeked: Peeked | None,
    profile: Profile,
    notes: Iterable[str] = (),
    contract: Contract | None = None,
) -> Iterator[str]:
    yield from _reading(request, grant.subject)
    if contract and contract.holder.is_customer:
        yield f"limits    of the customer {contract.holder.id}, whose keys share them"
    yield from notes
    verdict: Verdict | None = grant if isinstance(grant, Denied) else None
    if isinstance(grant, Grant):
        yield from _cost(grant)
        yield from _limits(grant, peeked, contract)
        if peeked and peeked.wait is not None:
            yield "wait      held units leave no room; they come free unless their processes use them"
            yield f"answer    decided when the first of these holds ends, in {-(-peeked.wait // MILLISECOND)} ms"
            return
        verdict = judge(grant, peeked.tally, request) if peeked else None
    yield from _answer(verdict, request, profile)


def _reading(request: Request, subject: Subject) -> Iterator[str]:
    route = subject.route
    requires = "" if route is None else ("requires a key" if route.api_key_required else "requires no key")
    yield f"request   {request.method} {request.host}{request.path.partition('?')[0]}"
    yield f"api       {subject.api or '(none)'}"
    yield f"stage     {subject.stage or '(none)'}"
    yield f"route     {f'{route.method} {route.resource}, {requires}' if route else '(none)'}"
    yield f"key       {subject.key or '(none)'}"
    yield f"plan      {f'{subject.plan} ({subject.plan_name})' if subject.plan else '(none)'}"


def _cost(grant: Grant) -> Iterator[str]:
    """The cost of the call and where it comes from, unless it is the usual one of a unit."""
    if not _has_cost(grant):
        return
    place = f"the metadata {':'.join(grant.cost_from.metadata)}" if grant.cost_from else ""
    reasons = {
        CostSource.METHOD: "the method's",
        CostSource.METADATA: f"from {place}",
        CostSource.MAX: f"the max of costFrom: {place} is greater",
        CostSource.ABSENT: f"the method's: without {place}, which -m gives, or a body's `metadata`",
        CostSource.NOT_WHOLE: f"the method's: {place} is no whole number of at least 0",
    }
    yield f"cost      {grant.cost}, {reasons[grant.cost_source]}"


def _has_cost(grant: Grant) -> bool:
    return grant.meter is not None and (grant.cost != 1 or grant.cost_from is not None)


def _limits(grant: Grant, peeked: Peeked | None, contract: Contract | None) -> Iterator[str]:
    settings = iter(contract.quotas if contract else ())
    rooms = _rooms(grant, peeked) if peeked else [""] * len(grant.limits)
    for limit, left in zip(grant.limits, rooms, strict=True):
        shadow = ", shadow" if limit.shadow else ""
        counts = _counts(limit, grant.cost) if _has_cost(grant) else ""
        yield f"layer     {limit.label}: {_rule(limit)}{counts}{shadow}{left}"
        if contract and limit.layer is Layer.PLAN_THROTTLE:
            yield from _own_throttle(contract)
        if contract and limit.layer is Layer.PLAN_QUOTA:
            yield from _own_quota(limit, next(settings), contract)
        yield f"            in {limit.key}"
    if grant.meter:
        yield f"usage     in {grant.meter.ledger}"
        yield f"            and {grant.meter.history}"


def _rooms(grant: Grant, peeked: Peeked) -> Iterator[str]:
    """Of each limit, the units that are free and those that processes hold ahead."""
    is_admitted = peeked.tally.refused_by is None and peeked.wait is None
    when = " after it" if is_admitted else ""
    for limit, state, held in zip(grant.limits, peeked.tally.states, peeked.held, strict=True):
        free = remaining(limit.rule, state)
        if not is_admitted:  # such a state does not count held units as used
            free = max(0, free - held.units)
        processes = "1 process" if held.processes == 1 else f"{held.processes} processes"
        yield f", {free} left{when}" + (f", {held.units} held by {processes}" if held.units else "")


def _own_throttle(contract: Contract) -> Iterator[str]:
    """The plan's own throttle, if the caller has other numbers."""
    if contract.holder.override and contract.holder.override.throttle and contract.throttle:
        rate, burst = contract.throttle.rate_limit, contract.throttle.burst_limit
        numbers = f"{rate:.15g} a second" + ("" if burst is None else f", burst {burst}")
        yield f"            by an override; the plan's is {numbers}"


def _own_quota(limit: Limit, settings: QuotaSettings, contract: Contract) -> Iterator[str]:
    """What a quota has beyond AWS's: its period among several, its zone and billing day, overage, alerts, override."""
    place = f" in {settings.time_zone}" if settings.time_zone else ""
    day = ""
    if settings.anchor is Anchor.BILLING_DAY:
        who, number = "customer" if contract.holder.is_customer else "key", contract.holder.billing_day
        if number is None:
            day = f", from the 1st, since the {who} has no billing day"
        else:
            day = f", from the billing day {number} of the {who}"
    if settings.period is Period.TOTAL:
        yield "            in all"
    elif len(contract.quotas) > 1 or place or day:
        yield f"            each {settings.period}{place}{day}"
    if settings.overage:
        most = settings.overage.up_to
        yield f"            then overage, {'without end' if most == 'UNLIMITED' else f'{most} at most'}"
    if settings.alerts:
        yield f"            alerts at {', '.join(map(str, sorted(settings.alerts)))} %"
    if isinstance(limit.rule, Quota) and limit.rule.limit != settings.limit:
        yield f"            by an override; the plan's is {settings.limit}"


def _counts(limit: Limit, cost: int) -> str:
    """What the limit counts, and whether the cost can ever fit."""
    rule = limit.rule
    if not rule.counts_units:
        return ", counts requests"
    room = rule.ceiling if isinstance(rule, Quota) else rule.burst
    return ", counts units" if cost <= room else ", counts units and never has room for the cost"


def _rule(limit: Limit) -> str:
    if isinstance(limit.rule, Quota):
        if limit.rule.finite_end is None:
            return f"{limit.rule.limit}"
        return f"{limit.rule.limit} from {iso_time(limit.rule.start)} to {iso_time(limit.rule.end)}"
    rule = limit.rule
    text = f"{rule.rate:.15g} a second, burst {rule.burst}"
    return text if rule.exact else f"{text} (reckoned as {rule.n}/{rule.m} a microsecond)"


def _answer(verdict: Verdict | None, request: Request, profile: Profile) -> Iterator[str]:
    if verdict and verdict.tally and verdict.tally.shadowed_by:
        yield f"shadow    {verdict.tally.shadowed_by.layer} would have refused"
    if verdict is None:
        yield "answer    forwarded if each layer has room; --redis tells"
    elif isinstance(verdict, Allowed):
        yield "answer    forwarded"
    else:
        answer = render(verdict, request, "(a new one each time)", profile)
        yield f"reason    {verdict.reason}"
        yield f"answer    {answer.status}"
        for name, value in answer.headers.items():
            yield f"            {name}: {value}"
        yield f"            {answer.body}"
