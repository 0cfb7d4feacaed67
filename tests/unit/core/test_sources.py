"""A key with allowed sources is refused from every other address, before anything is charged."""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.core.catalog import Catalog, caller_of
from authz.core.request import Request
from authz.core.resources import ApiKey, Method
from authz.core.sources import client_address, range_problem, sources_of
from authz.core.verdict import Denied, Grant, Reason
from tests.conftest import micros
from tests.support.builders import api, key, resources
from tests.support.world import ask

NOW = micros("2026-03-04T10:00:00Z")
OFFICE = ("203.0.113.0/24", "2001:db8::/32")


@pytest.mark.parametrize(
    ("ranges", "address", "admitted"),
    [
        (("203.0.113.0/24",), "203.0.113.0", True),
        (("203.0.113.0/24",), "203.0.113.255", True),
        (("203.0.113.0/24",), "203.0.114.0", False),
        (("203.0.113.0/24",), "203.0.112.255", False),
        (("203.0.113.7",), "203.0.113.7", True),
        (("203.0.113.7",), "203.0.113.8", False),
        (("203.0.113.7/32",), "203.0.113.7", True),
        (("0.0.0.0/0",), "203.0.113.7", True),
        (("0.0.0.0/0",), "2001:db8::1", False),
        (("::/0",), "2001:db8::1", True),
        (("::/0",), "203.0.113.7", False),
        (("2001:db8::/32",), "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", True),
        (("2001:db8::/32",), "2001:db9::", False),
        (("2001:db8::1",), "2001:DB8:0:0:0:0:0:1", True),
        (("2001:db8::1",), "2001:db8::2", False),
        (("10.0.0.0/8", "203.0.113.7"), "203.0.113.7", True),
        (("10.0.0.0/8", "2001:db8::/32"), "2001:db8::1", True),
        (("203.0.113.0/24",), "::ffff:203.0.113.7", True),
        (("203.0.113.0/24",), "::ffff:cb00:7107", True),
        (("203.0.113.0/24",), "::ffff:203.0.114.7", False),
        (("::/0",), "::ffff:203.0.113.7", False),
        (("fe80::/10",), "fe80::1%eth0", True),
        (("0.0.0.0/0", "::/0"), "", False),
        (("0.0.0.0/0", "::/0"), "203.0.113.7:443", False),
        (("0.0.0.0/0", "::/0"), "[2001:db8::1]", False),
        (("0.0.0.0/0", "::/0"), "/run/envoy.sock", False),
        (("0.0.0.0/0", "::/0"), "203.0.113.007", False),
        (("0.0.0.0/0", "::/0"), "203.0.113.7, 10.0.0.1", False),
        (("0.0.0.0/0", "::/0"), " 203.0.113.7", False),
    ],
)
def test_an_address_is_compared_with_each_range(ranges: tuple[str, ...], address: str, admitted: bool) -> None:
    assert sources_of(ranges).admits(address) is admitted


ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


@given(st.data(), ADDRESSES, ADDRESSES)
def test_ranges_hold_what_the_standard_library_says(data: st.DataObject, base: Any, address: Any) -> None:
    length = data.draw(st.integers(0, base.max_prefixlen))
    network = ip_network((base, length), strict=False)
    text = str(network)
    if range_problem(text) is None:
        ends: tuple[Any, ...] = (network.network_address, network.broadcast_address)
        for one in (address, *ends):
            plain = (one.ipv4_mapped or one) if one.version == 6 else one
            assert sources_of((text,)).admits(str(one)) is (plain in network)


@given(ADDRESSES)
def test_a_single_address_holds_itself_alone(address: Any) -> None:
    if range_problem(str(address)) is None:
        found = sources_of((str(address),))
        other = ip_address(int(address) ^ 1) if address.version == 4 or int(address) > 2**33 else None
        assert found.admits(str(address))
        assert other is None or not found.admits(str(other))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("203.0.113.0/24", None),
        ("203.0.113.7", None),
        ("0.0.0.0/0", None),
        ("2001:db8::/32", None),
        ("2001:DB8::1", None),
        ("::1", None),
        ("::/0", None),
        ("10.1.2.3/8", "expected the first address of the range: 10.0.0.0/8, or 10.1.2.3 for that address alone"),
        ("2001:db8::1/32", "first address of the range: 2001:db8::/32, or 2001:db8::1 for that address alone"),
        ("::ffff:10.0.0.0/104", "expected the IPv4 form: 10.0.0.0/8"),
        ("::ffff:192.0.2.1", "expected the IPv4 form: 192.0.2.1/32"),
        ("", "expected an IPv4 or IPv6 address or range"),
        ("localhost", "expected an IPv4 or IPv6 address or range"),
        ("10.0.0.0/33", "expected an IPv4 or IPv6 address or range"),
        ("2001:db8::/129", "expected an IPv4 or IPv6 address or range"),
        ("10.0.0.0/255.0.0.0", "expected an IPv4 or IPv6 address or range"),
        ("10.0.0.0/0.255.255.255", "expected an IPv4 or IPv6 address or range"),
        ("deadbeefdeadbeefdeadbeef", "expected an IPv4 or IPv6 address or range"),
        ("10.0.0/8", "expected an IPv4 or IPv6 address or range"),
        ("010.0.0.0/8", "expected an IPv4 or IPv6 address or range"),
        ("10.0.0.0-10.0.0.9", "expected an IPv4 or IPv6 address or range"),
        ("10.0.0.*", "expected an IPv4 or IPv6 address or range"),
        (" 10.0.0.0/8", "expected an IPv4 or IPv6 address or range"),
        ("10.0.0.0/8\n", "expected an IPv4 or IPv6 address or range"),
        ("10.0.0.0/+8", "expected an IPv4 or IPv6 address or range"),
        ("\u0661\u0660.0.0.0/8", "expected an IPv4 or IPv6 address or range"),
        ("fe80::1%eth0", "expected an IPv4 or IPv6 address or range"),
        ("[2001:db8::1]", "expected an IPv4 or IPv6 address or range"),
        ("203.0.113.7:443", "expected an IPv4 or IPv6 address or range"),
    ],
)
def test_a_range_is_written_in_one_way(text: str, says: str | None) -> None:
    found = range_problem(text)
    assert found is None if says is None else says in str(found)


