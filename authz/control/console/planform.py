"""The form of a usage plan: its fields as texts, the document that they make, and the field of each mistake."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, TypeVar

from authz.control.console.fields import parse_number, parse_tags, parse_whole, typed_words
from authz.control.pages.forms import Form
from authz.core.bounds import MAX_METHOD_THROTTLES, MAX_QUOTAS
from authz.core.methods import ANY, HTTP_METHODS, WILDCARD
from authz.core.problem import Problem
from authz.core.resources import Anchor, Counts, FailurePolicy, LimitsPer, Mode, Period

V = TypeVar("V")

Document = dict[str, Any]
Problems = dict[str, str]  # by the name of the field

ROWS: Final = range(MAX_QUOTAS)  # of quotas, always shown
MAX_STAGES: Final = 100
UNLIMITED: Final = "UNLIMITED"
PLACE: Final = re.compile(r"\$\.(?:(quotas|apiStages)\[(\d+)\]\.?)?(.*)", re.DOTALL)
METHOD: Final = re.compile(r"throttle\['(.*)'\]\.?(\w*)\Z", re.DOTALL)
METHODS: Final = HTTP_METHODS | {WILDCARD}

NAMES: Final = {  # fields of the form by their members in the document
    "name": "name",
    "description": "description",
    "mode": "mode",
    "failurePolicy": "failurePolicy",
    "limitsPer": "limitsPer",
    "tags": "tags",
    "throttle": "rate",
    "throttle.rateLimit": "rate",
    "throttle.burstLimit": "burst",
    "throttle.counts": "counts",
    "quotas": "q0-limit",
}
QUOTA_NAMES: Final = {"": "limit", "timeZone": "zone", "overage.upTo": "overage", "overage": "overage"}
THROTTLE_NAMES: Final = {"": "method", "rateLimit": "rate", "burstLimit": "burst", "counts": "counts"}


@dataclass(frozen=True, slots=True)
class QuotaRow:
    """A quota; one without a period is no quota."""

    period: str = ""
    limit: str = ""
    counts: str = Counts.UNITS.value
    offset: str = ""
    zone: str = ""
    anchor: str = Anchor.CALENDAR.value
    overage: str = ""
    alerts: str = ""

    @property
    def is_empty(self) -> bool:
        is_usual = self.counts in ("", Counts.UNITS) and self.anchor in ("", Anchor.CALENDAR)
        return is_usual and not any((self.period, self.limit, self.offset, self.zone, self.overage, self.alerts))


@dataclass(frozen=True, slots=True)
class MethodRow:
    """A method of a stage and its throttle. `method` is written as `GET /pets`."""

    method: str = ""
    rate: str = ""
    burst: str = ""
    counts: str = Counts.REQUESTS.value

    @property
    def is_empty(self) -> bool:
        return self.counts in ("", Counts.REQUESTS) and not any((self.method, self.rate, self.burst))


@dataclass(frozen=True, slots=True)
class StageRow:
    """A stage that the plan covers."""

    api: str
    stage: str
    methods: tuple[MethodRow, ...] = ()

    @property
    def place(self) -> str:
        return f"{self.api}/{self.stage}"


@dataclass(frozen=True, slots=True)
class PlanForm:
    """The fields of the form as they were typed. `revision` is that of the plan as it was read."""

    name: str = ""
    description: str = ""
    mode: str = Mode.SHADOW.value
    failure_policy: str = ""
    limits_per: str = LimitsPer.KEY.value
    rate: str = ""
    burst: str = ""
    counts: str = Counts.REQUESTS.value
    quotas: tuple[QuotaRow, ...] = tuple(QuotaRow() for _ in ROWS)
    stages: tuple[StageRow, ...] = ()
    tags: str = ""
    revision: str = ""

    @property
    def used_rows(self) -> list[int]:
        """The rows of quotas, in the order of the document's."""
        return [row for row, quota in enumerate(self.quotas) if not quota.is_empty]


# --- a form that is sent --------------------------------------------------------------------------------------------


def read_plan_form(form: Form) -> PlanForm:
    """Read the fields. A stage whose box "Take out" is ticked is left out."""
    return PlanForm(
        form.text("name"),
        form.text("description"),
        form.text("mode"),
        form.text("failurePolicy"),
        form.text("limitsPer"),
        form.text("rate"),
        form.text("burst"),
        form.text("counts"),
        tuple(QuotaRow(*(form.text(f"q{row}-{each.name}") for each in fields(QuotaRow))) for row in ROWS),
        tuple(_stages(form)),
        form.text("tags"),
        form.text("revision"),
    )


def _stages(form: Form) -> Iterator[StageRow]:
    for n in range(MAX_STAGES):
        place = form.text(f"s{n}-place")
        if place and not form.ticked(f"s{n}-out"):
            api, _, stage = place.partition("/")
            rows = (
                MethodRow(*(form.text(f"s{n}-m{k}-{each.name}") for each in fields(MethodRow)))
                for k in range(MAX_METHOD_THROTTLES + 1)
                if f"s{n}-m{k}-method" in form.fields
            )
            yield StageRow(api, stage, tuple(row for row in rows if not row.is_empty))


