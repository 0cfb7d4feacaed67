"""Periods tile time: each moment lies in one, and the next begins where one ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from authz.core.periods import DAY_US, Interval, interval
from authz.core.resources import Period, QuotaSettings

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

quotas = st.one_of(
    st.just(QuotaSettings(1, Period.DAY)),
    st.builds(QuotaSettings, limit=st.just(1), period=st.just(Period.WEEK), offset=st.integers(0, 6)),
    st.builds(QuotaSettings, limit=st.just(1), period=st.just(Period.MONTH), offset=st.integers(0, 27)),
)
moments = st.integers(60 * DAY_US, 200 * 366 * DAY_US)


@given(quotas, moments)
def test_each_moment_lies_in_its_period_and_the_neighbours_touch_it(quota: QuotaSettings, now: int) -> None:
    found = interval(quota, now)
    assert found.start <= now < found.end
    assert interval(quota, found.start) == interval(quota, found.end - 1) == found
    assert interval(quota, found.end).start == found.end
    assert interval(quota, found.start - 1).end == found.start


@given(quotas, moments)
def test_a_period_begins_at_midnight_of_the_day_that_the_offset_names(quota: QuotaSettings, now: int) -> None:
    for moment in _ends(interval(quota, now)):
        assert (moment.hour, moment.minute, moment.second, moment.microsecond) == (0, 0, 0, 0)
        if quota.period == "WEEK":
            assert moment.isoweekday() % 7 == quota.offset
        if quota.period == "MONTH":
            assert moment.day == quota.offset + 1


@given(quotas, moments)
def test_a_period_is_a_day_a_week_or_a_month_long(quota: QuotaSettings, now: int) -> None:
    start, end = _ends(interval(quota, now))
    assert (end - start).days in {"DAY": {1}, "WEEK": {7}, "MONTH": {28, 29, 30, 31}}[quota.period]


def _ends(found: Interval) -> tuple[datetime, datetime]:
    return EPOCH + timedelta(microseconds=found.start), EPOCH + timedelta(microseconds=found.end)
