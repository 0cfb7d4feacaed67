"""Time zones and their data."""

from __future__ import annotations

import zoneinfo

import pytest

from authz.core.zones import midnight, offset_us, zone_names, zone_of
from tests.conftest import micros


def test_every_zone_of_the_data_can_be_read() -> None:
    names = zone_names()
    assert {"Europe/Berlin", "America/Argentina/Buenos_Aires", "UTC"} <= names
    assert all(str(zone_of(name)) == name for name in names)


@pytest.mark.parametrize("name", ["Factory", "localtime", "Europe", "europe/berlin", "../zones", "/etc/localtime", ""])
def test_other_names_are_no_zones(name: str) -> None:
    with pytest.raises(KeyError, match="the installed tzdata has no time zone"):
        zone_of(name)


def test_the_data_are_not_the_machines_own() -> None:
    """Two machines with other data would begin a period at different moments."""
    known = zoneinfo.TZPATH
    zone_of.cache_clear()
    zoneinfo.reset_tzpath(to=[])
    try:
        assert midnight(zone_of("Asia/Tokyo"), 0) == micros("1970-01-01T00:00:00+09:00")
    finally:
        zoneinfo.reset_tzpath(to=known)


def test_without_a_zone_it_is_utc() -> None:
    assert offset_us(zone_of(None), micros("2026-07-01T00:00:00Z")) == 0