def with_stage(plan: PlanForm, place: str) -> PlanForm:
    """The form with one more stage, such as `a1/prod`; unchanged if the stage is there already."""
    if not place or place in {row.place for row in plan.stages} or len(plan.stages) >= MAX_STAGES:
        return plan
    api, _, stage = place.partition("/")
    return replace(plan, stages=(*plan.stages, StageRow(api, stage)))


# --- a plan that exists ---------------------------------------------------------------------------------------------


def form_of(document: Mapping[str, Any]) -> PlanForm:
    """The form that shows a plan's document, which GetWholePlan has."""
    throttle = document.get("throttle", {})
    quotas = [_quota_row(quota) for quota in document.get("quotas", ())]
    return PlanForm(
        document["name"],
        document.get("description", ""),
        document.get("mode", Mode.ENFORCE.value),
        document.get("failurePolicy", ""),
        document.get("limitsPer", LimitsPer.KEY.value),
        typed_words(throttle.get("rateLimit")),
        typed_words(throttle.get("burstLimit")),
        throttle.get("counts", Counts.REQUESTS.value),
        (*quotas, *(QuotaRow() for _ in ROWS[len(quotas) :])),
        tuple(map(_stage_row, document.get("apiStages", ()))),
        "\n".join(f"{name}={value}" for name, value in document.get("tags", {}).items()),
        document["revision"],
    )


def _quota_row(quota: Mapping[str, Any]) -> QuotaRow:
    return QuotaRow(
        quota["period"],
        typed_words(quota["limit"]),
        quota.get("counts", Counts.UNITS.value),
        typed_words(quota.get("offset")),
        quota.get("timeZone", ""),
        quota.get("anchor", Anchor.CALENDAR.value),
        typed_words(quota.get("overage", {}).get("upTo")),
        ", ".join(map(str, quota.get("alerts", ()))),
    )


def _stage_row(stage: Mapping[str, Any]) -> StageRow:
    methods = (
        MethodRow(
            in_words(name),
            typed_words(throttle.get("rateLimit")),
            typed_words(throttle.get("burstLimit")),
            throttle.get("counts", Counts.REQUESTS.value),
        )
        for name, throttle in stage.get("throttle", {}).items()
    )
    return StageRow(stage["apiId"], stage["stage"], tuple(methods))


def in_words(key: str) -> str:
    """The key of a method, such as `/pets/GET`, as people write it: `GET /pets`."""
    path, _, verb = key.rpartition("/")
    return f"{verb} {path or '/'}"


def method_key(text: str) -> str:
    """The key of a method that is written as `GET /pets` or as a key."""
    verb, _, path = text.partition(" ")
    if verb.upper() not in METHODS:
        return text
    path = path.strip()
    return f"{path if path.startswith('/') else f'/{path}'}/{verb.upper()}"


# --- the document ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Reading:
    """Reads texts of fields; collects their problems."""

    problems: Problems = field(default_factory=dict)

    def whole(self, name: str, text: str) -> int | None:
        return self._read(name, text, parse_whole, "expected a whole number, such as 5000")

    def number(self, name: str, text: str) -> float | None:
        return self._read(name, text, parse_number, "expected a number, such as 0.5 or 20")

    def tags(self, name: str, text: str) -> dict[str, str] | None:
        problem = "expected a tag on each line, such as team=pets, and each name once"
        return self._read(name, text, parse_tags, problem)

    def _read(self, name: str, text: str, parse: Callable[[str], V], problem: str) -> V | None:
        try:
            return parse(text) if text else None
        except ValueError:
            self.problems[name] = problem
            return None

    def choice(self, name: str, text: str, choices: Iterable[str]) -> str | None:
        if not text:
            return None
        if text in (known := [*choices]):
            return text
        self.problems[name] = f"expected one of {', '.join(known)}"
        return None


def document_of(plan: PlanForm) -> tuple[Document, Problems]:
    """The document that the form makes, and the problems of fields that cannot be read. Those are left out."""
    reading = _Reading()
    if not plan.name:
        reading.problems["name"] = "a plan needs a name"
    members = {
        "name": plan.name,
        "description": plan.description or None,
        "mode": reading.choice("mode", plan.mode, Mode),
        "failurePolicy": reading.choice("failurePolicy", plan.failure_policy, FailurePolicy),
        "limitsPer": reading.choice("limitsPer", plan.limits_per, LimitsPer),
        "throttle": _throttle(reading, plan),
        "quotas": [quota for row in plan.used_rows if (quota := _quota(reading, row, plan.quotas[row]))],
        "apiStages": [_stage(reading, n, row) for n, row in enumerate(plan.stages)],
        "tags": reading.tags("tags", plan.tags),
        "revision": plan.revision or None,
    }
    return {name: value for name, value in members.items() if value not in (None, [], {})}, reading.problems


