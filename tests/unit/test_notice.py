"""A lasting state is logged when it begins, changes its reason or ends, and once a minute, in few lines."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from authz.notice import MAX_LINES, Notice


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


def _said(lines: list[Any]) -> list[tuple[str, str | None]]:
    return [(line["event"], line.get("reason")) for line in lines]


def test_it_is_said_once_and_when_the_reason_changes(time: Time) -> None:
    notice = Notice("away", clock=time, redis="redis://h")
    with capture_logs() as lines:
        for reason in ("a", "a", "b", "b", "a", "b"):
            notice.says(reason)
    assert _said(lines) == [("away", "a"), ("away", "b")]
    assert all(line["redis"] == "redis://h" for line in lines)
    assert notice.reason == "b"


def test_it_is_said_again_once_a_minute_with_the_number_left_out(time: Time) -> None:
    notice = Notice("away", clock=time)
    with capture_logs() as lines:
        for second in range(121):
            time.now = float(second)
            notice.says("a")
    assert [line.get("left_out") for line in lines] == [None, 59, 59]


def test_its_end_is_said_and_it_may_begin_anew(time: Time) -> None:
    notice = Notice("away", clock=time)
    with capture_logs() as lines:
        notice.ended("back")  # it has not begun
        notice.says("a")
        notice.ended("back")
        notice.ended("back")
        notice.says("a")
    assert _said(lines) == [("away", "a"), ("back", None), ("away", "a")]


def test_what_comes_and_goes_all_the_time_fills_no_disk(time: Time) -> None:
    notice = Notice("away", clock=time)
    with capture_logs() as lines:
        for number in range(1000):
            notice.says(f"reason {number}")
            notice.ended("back")
    assert len(lines) == 2 * MAX_LINES
    time.now = 60.0
    with capture_logs() as lines:
        notice.says("later")
    assert [line["left_out"] for line in lines] == [1000 - MAX_LINES]