@pytest.mark.parametrize(
    ("request_", "address"),
    [
        (ask(), ""),
        (ask(source="203.0.113.7"), "203.0.113.7"),
        (ask(source="10.0.0.1", metadata={"authz.client": {"address": "203.0.113.7"}}), "203.0.113.7"),
        (ask(source="10.0.0.1", metadata={"authz.client": {"address": 7}}), ""),
        (ask(source="10.0.0.1", metadata={"authz.client": {}}), ""),
        (ask(source="10.0.0.1", metadata={"authz.client": ["203.0.113.7"]}), ""),
        (ask(source="10.0.0.1", metadata={"other": {"address": "203.0.113.7"}}), "10.0.0.1"),
        (ask(source="10.0.0.1", headers={"x-forwarded-for": "203.0.113.7", "authz.client": "x"}), "10.0.0.1"),
    ],
)
def test_the_clients_address_is_the_connections_unless_a_filter_left_another(request_: Request, address: str) -> None:
    """A header never counts. An unreadable address of a filter does not fall back to the connection's: a proxy's."""
    assert client_address(request_) == address


# --- the catalog --------------------------------------------------------------------------------------------------


def resolved(changed: ApiKey, **given_: Any) -> Reason | str:
    """The reason of a refusal, or the id of the key that is granted the call."""
    found = Catalog.compile(resources(api_keys=(changed,))).resolve(ask(**given_), NOW)
    assert isinstance(found, Grant | Denied)
    return found.reason if isinstance(found, Denied) else found.subject.key


THE_PAST = datetime(2026, 3, 4, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("changed", "source", "answer"),
    [
        (key(), "", "k1"),
        (key(), "not an address", "k1"),
        (key(allowed_sources=OFFICE), "203.0.113.7", "k1"),
        (key(allowed_sources=OFFICE), "2001:db8::7", "k1"),
        (key(allowed_sources=OFFICE), "198.51.100.1", Reason.SOURCE_NOT_ALLOWED),
        (key(allowed_sources=OFFICE), "", Reason.SOURCE_NOT_ALLOWED),
        (key(allowed_sources=OFFICE), "not an address", Reason.SOURCE_NOT_ALLOWED),
        (key(allowed_sources=OFFICE, enabled=False), "198.51.100.1", Reason.KEY_DISABLED),
        (key(allowed_sources=OFFICE, enabled=False), "203.0.113.7", Reason.KEY_DISABLED),
        (key(allowed_sources=OFFICE, expires_at=THE_PAST), "198.51.100.1", Reason.KEY_EXPIRED),
    ],
)
def test_a_key_opens_only_from_its_sources(changed: ApiKey, source: str, answer: Reason | str) -> None:
    assert resolved(changed, source=source) == answer


def test_each_call_is_compared_also_after_one_that_was_granted() -> None:
    """The catalog keeps grants; a kept one must not open for another address."""
    catalog = Catalog.compile(resources(api_keys=(key(allowed_sources=OFFICE),)))
    places = ["203.0.113.7", "198.51.100.1", "203.0.113.8", "", "2001:db8::1"]
    found = [catalog.resolve(ask(source=place), NOW) for place in places]
    assert [isinstance(one, Grant) for one in found] == [True, False, True, False, True]


def test_a_refusal_names_key_and_plan() -> None:
    found = Catalog.compile(resources(api_keys=(key(allowed_sources=OFFICE),))).resolve(ask(source="10.0.0.1"), NOW)
    assert isinstance(found, Denied)
    assert (found.subject.key, found.subject.plan) == ("k1", "p1")


def test_a_method_without_a_key_is_open_to_every_address() -> None:
    opened = api(resources={"/pets": {"GET": Method(api_key_required=False)}})
    changed = resources(apis=(opened,), api_keys=(key(allowed_sources=OFFICE),))
    assert isinstance(Catalog.compile(changed).resolve(ask(source="10.0.0.1"), NOW), Grant)


def test_keys_with_equal_ranges_share_the_compiled_ones() -> None:
    one, other = (caller_of(key(name, allowed_sources=(*OFFICE,)), ()) for name in ("k1", "k2"))
    assert one.sources is other.sources is not None
    assert caller_of(key("k3"), ()).sources is None


def test_a_key_taken_by_its_id_is_compared_where_the_address_is_known() -> None:
    """A line of the access log names the key, and the address only if it was refused for it."""
    catalog = Catalog.compile(resources(api_keys=(key(allowed_sources=OFFICE),)))
    caller = catalog.caller("k1")
    assert caller
    assert isinstance(catalog.resolve_as(caller, ask(key=None), NOW), Grant)
    assert isinstance(catalog.resolve_as(caller, ask(key=None, source="10.0.0.1"), NOW), Denied)
