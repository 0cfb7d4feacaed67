"""The page of the audit."""

from __future__ import annotations

from urllib.parse import urlencode

from tests.support.pages import READER, Pages, next_page


def changed(*lines: str) -> Pages:
    pages = Pages(as_=READER)
    pages.store.lines = list(lines)
    return pages


def test_the_newest_change_comes_first_with_its_person() -> None:
    text = changed("ada CreateUsagePlan usageplan/p1", "grace DeleteUsagePlan p1").get("/console/audit").text
    assert text.index("DeleteUsagePlan p1") < text.index("CreateUsagePlan usageplan/p1")
    assert '<a href="/console/audit?who=grace">grace</a>' in text


def test_changes_can_be_searched_by_id_and_by_person() -> None:
    pages = changed("ada PutCustomer acme", "grace PutCustomer acme", "ada PutCustomer other")
    by_both = pages.get("/console/audit?id=acme&who=ada").text
    assert (by_both.count("<tr>"), 'value="acme"' in by_both, 'value="ada"' in by_both) == (2, True, True)
    assert "No change fits." in pages.get("/console/audit?id=nothing").text


def test_a_long_audit_has_pages_that_keep_the_search() -> None:
    pages = changed(*(f"ada PutCustomer c{number}" for number in range(120)), "grace PutCustomer x")
    first = pages.get("/console/audit?who=ada").text
    second = pages.get(next_page(first)).text
    assert ("PutCustomer c119" in first, "PutCustomer c19<" in first, "PutCustomer c19<" in second) == (
        True,
        False,
        True,
    )
    assert (first.count("<tr>"), second.count("<tr>"), 'rel="next"' in second) == (101, 21, False)


def test_a_position_that_no_page_gave_is_refused() -> None:
    assert changed("ada PutCustomer x").get("/console/audit?position=x").status_code == 400


def test_without_a_change_the_page_says_where_to_begin() -> None:
    assert 'href="/console/plans">Make a plan.</a>' in changed().get("/console/audit").text


def test_markup_in_a_line_or_a_search_is_shown_as_text() -> None:
    evil = '"><script>alert(1)</script>'
    pages = changed(f"{evil} PutCustomer {evil}")
    for query in ({}, {"id": evil, "who": evil}, {"id": evil}, {"who": evil}):
        assert "<script>alert" not in pages.get(f"/console/audit?{urlencode(query)}").text
