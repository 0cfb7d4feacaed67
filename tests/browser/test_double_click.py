"""A form whose button is clicked twice makes one thing, with JavaScript and without."""

from __future__ import annotations

from tests.browser.world import World


def test_a_double_click_makes_one_key(world: World, scripts: bool) -> None:
    name = f"twice {'with' if scripts else 'without'} scripts"
    with world.owner(scripts=scripts) as tab:
        tab.open("/console/keys/new").fill("Name", name)
        tab.page.get_by_role("button", name="Make the key").dblclick()
        tab.page.wait_for_url("**/console/keys/id/*")
        assert name in tab.text
    found = world.ask("GET", f"/apikeys?name={name.replace(' ', '%20')}")
    assert [key["name"] for key in found["item"]] == [name]
