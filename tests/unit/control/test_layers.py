"""The layers of a plan in words, from the API's documents."""

from __future__ import annotations

from typing import Any

import pytest

from authz.control.pages.layers import plan_layers, quota_words
from authz.control.pages.words import throttle_words
from tests.unit.control.test_charts import draw

PLAN = {
    "throttle": {"rateLimit": 50.0, "burstLimit": 100},
    "quotas": [{"limit": 5000, "offset": 0, "period": "MONTH"}],
    "apiStages": [{"apiId": "a1", "stage": "prod", "throttle": {"/pets/GET": {"rateLimit": 5.0, "burstLimit": 10}}}],
}
STAGES = {"a1/prod": {"methodSettings": {"~1pets~1{id}/GET": {"throttlingRateLimit": 9.5, "throttlingBurstLimit": 20}}}}
ACCOUNT = {"throttleSettings": {"rateLimit": 10000.0, "burstLimit": 5000}}


def limits(plan: dict[str, Any], stages: dict[str, Any] | None = None) -> list[tuple[str, ...]]:
    return [box.limits for box in plan_layers(plan, stages or {}, {})]


def test_layers_stand_in_the_order_in_which_they_are_checked() -> None:
    boxes = plan_layers(PLAN | {"limitsPer": "KEY"}, STAGES, ACCOUNT)
    assert [(box.layer, box.holder) for box in boxes] == [
        ("plan_throttle", "each key"),
        ("plan_method_throttle", "each key"),
        ("plan_quota", "each key"),
        ("stage_method_throttle", "all callers together"),
        ("account_throttle", "all callers together"),
    ]
    assert [box.limits for box in boxes] == [
        ("50 a second, 100 at once",),
        ("GET /pets of a1/prod: 5 a second, 10 at once",),
        ("5,000 units a month",),
        ("GET /pets/{id} of a1/prod: 9.5 a second, 20 at once",),
        ("10,000 a second, 5,000 at once",),
    ]


def test_a_plan_of_customers_says_so_in_its_own_layers() -> None:
    holders = [box.holder for box in plan_layers(PLAN | {"limitsPer": "CUSTOMER"}, STAGES, ACCOUNT)]
    assert holders == ["each customer"] * 3 + ["all callers together"] * 2


def test_all_quotas_of_a_plan_have_words_and_throttles_may_count_units() -> None:
    pets = {"rateLimit": 5.0, "burstLimit": 10, "counts": "UNITS"}
    plan = {
        "throttle": {"rateLimit": 50.0, "burstLimit": 100, "counts": "UNITS"},
        "apiStages": [{"apiId": "a1", "stage": "prod", "throttle": {"/pets/GET": pets}}],
        "quotas": [{"limit": 5000, "period": "MONTH"}, {"limit": 10, "period": "HOUR", "counts": "REQUESTS"}],
    }
    assert limits(plan)[:3] == [
        ("50 units a second, 100 at once",),
        ("GET /pets of a1/prod: 5 units a second, 10 at once",),
        ("5,000 units a month", "10 requests an hour"),
    ]


def test_a_plan_without_limits_has_five_empty_layers() -> None:
    assert limits({}) == [()] * 5


@pytest.mark.parametrize(
    ("method", "settings", "expected"),
    [
        ("*/*", {"throttlingRateLimit": 1.0}, ("every method of a1/prod: 1 a second",)),
        ("pets/*", {"throttlingRateLimit": 1.0}, ("any method /pets of a1/prod: 1 a second",)),
        ("*/*", {"throttlingRateLimit": 1.0, "throttlingBurstLimit": -1}, ("every method of a1/prod: 1 a second",)),
        ("*/*", {"throttlingRateLimit": -1, "throttlingBurstLimit": -1}, ()),
        ("*/*", {"loggingLevel": "OFF"}, ()),
    ],
)
def test_methods_of_a_stage(method: str, settings: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert limits({}, {"a1/prod": {"methodSettings": {method: settings}}})[3] == expected


@pytest.mark.parametrize(
    ("quota", "words"),
    [
        ({"limit": 1, "period": "TOTAL"}, "1 units in all"),
        ({"limit": 9, "period": "WEEK", "offset": 1}, "9 units a week; from day 2 of the week"),
        ({"limit": 9, "period": "MONTH", "anchor": "BILLING_DAY"}, "9 units a month; from the billing day"),
        ({"limit": 9, "period": "DAY", "timeZone": "Asia/Tokyo"}, "9 units a day; by the clock of Asia/Tokyo"),
        ({"limit": 9, "period": "DAY", "overage": {"upTo": 2000}}, "9 units a day; 2,000 more at a price"),
        ({"limit": 9, "period": "DAY", "overage": {"upTo": "UNLIMITED"}}, "9 units a day; any number more at a price"),
        ({"limit": 9, "period": "DAY", "alerts": [100, 80]}, "9 units a day; alerts at 80 %, 100 %"),
    ],
)
def test_a_quota_in_words(quota: dict[str, Any], words: str) -> None:
    assert quota_words(quota) == words


@pytest.mark.parametrize(
    ("rate", "burst", "words"), [(0.000001, None, "0.000001 a second"), (1e6, 0, "1,000,000 a second, 0 at once")]
)
def test_a_throttle_in_words(rate: float, burst: int | None, words: str) -> None:
    assert throttle_words(rate, burst) == words


def test_the_drawing_names_each_layer_and_shows_a_missing_limit_in_words() -> None:
    html = draw("plan_layers", boxes=plan_layers(PLAN | {"limitsPer": "<b>"}, {}, {}), id="l")
    assert html.count("<li ") == 5
    assert "GET /pets of a1/prod: 5 a second, 10 at once" in html
    assert html.count("no limit") == 2
    assert "unlimited" in html
    assert "style=" not in html
