"""Rows of usage in memory: their order, whatever they are grouped by."""

from __future__ import annotations

from itertools import combinations

import pytest

from authz.store.figures import Sums
from authz.store.report import PARTS, Group, Rows, in_order

WITHOUT_CUSTOMER = Group("silver", "", "k1", "solo", 20_516)
OF_A_CUSTOMER = Group("silver", "acme", "k2", "alpha", 20_516)


def _grouped(group: Group, by: tuple[str, ...]) -> Group:
    """The row's group as a query by these parts has it."""
    shown = {"customer" if part == "key" else part for part in by} | set(by)
    hidden = {part: None for part in PARTS if part not in shown}
    return group._replace(**hidden, **({} if "key" in by else {"key_name": None}))


@pytest.mark.parametrize("by", [by for size in (1, 2, 3, 4) for by in combinations(PARTS, size)], ids=",".join)
def test_keys_with_and_without_a_customer_are_sorted_together(by: tuple[str, ...]) -> None:
    """Rows without a customer come first."""
    groups = list(dict.fromkeys(_grouped(group, by) for group in (WITHOUT_CUSTOMER, OF_A_CUSTOMER)))
    rows: Rows = dict.fromkeys(reversed(groups), Sums(1, 1))
    assert list(in_order(rows)) == groups
