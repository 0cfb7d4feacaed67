"""Bounded memory: never above its size, and nothing that is in use is lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from authz.core.recent import Recent

sizes = st.integers(2, 12)
keys = st.integers(0, 20)
moves = st.lists(st.tuples(st.sampled_from(("get", "put", "put", "drop", "clear")), keys), max_size=200)


@given(sizes, moves)
def test_it_never_holds_more_than_its_size_nor_an_old_value(size: int, script: list[tuple[str, int]]) -> None:
    recent: Recent[int, int] = Recent(size)
    told: dict[int, int] = {}
    for value, (move, key) in enumerate(script):
        match move:
            case "put":
                recent.put(key, value)
                told[key] = value
            case "drop":
                recent.drop(key)
                told.pop(key, None)
            case "clear":
                recent.clear()
                told.clear()
        assert recent.get(key) in {told.get(key), None}
        assert len(recent) <= size


@given(sizes, moves)
def test_a_value_is_reported_when_it_is_evicted(size: int, script: list[tuple[str, int]]) -> None:
    """A value is in memory only until it is reported or dropped, and no more values than `size` go unreported."""
    told: dict[int, int] = {}

    def evicted(key: int, _: int) -> None:
        if key not in recent:
            told.pop(key, None)

    recent: Recent[int, int] = Recent(size, evicted)
    for value, (move, key) in enumerate(script):
        match move:
            case "get":
                recent.get(key)
            case "put":
                recent.put(key, value)
                told[key] = value
            case "drop":
                assert recent.drop(key) in {told.pop(key, None), None}
            case "clear":
                recent.clear()
                told.clear()
        assert {key for key in range(21) if key in recent} <= told.keys()
        assert len(told) <= size


@given(sizes, st.lists(keys, max_size=200))
def test_a_key_used_among_the_last_half_of_different_keys_is_there(size: int, used: list[int]) -> None:
    """A use is a hit or, where that misses, a put: as a cache is used."""
    recent: Recent[int, int] = Recent(size)
    for turn, key in enumerate(used):
        latest: list[int] = []
        for before in reversed(used[:turn]):
            if before not in latest:
                latest.append(before)
        found = recent.get(key)
        assert found == key or key not in latest[: size // 2]
        if found is None:
            recent.put(key, key)


@given(sizes, st.integers(0, 100))
def test_a_key_in_use_outlives_all_that_come_once(size: int, others: int) -> None:
    recent: Recent[str, int] = Recent(size)
    recent.put("used", 1)
    for other in range(others):
        recent.put(str(other), 1)
        if other % max(1, size // 2) == 0:
            assert recent.get("used") == 1
