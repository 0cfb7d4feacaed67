"""A customer who edits every id in every request reads and changes nothing of another customer."""

from __future__ import annotations

import random

import pytest

from tests.support.intruder import attack, intruded

REQUESTS = 500


@pytest.mark.parametrize("seed", range(6))
def test_edited_requests_read_and_change_nothing_of_others(seed: int) -> None:
    """`python -m tests.fuzz portal` sends more of them."""
    pages, chance = intruded(), random.Random(seed)
    for _ in range(REQUESTS):
        attack(pages, chance)
