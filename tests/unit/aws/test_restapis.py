"""The rules of an API's parts, on values."""

from __future__ import annotations

from authz.aws.restapis import with_setting, without_setting


def test_a_stored_setting_of_no_method_stops_no_change_of_another() -> None:
    """An older release may have stored such a key."""
    settings = {"pets": {"cachingEnabled": True}}
    changed = with_setting(settings, "pets/GET", "cachingEnabled", True)
    assert changed["pets/GET"]["cachingEnabled"]
    assert without_setting(changed, "pets/GET") == settings
