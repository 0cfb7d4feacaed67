"""When a delivery is tried again, which targets an alert has, and what they get."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from standardwebhooks import Webhook

from authz.control.alerts.dispatcher import secrets_of
from authz.control.alerts.matching import Named, body_of, matches
from authz.control.alerts.schedule import Attempt, Next, Schedule, retry_after_of
from authz.control.alerts.sending import new_secret
from authz.core.stored import AlertTarget
from authz.store.outbox import delivery_id, target_of
from authz.store.ports import Alert
from authz.store.sealing import Sealer

DAY = 86_400.0
FAILED = Attempt(503, "answered 503")
ALERT = Alert("1-0", "gold", "k1", None, "MONTH", "UNITS", 80, 81, 100, 0, 2_000_000, 1_000_000)


@pytest.mark.parametrize(
    ("attempts", "pause"), [(1, 5), (2, 15), (3, 45), (4, 135), (7, 3_645), (8, 7_200), (9, 7_200), (10_000, 7_200)]
)
def test_pauses_grow_threefold_to_two_hours(attempts: int, pause: float) -> None:
    assert Schedule().pause(attempts, 0.0) == pause
    assert Schedule().pause(attempts, 1.0) == pytest.approx(0.8 * pause)


def test_a_delivery_is_tried_for_a_day_and_then_given_up() -> None:
    schedule, age, attempts = Schedule(), 0.0, 0
    while True:
        attempts += 1
        following, pause = schedule.after(FAILED, attempts, age, 0.0)
        if following is Next.GIVE_UP:
            break
        age += pause
    assert (attempts, age) == (20, DAY)


@pytest.mark.parametrize(
    ("attempt", "expected"),
    [
        (Attempt(200), Next.DONE),
        (Attempt(204), Next.DONE),
        (Attempt(299), Next.DONE),
        (Attempt(302), Next.AGAIN),
        (Attempt(400), Next.AGAIN),
        (Attempt(404), Next.AGAIN),
        (Attempt(410), Next.DISABLE),
        (Attempt(500), Next.AGAIN),
        (Attempt(error="no answer"), Next.AGAIN),
    ],
)
def test_what_follows_from_an_answer(attempt: Attempt, expected: Next) -> None:
    assert Schedule().after(attempt, 1, 0.0, 0.0)[0] is expected


@pytest.mark.parametrize(
    ("asked", "age", "pause"),
    [(None, 0, 5), (2, 0, 5), (120, 0, 120), (10 * DAY, 0, DAY), (10 * DAY, DAY - 60, 60), (None, DAY - 1, 1)],
)
def test_a_longer_retry_after_is_obeyed_until_the_day_ends(asked: float | None, age: float, pause: float) -> None:
    attempt = Attempt(503, retry_after=asked)
    assert Schedule().after(attempt, 1, age, 0.0) == (Next.AGAIN, pause)


@given(st.integers(1, 100), st.floats(0, DAY), st.floats(0, 1), st.none() | st.floats(0, 1e9))
def test_no_pause_leads_beyond_the_day(attempts: int, age: float, chance: float, asked: float | None) -> None:
    following, pause = Schedule().after(Attempt(503, retry_after=asked), attempts, age, chance)
    assert age + pause <= DAY or following is Next.GIVE_UP
    assert pause >= 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120),
        (" 0 ", 0),
        ("9" * 50, 999_999_999),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("Thu, 01 Jan 1970 00:02:40 GMT", 60),
        ("Thu, 01 Jan 1970 00:00:40 GMT", 0),
        ("Thu, 01 Jan 1970 99:99:99 GMT", None),
        ("²", None),
        ("Mon, 01 Jan 2024 00:00:00 +9999999999999999999", None),
        ("Mon, 01 Jan 99999999999999999999 00:00:00", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(text: str, seconds: float | None) -> None:
    assert retry_after_of(text, now=100.0) == seconds


# --- targets ------------------------------------------------------------------------------------------------------


def target(**fields: Any) -> AlertTarget:
    return structs.replace(AlertTarget("t1", "pager", "https://x.example", 1, 1, "sealed"), **fields)


@pytest.mark.parametrize(
    ("fields", "customer", "expected"),
    [
        ({}, None, True),
        ({}, "acme", True),
        ({"enabled": False}, None, False),
        ({"customer_id": "acme"}, "acme", True),
        ({"customer_id": "acme"}, "other", False),
        ({"customer_id": "acme"}, None, False),
        ({"usage_plan_id": "gold"}, None, True),
        ({"usage_plan_id": "silver"}, None, False),
        ({"customer_id": "acme", "usage_plan_id": "gold"}, "acme", True),
        ({"customer_id": "acme", "usage_plan_id": "silver"}, "acme", False),
    ],
)
def test_which_alerts_a_target_gets(fields: dict[str, Any], customer: str | None, expected: bool) -> None:
    assert matches(target(**fields), Named(ALERT, customer)) == expected


def test_a_body_leaves_out_names_that_are_not_known() -> None:
    data = json.loads(body_of("a", Named(ALERT)))["data"]
    assert {"usagePlanName", "keyName", "customerId"}.isdisjoint(data)
    of_customer = replace(ALERT, key_id=None, customer_id="acme", end=None)
    data = json.loads(body_of("a", Named(of_customer, "acme", "Gold")))["data"]
    assert (data["customerId"], data["usagePlanName"]) == ("acme", "Gold")
    assert {"keyId", "start", "end"}.isdisjoint(data)


def test_the_id_of_a_delivery_names_its_target() -> None:
    assert target_of(delivery_id("1772618400000-0", "k3v9x2m8q1")) == "k3v9x2m8q1"


# --- secrets ------------------------------------------------------------------------------------------------------


def test_a_secret_has_the_form_that_libraries_take() -> None:
    secret = new_secret()
    assert secret.startswith("whsec_")
    Webhook(secret)
    assert secret != new_secret()


def test_the_previous_secret_signs_until_its_time_ends() -> None:
    sealer = Sealer([b"s" * 32])
    sealed = target(
        sealed_secret=sealer.seal("new", "t1"),
        previous_sealed_secret=sealer.seal("old", "t1"),
        previous_expires_at=100,
    )
    assert secrets_of(sealed, sealer, 99) == ("new", "old")
    assert secrets_of(sealed, sealer, 100) == ("new",)


def test_a_previous_secret_that_cannot_be_opened_is_left_out() -> None:
    """Its key was taken from the file; the current secret still signs."""
    sealer = Sealer([b"s" * 32])
    sealed = target(
        sealed_secret=sealer.seal("new", "t1"),
        previous_sealed_secret=Sealer([b"o" * 32]).seal("old", "t1"),
        previous_expires_at=100,
    )
    assert secrets_of(sealed, sealer, 99) == ("new",)
