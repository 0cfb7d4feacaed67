"""The pages of keys and customers, and the page Explain, in one process over a dictionary store."""

from __future__ import annotations

import re
from typing import Any

import pytest

from authz.core.resources import (
    ApiKey,
    Customer,
    LimitsPer,
    Period,
    QuotaSettings,
    ThrottleSettings,
    UsagePlan,
    digest,
)
from authz.core.stored import StoredCustomer, StoredKey, StoredPlan
from tests.support.pages import READER, Pages
from tests.support.plane import SEALER

VALUE = "a-value-that-stands-out-of-all"
MARKUP = "<script>alert(1)</script>\"'&<b>"
ESCAPED = "&lt;script&gt;"

GOLD = StoredPlan(
    UsagePlan(
        "gold",
        "Gold",
        throttle=ThrottleSettings(rate_limit=10.0, burst_limit=20),
        quota=QuotaSettings(limit=1000, period=Period.MONTH),
    ),
    nonce="n",
)
SHARED = StoredPlan(
    UsagePlan("shared", "Shared", limits_per=LimitsPer.CUSTOMER, quota=QuotaSettings(limit=50, period=Period.DAY)),
    nonce="m",
)


def key(id_: str = "k1", name: str = "acme app", *plans: StoredPlan, **fields: Any) -> StoredKey:
    refs = tuple(plan.ref for plan in plans)
    value = SEALER.index(digest(VALUE))
    return StoredKey(ApiKey(id_, name, **fields), value, 1_700_000_000, 1_700_000_000, plans=refs)


def customer(id_: str = "acme", **fields: Any) -> StoredCustomer:
    return StoredCustomer(Customer(id_, **fields), 1_700_000_000, 1_700_000_000)


def stored(pages: Pages, id_: str = "k1") -> StoredKey:
    found = pages.store.items["apikey", id_]
    assert isinstance(found, StoredKey)
    return found


def whats(pages: Pages) -> list[str]:
    """The operations that wrote something."""
    return [line.split()[1] for line in pages.store.lines]


# --- every page ---------------------------------------------------------------------------------------------------

PAGES = [
    "/console/keys",
    "/console/keys?name=acme",
    "/console/keys?customer=acme",
    "/console/keys/unused?days=30",
    "/console/keys/customers",
    "/console/keys/customers/one?id=acme",
    "/console/keys/id/k1",
    "/console/explain",
    "/console/explain?key=k1",
]
FORMS = [
    "/console/keys/new",
    "/console/keys/customers/new",
    "/console/keys/customers/delete?id=acme",
    "/console/keys/id/k1/delete",
]
WRITES = [
    *FORMS,
    *(f"/console/keys/id/k1/{name}" for name in ("enabled", "rotate", "end-previous", "extend", "join", "leave")),
    *(f"/console/keys/id/k1/{name}" for name in ("override", "details", "tags")),
    *(f"/console/keys/customers/{name}?id=acme" for name in ("details", "override", "extend")),
]


def world() -> tuple[Any, ...]:
    return GOLD, SHARED, customer(), key("k1", "acme app", GOLD, SHARED, customer_id="acme")


@pytest.mark.parametrize("path", PAGES)
def test_a_reader_sees_each_page_without_a_form_that_writes(path: str) -> None:
    answer = Pages(*world(), as_=READER).get(path)
    assert answer.status_code == 200, answer.text
    actions = set(re.findall(r'<form[^>]*method="post" action="([^"]*)"', answer.text))
    assert actions <= {"/console/sign-out", "/console/zone", "/console/keys/search", "/console/explain"}
    assert "/keys/new" not in answer.text


@pytest.mark.parametrize("path", FORMS)
def test_a_reader_may_not_open_a_form_that_writes(path: str) -> None:
    assert Pages(*world(), as_=READER).get(path).status_code == 403


@pytest.mark.parametrize("path", WRITES)
def test_a_reader_may_not_send_a_form_that_writes(path: str) -> None:
    pages = Pages(*world(), as_=READER)
    assert pages.post(path, {"enabled": "false", "name": "x", "units": "1"}).status_code == 403
    assert pages.store.lines == []


@pytest.mark.parametrize("path", [*PAGES, *FORMS])
def test_an_owner_sees_each_page(path: str) -> None:
    answer = Pages(*world()).get(path)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("path", [*PAGES, *FORMS])
def test_a_store_without_anything_has_pages_that_say_what_to_do(path: str) -> None:
    named = "k1" in path or "id=" in path
    assert Pages().get(path).status_code == (404 if named and "explain" not in path else 200)
