"""The page of usage: the days, the groups and the filters that it reads; its table, its chart and its CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import date
from typing import Any
from urllib.parse import urlencode

import pytest

from authz.aws.usage import CallerUse, DayRow, Days, RefusedRow
from authz.control.console.usage import chart_of, span_of, table_of, wish_of
from authz.core.stored import StoredKey, StoredPlan
from authz.store.ports import StoreUnavailable, UsageReading
from tests.support.builders import key, plan
from tests.support.pages import READER, Pages, next_page
from tests.support.plane import NoUsage

TODAY = date(2026, 3, 4)
DAY = (TODAY - date(1970, 1, 1)).days


class Counted(NoUsage):
    """A `Usage` in which each key made these calls on the day, and had these refused by throttle and quota."""

    def __init__(self, calls: dict[str, tuple[int, int, int]], day: int = DAY) -> None:
        self.calls, self.day = calls, day

    async def read(self, plan_id: str, key_ids: Sequence[str], days: Days, *, refused: bool = False) -> UsageReading:
        return UsageReading(
            0,
            {
                key_id: CallerUse(
                    rows={self.day: DayRow(requests, 0, requests, 0)},
                    refused={self.day: RefusedRow(by_throttle, by_quota)},
                )
                for key_id, (requests, by_throttle, by_quota) in self.calls.items()
                if key_id in key_ids
            },
        )


def stored(id_: str, plan_id: str = "p1", **changes: Any) -> StoredKey:
    return StoredKey(key(id_, value_sha256=None, **changes), f"index of {id_}", 0, 0, plans=(plan_id,))


def used(*keys: StoredKey, calls: dict[str, tuple[int, int, int]]) -> Pages:
    """A console with one plan, these keys in it, and these calls of theirs."""
    return Pages(StoredPlan(plan("p1", name="Gold", keys=())), *keys, usage=Counted(calls))


AT = f"start={TODAY}&end={TODAY}"


# --- the parameters -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("span", "today", "first", "last"),
    [
        ("today", "2026-03-04", "2026-03-04", "2026-03-04"),
        ("week", "2026-03-04", "2026-02-26", "2026-03-04"),
        ("month", "2026-03-01", "2026-03-01", "2026-03-01"),
        ("last-month", "2026-03-31", "2026-02-01", "2026-02-28"),
        ("last-month", "2026-01-01", "2025-12-01", "2025-12-31"),
        ("a typing mistake", "2026-03-04", "2026-02-26", "2026-03-04"),
    ],
)
def test_a_span_is_a_range_of_days_up_to_today(span: str, today: str, first: str, last: str) -> None:
    assert span_of(span, date.fromisoformat(today)) == (date.fromisoformat(first), date.fromisoformat(last))


@pytest.mark.parametrize(
    ("start", "end", "wrong"),
    [
        ("2026-03-01", "2026-03-04", []),
        ("2025-01-28", "2026-03-03", []),
        ("2025-01-28", "2026-03-04", ["end"]),
        ("2026-03-05", "2026-03-04", ["end"]),
        ("yesterday", "2026-03-04", ["start"]),
        ("2026-03-04", "", ["end"]),
        ("20260304", "2026-3-4", ["end", "start"]),
        ("1969-12-31", "1970-01-01", ["start"]),
        ("2026-02-30", "9999-12-31", ["start"]),
    ],
)
def test_days_that_make_no_range_have_a_sentence_beside_their_field(start: str, end: str, wrong: list[str]) -> None:
    wish = wish_of({"start": start, "end": end}, TODAY)
    assert (sorted(wish.problems), wish.days is None) == (wrong, bool(wrong))
    answer = Pages().get(f"/console/usage?start={start}&end={end}")
    assert answer.status_code == (400 if wrong else 200)
    for name in wrong:
        assert wish.problems[name] in answer.text
    assert f'value="{start}"' in answer.text


def test_a_link_of_the_page_leads_to_the_same_rows() -> None:
    wish = wish_of({"span": "month", "by": "key", "plan": "p&1", "customer": " c ", "key": ""}, TODAY)
    assert wish_of(wish.fields, TODAY) == wish
    assert wish.who == {"usagePlanId": "p&1", "customerId": "c", "keyId": None}


# --- the table and the chart --------------------------------------------------------------------------------------


def row(requests: int, throttle: int = 0, quota: int = 0, **more: Any) -> dict[str, Any]:
    refused, shadow = {"throttle": throttle, "quota": quota}, {"throttle": 0, "quota": 0}
    return {"requests": requests, "units": requests, "overage": 0, "refused": refused, "shadow": shadow} | more


def test_days_come_from_the_newest_and_other_rows_from_the_most_calls() -> None:
    days = table_of([row(1, day="2026-03-03"), row(1, day="2026-03-05"), row(1, day="2026-03-04")], "day")
    plans = table_of([row(1), row(7), row(1, quota=2)], "plan")
    assert [each["day"] for each in days.rows] == ["2026-03-05", "2026-03-04", "2026-03-03"]
    assert [(each["requests"], each["refused"]["quota"]) for each in plans.rows] == [(7, 0), (1, 2), (1, 0)]


def test_the_last_row_sums_each_column() -> None:
    total = table_of([row(1, 2, 3), row(10, 20, 30, units=50, overage=5)], "plan").total
    assert total["refused"] == {"throttle": 22, "quota": 33}
    assert (total["requests"], total["units"], total["overage"]) == (11, 51, 5)


def test_columns_that_say_nothing_are_left_out() -> None:
    plain = table_of([row(1)], "plan")
    rich = table_of([row(1, units=3, overage=1, shadow={"throttle": 1, "quota": 0})], "plan")
    assert (plain.has_units, plain.has_overage, plain.has_shadow) == (False, False, False)
    assert (rich.has_units, rich.has_overage, rich.has_shadow) == (True, True, True)


def test_a_chart_shows_the_last_ninety_days_of_a_longer_range() -> None:
    columns = chart_of([row(3, day="2026-03-04")], (date(2025, 3, 1), date(2026, 3, 4))).columns
    assert (len(columns), columns[0].use.day, columns[-1].use.requests) == (90, date(2025, 12, 5), 3)


# --- the page -----------------------------------------------------------------------------------------------------


def test_a_key_is_shown_with_its_calls_and_links_to_its_pages() -> None:
    pages = used(stored("k1", name="Acme", customer_id="acme"), calls={"k1": (1234, 5, 6)})
    text = pages.get(f"/console/usage?by=key&{AT}").text
    for piece in ('href="/console/keys/id/k1">Acme<', '/keys/customers/one?id=acme"', 'href="/console/plans/p1">Gold<'):
        assert piece in text
    assert ">1,234<" in text
    assert ">5<" in text
    assert ">6<" in text


@pytest.mark.parametrize(
    ("by", "wanted"),
    [("plan", ">Gold</a>"), ("customer", "keys without a customer"), ("day", f">{TODAY}</th>")],
)
def test_rows_can_be_grouped_otherwise(by: str, wanted: str) -> None:
    text = used(stored("k1"), calls={"k1": (12, 0, 0)}).get(f"/console/usage?by={by}&{AT}").text
    assert wanted in text
    assert '<td class="num">12</td>' in text


def test_a_page_reads_a_hundred_keys_and_says_that_its_sums_are_of_a_part() -> None:
    keys = [stored(f"k{number}") for number in range(150)]
    pages = used(*keys, calls={one.key.id: (1, 0, 0) for one in keys})
    first = pages.get(f"/console/usage?by=key&{AT}").text
    assert first.count('href="/console/keys/') == 100
    assert "Sum of this page" in first
    second = pages.get(next_page(first)).text
    assert second.count('href="/console/keys/') == 50
    assert "Sum of this page" in second
    assert 'rel="next"' not in second


def test_an_unknown_plan_is_reported_beside_its_field() -> None:
    answer = Pages().get("/console/usage?plan=nope")
    assert answer.status_code == 404
    assert "There is no such plan" in answer.text
    assert 'aria-invalid="true"' in answer.text


def test_without_use_the_page_says_what_to_do() -> None:
    assert "Choose others, or fewer filters." in Pages().get("/console/usage").text


def test_markup_in_names_and_filters_is_shown_as_text() -> None:
    evil = '"><script>alert(1)</script>'
    pages = used(stored("k1", name=evil, customer_id=evil), calls={"k1": (1, 0, 0)})
    pages.store.items["usageplan", "p1"] = StoredPlan(plan("p1", name=evil, keys=()))
    for by in ("key", "customer", "plan", "day"):
        text = pages.get(f"/console/usage?by={by}&{AT}").text
        filtered = pages.get(f"/console/usage?{urlencode({'by': by, 'customer': evil, 'start': evil})}").text
        assert "<script>alert" not in text + filtered


# --- CSV ----------------------------------------------------------------------------------------------------------


def test_the_csv_has_all_keys_and_the_sums_of_their_ledgers() -> None:
    keys = [stored(f"k{number}", customer_id=f"c{number % 7}") for number in range(1200)]
    pages = used(*keys, calls={one.key.id: (at, at % 3, at % 2) for at, one in enumerate(keys)})
    for by in ("plan", "customer", "key", "day"):
        answer = pages.get(f"/console/usage.csv?by={by}&{AT}")
        rows = list(csv.DictReader(io.StringIO(answer.text)))
        assert sum(int(each["requests"]) for each in rows) == sum(range(1200))
        assert sum(int(each["refusedByThrottle"]) for each in rows) == sum(at % 3 for at in range(1200))
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == f'attachment; filename="usage-by-day-{TODAY}-{TODAY}.csv"'


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_name_in_the_csv_is_no_formula_of_a_spreadsheet(name: str) -> None:
    pages = used(stored("k1", name=name, customer_id=name), calls={"k1": (1, 0, 0)})
    (only,) = csv.DictReader(io.StringIO(pages.get(f"/console/usage.csv?by=key&{AT}").text, newline=""))
    assert (only["keyName"], only["customerId"]) == (f"'{name}", f"'{name}")


def test_a_reader_may_export() -> None:
    pages = Pages(as_=READER)
    assert pages.get(f"/console/usage.csv?{AT}").status_code == 200


def test_a_csv_of_days_that_make_no_range_leads_back_to_the_form() -> None:
    answer = Pages().get("/console/usage.csv?start=x&end=y&by=key", follow=True)
    assert (answer.status_code, answer.url.path) == (400, "/console/usage")


def test_a_plans_row_sums_all_of_its_keys() -> None:
    keys = [stored(f"k{number}") for number in range(150)]
    text = used(*keys, calls={one.key.id: (2, 1, 0) for one in keys}).get(f"/console/usage?by=plan&{AT}").text
    assert ">300<" in text.split(">Gold</a>")[1]
    assert "This is a page" not in text


def test_many_plans_come_in_pages() -> None:
    console = used(stored("k1"), calls={"k1": (7, 0, 0)})
    for number in range(23):
        console.store.items["usageplan", f"q{number}"] = StoredPlan(plan(f"q{number}", keys=()))
    first = console.get(f"/console/usage?{AT}").text
    assert "This is a page of plans" in first
    assert 'rel="next"' not in console.get(next_page(first)).text


def test_before_the_sums_of_all_keys_are_gathered_the_page_does_not_say_that_there_was_no_call() -> None:
    console = used(*(stored(f"k{number}") for number in range(1_001)), calls={"k1": (7, 0, 0)})
    for by in ("plan", "day"):
        text = console.get(f"/console/usage?by={by}&{AT}").text
        assert "are gathered for the first time" in text
        assert "No call" not in text
        assert "No key" not in text
    assert 'href="/console/keys/id/k1"' in console.get(f"/console/usage?by=key&{AT}").text


class Breaks(Counted):
    """A `Usage` whose Redis is gone after the first keys were read."""

    reads = 0

    async def read(self, plan_id: str, key_ids: Sequence[str], days: Days, *, refused: bool = False) -> UsageReading:
        self.reads += 1
        if self.reads > 2:
            raise StoreUnavailable("gone")
        return await super().read(plan_id, key_ids, days, refused=refused)


def test_a_download_that_redis_breaks_off_has_no_end() -> None:
    """The server closes a connection whose body did not end, so the browser reports a broken download."""
    keys = [stored(f"k{number}") for number in range(1200)]
    usage = Breaks({one.key.id: (1, 0, 0) for one in keys})
    pages = Pages(StoredPlan(plan("p1", keys=())), *keys, usage=usage)
    sent = pages.messages(f"/console/usage.csv?by=key&{AT}")
    assert [message["more_body"] for message in sent[1:]] == [True] * len(sent[1:])
    assert sent[0]["status"] == 200
    assert b"k0" in b"".join(message["body"] for message in sent[1:])