def _throttle(reading: _Reading, plan: PlanForm) -> Document | None:
    rate, burst = reading.number("rate", plan.rate), reading.whole("burst", plan.burst)
    counts = reading.choice("counts", plan.counts, Counts)
    if plan.rate or plan.burst:
        return _given(rateLimit=rate, burstLimit=burst, counts=counts)
    if counts == Counts.UNITS:
        reading.problems["rate"] = "a throttle needs a rate"
    return None


def _quota(reading: _Reading, row: int, quota: QuotaRow) -> Document | None:
    """The quota of a row; None if it cannot be read, so that no half of it is drawn."""
    mine = _Reading()
    period = mine.choice("period", quota.period, Period)
    if not quota.period:
        mine.problems["period"] = "choose a period, or empty the row"
    limit = mine.whole("limit", quota.limit)
    if not quota.limit:
        mine.problems["limit"] = "a quota needs a limit; without a quota choose no period"
    overage = UNLIMITED if quota.overage.upper() == UNLIMITED else mine.whole("overage", quota.overage)
    document = _given(
        period=period,
        limit=limit,
        counts=mine.choice("counts", quota.counts, Counts),
        offset=mine.whole("offset", quota.offset),
        timeZone=quota.zone or None,
        anchor=mine.choice("anchor", quota.anchor, Anchor),
        overage=None if overage is None else {"upTo": overage},
        alerts=_alerts(mine, quota.alerts) or None,
    )
    if "overage" in mine.problems:
        mine.problems["overage"] = "expected a whole number, unlimited, or nothing"
    reading.problems |= {f"q{row}-{name}": text for name, text in mine.problems.items()}
    return None if mine.problems else document


def _alerts(reading: _Reading, text: str) -> list[int]:
    words = text.replace(",", " ").replace("%", " ").split()
    percents = [reading.whole("alerts", word) for word in words]
    if "alerts" in reading.problems:
        reading.problems["alerts"] = "expected percents, such as 80, 100"
    return [percent for percent in percents if percent is not None]


def _stage(reading: _Reading, n: int, row: StageRow) -> Document:
    throttle: Document = {}
    for k, method in enumerate(row.methods):
        at, key = f"s{n}-m{k}", method_key(method.method)
        rate = reading.number(f"{at}-rate", method.rate)
        burst = reading.whole(f"{at}-burst", method.burst)
        counts = reading.choice(f"{at}-counts", method.counts, Counts)
        if not method.method:
            reading.problems[f"{at}-method"] = "name a method, such as GET /pets, or empty the row"
        elif not (method.rate or method.burst):
            reading.problems[f"{at}-rate"] = "a throttle needs a rate, a burst or both"
        elif key in throttle:
            reading.problems[f"{at}-method"] = "the method is named twice"
        else:
            throttle[key] = _given(rateLimit=rate, burstLimit=burst, counts=counts)
    return _given(apiId=row.api, stage=row.stage, throttle=throttle or None)


def _given(**members: Any) -> Document:
    return {name: value for name, value in members.items() if value is not None}


# --- mistakes -------------------------------------------------------------------------------------------------------


def by_field(problems: Iterable[Problem], plan: PlanForm) -> tuple[Problems, list[str]]:
    """The API's problems of a form's document by the fields that they concern, and the others."""
    placed: dict[str, list[str]] = {}
    others = []
    for problem in problems:
        if name := _field(problem.address, plan):
            placed.setdefault(name, []).append(problem.rule)
        else:
            others.append(str(problem))
    return {name: "; ".join(rules) for name, rules in placed.items()}, others


def _field(address: str, plan: PlanForm) -> str | None:
    found = PLACE.fullmatch(address)
    if not found:
        return None
    list_, number, rest = found[1], int(found[2] or 0), found[3]
    if list_ == "quotas":
        rows = plan.used_rows
        member = rest.partition("[")[0]
        return f"q{rows[number]}-{QUOTA_NAMES.get(member, member)}" if number < len(rows) else None
    if list_ == "apiStages":
        return _stage_field(number, rest, plan.stages[number]) if number < len(plan.stages) else None
    return NAMES.get(rest.partition("[")[0])


def _stage_field(n: int, rest: str, row: StageRow) -> str:
    if found := METHOD.fullmatch(rest):
        # The API adds the first slash to a key.
        keys = [method_key(method.method).removeprefix("/") for method in row.methods]
        if (key := found[1].removeprefix("/")) in keys:
            return f"s{n}-m{keys.index(key)}-{THROTTLE_NAMES.get(found[2], 'method')}"
    return f"s{n}-place"


def method_choices(served: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The methods of a deployment's summary that need a key, as people write them."""
    return [
        f"{verb} {path}"
        for path, verbs in served.items()
        for verb, method in verbs.items()
        if method.get("apiKeyRequired")
    ] or [f"{ANY} /"]
