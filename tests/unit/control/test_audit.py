"""`GET /audit`: pages of who wrote what, and the lines that name one thing."""

from __future__ import annotations

from typing import Any

import pytest

from authz.store.ports import AuditLine
from tests.support.dictstore import DictStore
from tests.support.plane import Plane


def _whats(reply_body: Any) -> list[str]:
    return [line["what"] for line in reply_body["item"]]


@pytest.mark.parametrize(
    ("what", "item_id", "is_named"),
    [
        ("CreateApiKey apikey/k1", "k1", True),
        ("RotateApiKey k1 apikey/k1", "k1", True),
        ("UpdateApiKey k1", "k1", True),
        ("CreateUsagePlanKey p1 k1 (warned)", "k1", True),
        ("CreateApiKey apikey/k11", "k1", False),
        ("CreateApiKey apikey/k1.", "k1", False),
        ("PutCustomer big corp", "big corp", True),
        ("PutCustomer big corporation", "big corp", False),
        ("PutCustomer (a.*", "(a.*", True),
        ("PutCustomer xyz", ".*", False),
    ],
)
def test_a_line_names_an_id_as_a_whole_word(what: str, item_id: str, is_named: bool) -> None:
    assert AuditLine(1, 1, "admin", what).names(item_id) is is_named


def test_the_audit_is_read_in_pages_the_newest_line_first() -> None:
    plane = Plane(DictStore())
    for name in ("Silver", "Gold", "Bronze"):
        plane.call("POST", "/usageplans", {"name": name})
    first = plane.call("GET", "/audit?limit=2").body
    assert [line["version"] for line in first["item"]] == [3, 2]
    assert (first["item"][0]["who"], first["item"][0]["what"]) == ("admin", "CreateUsagePlan")
    rest = plane.call("GET", f"/audit?limit=2&position={first['position']}").body
    assert ([line["version"] for line in rest["item"]], "position" in rest) == ([1], False)


def test_the_audit_of_one_id_has_no_other_lines() -> None:
    plane = Plane(DictStore())
    for name in ("acme", "acme2"):
        plane.call("PUT", f"/customers/{name}", {})
    assert _whats(plane.call("GET", "/audit?id=acme").body) == ["PutCustomer acme"]


def test_the_audit_of_one_person_has_no_other_lines() -> None:
    store = DictStore()
    store.lines = ["ada PutCustomer acme", "grace PutCustomer acme", "adam PutCustomer acme", "ada DeleteCustomer x"]
    plane = Plane(store)
    assert _whats(plane.call("GET", "/audit?who=ada").body) == ["DeleteCustomer x", "PutCustomer acme"]
    assert _whats(plane.call("GET", "/audit?who=ada&id=acme").body) == ["PutCustomer acme"]


@pytest.mark.parametrize("query", ["key=k1", "position=x", "position=-1"])
def test_a_query_without_effect_is_refused(query: str) -> None:
    assert Plane(DictStore()).call("GET", f"/audit?{query}").status == 400
