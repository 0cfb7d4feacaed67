"""`authz explain`: how one request is read, which limits cover it, and the answer it would get, spending nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime
from typing import Final

from authz.check import NO_KEYS, KeyRing, LimiterUnavailable, resolved
from authz.core.catalog import Catalog
from authz.core.limits import Limit, Quota, remaining
from authz.core.request import Request
from authz.core.responses import Profile, render
from authz.core.verdict import Allowed, Denied, Grant, Reason, Subject, Tally, Verdict, judge
from authz.limiter import RedisLimiter

MOST_NAMES: Final = 10  # of APIs or stages, in a note


async def explain(
    catalog: Catalog,
    request: Request,
    now: int,
    limiter: RedisLimiter | None = None,
    profile: Profile = "standard",
    ring: KeyRing = NO_KEYS,
) -> str:
    """The story of a request in lines. `now` is in µs of Unix time; with a limiter Redis's own time and state count.

    Raises LimiterUnavailable where Redis does not answer.
    """
    tally: Tally | None = None
    if limiter:
        now = (await limiter.peek((), None)).now
    grant = await resolved(lambda: catalog, ring, request, now)
    if limiter and isinstance(grant, Grant):
        tally = await limiter.peek(grant.limits, grant.meter)
        if tally.stale:
            raise LimiterUnavailable("the quota's period turned while we asked; ask again")
    return "\n".join(_story(request, grant, tally, profile, _notes(catalog, request, grant)))


def _notes(catalog: Catalog, request: Request, grant: Grant | Denied) -> Iterator[str]:
    """How the API was chosen where the request names none, and what an unknown name could have been."""
    named, host = request.extensions.get("api"), request.host.lower()
    known = f"the APIs are {_some(catalog.apis)}"
    if named and named not in catalog.apis:
        yield f"note      there is no API {named}, which the extension api names; {known}"
    elif isinstance(grant, Denied) and grant.reason is Reason.UNKNOWN_API:
        yield f"note      {host} leads to no API; {known}"
        yield "note      Envoy's route may name one by a context extension: repeat this with -e api=NAME, or in a body"
        yield '            with "extensions": {"api": "NAME"}; the access log has the name in authz.api'
    elif not named and grant.subject.route is None and catalog.is_only(host):  # worth knowing where it led nowhere
        yield f"note      {host} is in no `hosts`; the only API, {grant.subject.api}, was taken"
    if isinstance(grant, Denied) and grant.reason is Reason.UNKNOWN_STAGE:
        api = grant.subject.api
        stages = _some(catalog.apis[api].stages)
        yield f"note      {catalog.stage_of(request)!r} was read as the stage; the stages of {api} are {stages}"


def _some(names: Collection[str]) -> str:
    shown = sorted(names)[:MOST_NAMES]
    more = len(names) - len(shown)
    return (", ".join(shown) or "none") + (f" and {more} more" if more else "")


def _story(
    request: Request, grant: Grant | Denied, tally: Tally | None, profile: Profile, notes: Iterable[str] = ()
) -> Iterator[str]:
    yield from _reading(request, grant.subject)
    yield from notes
    verdict: Verdict | None = grant if isinstance(grant, Denied) else None
    if isinstance(grant, Grant):
        yield from _limits(grant, tally)
        verdict = judge(grant, tally) if tally else None
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


def _limits(grant: Grant, tally: Tally | None) -> Iterator[str]:
    states = tally.states if tally else [None] * len(grant.limits)
    when = " after it" if tally and tally.refused_by is None else ""
    for limit, state in zip(grant.limits, states, strict=True):
        shadow = ", shadow" if limit.shadow else ""
        left = "" if state is None else f", {remaining(limit.rule, state)} left{when}"
        yield f"layer     {limit.layer}: {_rule(limit)}{shadow}{left}"
        yield f"            in {limit.key}"
    if grant.meter:
        yield f"usage     in {grant.meter.ledger}"
        yield f"            and {grant.meter.history}"


def _rule(limit: Limit) -> str:
    if isinstance(limit.rule, Quota):
        return f"{limit.rule.limit} from {_utc(limit.rule.start)} to {_utc(limit.rule.end)}"
    rule = limit.rule
    text = f"{rule.rate:.15g} a second, burst {rule.burst}"
    return text if rule.exact else f"{text} (reckoned as {rule.n}/{rule.m} a microsecond)"


def _utc(microseconds: int) -> str:
    return f"{datetime.fromtimestamp(microseconds // 1_000_000, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _answer(verdict: Verdict | None, request: Request, profile: Profile) -> Iterator[str]:
    if verdict and verdict.tally and verdict.tally.shadowed_by:
        yield f"shadow    {verdict.tally.shadowed_by.layer} would have refused"
    if verdict is None:
        yield "answer    forwarded if each layer has room; --redis tells"
    elif isinstance(verdict, Allowed):
        yield "answer    forwarded"
    else:
        answer = render(verdict, request, "(a new one each time)", profile)
        yield f"reason    {verdict.layer or verdict.reason}"
        yield f"answer    {answer.status}"
        for name, value in answer.headers.items():
            yield f"            {name}: {value}"
        yield f"            {answer.body}"
