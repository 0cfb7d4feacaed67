"""Bounds of the control plane's connections and bodies: strangers make room, known callers stay."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.aws.errors import ApiError
from authz.control.bodies import FREE_BYTES, Body, Budget
from authz.control.connections import Connection, Connections, address_of


class Peer:
    """Stands in for a connection: an address, and whether it was closed."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.is_open = True

    @property
    def transport(self) -> Peer:
        return self

    def abort(self) -> None:
        self.is_open = False


def peer(address: str = "192.0.2.1") -> Any:
    return Peer(address)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (("192.0.2.1", 4000), "192.0.2.1"),
        (("::ffff:192.0.2.1", 4000, 0, 0), "192.0.2.1"),
        (("2001:db8:1:2:3:4:5:6", 4000, 0, 0), "2001:db8:1:2::/64"),
        (("2001:db8:1:2::9", 4000, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 4000, 0, 2), "fe80::/64"),
        ("", ""),
        (None, ""),
    ],
)
def test_bounds_are_kept_for_an_address_or_an_ipv6_network(name: Any, expected: str) -> None:
    assert address_of(name) == expected


def test_the_oldest_stranger_of_an_address_makes_room_for_its_next() -> None:
    connections = Connections(most=10, strangers_per_address=2)
    first, second, elsewhere, third = peer(), peer(), peer("192.0.2.2"), peer()
    for each in (first, second, elsewhere, third):
        connections.enter(each)
    assert [each.is_open for each in (first, second, elsewhere, third)] == [False, True, True, True]


def test_the_oldest_stranger_of_all_makes_room_where_there_is_none() -> None:
    connections = Connections(most=2, strangers_per_address=2)
    first, second, third = (peer(f"192.0.2.{number}") for number in range(3))
    for each in (first, second, third):
        connections.enter(each)
    assert [each.is_open for each in (first, second, third)] == [False, True, True]


def test_a_caller_with_right_credentials_is_never_sent_away() -> None:
    connections = Connections(most=3, strangers_per_address=2)
    caller = peer()
    connections.enter(caller)
    connections.prove(caller)
    for _ in range(10):
        connections.enter(peer())
    assert caller.is_open


def test_where_all_are_callers_a_stranger_is_not_taken_on() -> None:
    connections = Connections(most=1)
    caller, stranger = peer(), peer("192.0.2.2")
    connections.enter(caller)
    connections.prove(caller)
    connections.enter(stranger)
    assert (caller.is_open, stranger.is_open) == (True, False)


@given(st.lists(st.tuples(st.sampled_from(["enter", "prove", "leave"]), st.integers(0, 3), st.integers(0, 9))))
def test_whatever_comes_and_goes_the_bounds_hold(steps: list[tuple[str, int, int]]) -> None:
    connections, inside = Connections(most=5, strangers_per_address=2), list[Any]()
    proven = set[int]()
    for step, address, index in steps:
        if step == "enter":
            inside.append(peer(str(address)))
            connections.enter(inside[-1])
        elif inside:
            chosen = inside[index % len(inside)]
            if step == "leave":
                chosen.is_open = False
                connections.leave(chosen)
            elif chosen.is_open:
                connections.prove(chosen)
                proven.add(id(chosen))
        opened = [each for each in inside if each.is_open]
        strangers = [each.address for each in opened if id(each) not in proven]
        assert len(opened) <= 5
        assert all(strangers.count(address) <= 2 for address in strangers)


async def arriving(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


CHUNK = b"x" * FREE_BYTES


async def test_small_bodies_of_strangers_need_no_budget() -> None:
    assert await Body(arriving(CHUNK), FREE_BYTES, Budget(total=0)).read() == CHUNK


@pytest.mark.parametrize("bound", ["total", "per_address"])
async def test_large_bodies_of_strangers_wait_for_others(bound: str) -> None:
    room = {"total": 10 * FREE_BYTES, "per_address": 10 * FREE_BYTES, bound: FREE_BYTES}
    budget = Budget(**room)
    first, second = (Body(arriving(CHUNK, CHUNK), 10 * FREE_BYTES, budget) for _ in range(2))
    assert len(await first.read()) == 2 * FREE_BYTES
    with pytest.raises(ApiError) as refusal:
        await second.read()
    assert (refusal.value.status, refusal.value.retry_after) == (503, 1)
    second.close()
    first.prove()
    assert len(await Body(arriving(CHUNK, CHUNK), 10 * FREE_BYTES, budget).read()) == 2 * FREE_BYTES


async def test_the_body_of_a_known_caller_needs_no_budget() -> None:
    body = Body(arriving(CHUNK, CHUNK), 10 * FREE_BYTES, Budget(total=0))
    body.prove()
    assert len(await body.read()) == 2 * FREE_BYTES


def test_the_protocol_has_the_connections_it_was_made_for() -> None:
    """Uvicorn makes a protocol of the class it is given: two servers must not share their bounds."""
    one, other = Connections(), Connections()
    assert cast("Any", Connection.among(one))._connections is one
    assert cast("Any", Connection.among(other))._connections is other
