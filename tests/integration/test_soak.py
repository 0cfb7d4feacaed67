"""A short soak, and the arithmetic of its verdict: violations are found, and correct runs have none."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.soak import KEYS, QUOTA, SECOND, Answers, Span, excess, findings, leaks, slope, soak

EVENTS, PAUSE_SECONDS = 10, 0.4

spans = st.lists(st.builds(lambda at, took: Span(at, at + took), st.integers(0, 4 * SECOND), st.integers(0, SECOND)))


@given(spans=spans, rate=st.sampled_from([0.25, 1.0, 3.0]), burst=st.integers(0, 3))
def test_excess_is_that_of_the_worst_window(spans: list[Span], rate: float, burst: int) -> None:
    """Over all windows from a sending to the answer of a call in it, with the calls that lie in them counted singly."""
    windows = [(first.sent, last.received) for first in spans for last in spans if first.sent <= last.sent]
    worst = max(
        (
            sum(start <= span.sent and span.received <= end for span in spans) - Fraction(rate) * (end - start) / SECOND
            for start, end in windows
        ),
        default=Fraction(0),
    )
    assert excess(spans, rate, burst) == pytest.approx(float(worst - burst), abs=1e-9)


def test_a_bucket_that_gives_one_too_many_is_found() -> None:
    """Ten at once and one each twentieth of a second are right; the eleventh at once is not."""
    right = [Span(0, 1)] * 10 + [Span(at * SECOND // 20, at * SECOND // 20 + 1) for at in range(1, 100)]
    assert excess(right, 20, 10) <= 0
    assert excess([*right, Span(0, 1)], 20, 10) > 0.99
    assert excess([*right, Span(2 * SECOND, 2 * SECOND + 1)], 20, 10) > 0.99


def test_a_call_that_took_long_is_no_violation() -> None:
    """It may have been decided at any time meanwhile."""
    assert excess([Span(0, 1)] * 10 + [Span(0, 5 * SECOND)], 1, 10) <= 0


@pytest.mark.parametrize(
    ("admitted", "refused", "unavailable", "used", "violations"),
    [
        (QUOTA, 5, 0, QUOTA, 0),
        (QUOTA - 1, 5, 1, QUOTA, 0),
        (QUOTA + 1, 5, 0, QUOTA, 2),  # one too many, and not counted
        (QUOTA + 1, 5, 0, QUOTA + 1, 2),  # one too many, and counted past the limit
        (QUOTA - 2, 5, 1, QUOTA, 1),  # one was counted without a call
        (QUOTA, 5, 3, QUOTA - 1, 1),  # one was not counted
    ],
)
def test_a_quota_is_judged_by_admitted_and_counted_calls(
    admitted: int, refused: int, unavailable: int, used: int, violations: int
) -> None:
    answers = Answers([Span(0, 1)] * admitted)
    answers.kinds.update(admitted=admitted, refused=refused, unavailable=unavailable)
    found = list(findings("quota-1", answers, used, strict=True, outages=0))
    assert sum(finding.is_violation for finding in found) == violations


def test_memory_and_descriptors_are_judged_by_their_course() -> None:
    steady = [(float(at), 50.0, 20 + at % 5) for at in range(100)]
    growing = [(float(at), 50.0 + at, 20 + at) for at in range(100)]
    assert (slope(steady), leaks(steady)) == (0.0, False)
    assert (round(slope(growing), 6), leaks(growing)) == (60.0, True)


def test_calls_that_are_lost_with_holds_are_allowed_up_to_their_bound() -> None:
    answers = Answers([Span(0, 1)] * 10)
    (right,) = [one for one in findings("quota-1", answers, 13, strict=True, outages=0, losses=3) if "lost" in one.said]
    (wrong,) = [one for one in findings("quota-1", answers, 14, strict=True, outages=0, losses=3) if "lost" in one.said]
    assert (right.is_violation, wrong.is_violation) == (False, True)


@pytest.mark.parametrize("hold_ms", [0, 100])
def test_limits_hold_while_everything_is_restarted(hold_ms: int) -> None:
    """Ten events, each of its kind at least once: no caller gets more than a limit, and admitted calls are counted."""
    report = soak("grpcio", "deny", PAUSE_SECONDS, lambda number: number < EVENTS, hold_ms)
    assert report.violations == []
    assert report.happened.total() == EVENTS
    assert set(report.answers) == set(KEYS)
    assert all(len(answers.admitted) >= 10 for answers in report.answers.values())
    assert sum(answers.kinds["refused"] for answers in report.answers.values()) > 0
