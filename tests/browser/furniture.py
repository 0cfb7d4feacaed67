"""Things for the pages to show: what a shop has after a day, and what breaks a layout."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from tests.browser.world import World

LONG: Final = "Donaudampfschifffahrtsgesellschaft " * 6
UNBROKEN: Final = "x" * 200
MARKUP: Final = "<b>Bold</b> & <script>document.title='owned'</script> \"'><img src=x onerror=alert(1)>"
HUGE: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Furniture:
    """Ids of the things that tests name."""

    api: str
    gold: str
    acme: str
    used_up: str  # a key whose quota is used up

    def paths(self) -> Iterator[str]:
        """The pages of these things."""
        yield f"/console/keys/id/{self.used_up}"
        yield f"/console/plans/{self.gold}"
        yield f"/console/keys/customers/one?id={self.acme}"


def furnish(world: World) -> Furniture:
    """Make plans, customers and keys, and call with them."""
    api = world.tour.api()
    gold = _plan(world, api, "Gold", quota=5, throttle=(50, 100))
    _plan(world, api, LONG, quota=HUGE, throttle=(10_000, 5_000))
    _plan(world, api, UNBROKEN, quota=None, throttle=(1, 1))
    odd = _plan(world, api, MARKUP, quota=12)
    shadow = _plan(world, api, "Silver, on trial", quota=1, mode="shadow")
    for customer, name in (("acme", "ACME Ltd"), ("long", LONG), ("markup", MARKUP), (UNBROKEN[:100], UNBROKEN)):
        world.ask("PUT", f"/customers/{customer}", {"name": name})
    used_up = _key(world, gold, "acme-production", "acme")
    tried = _key(world, shadow, "acme-trial", "acme")
    others = [
        _key(world, gold, LONG, "long"),
        _key(world, odd, MARKUP, "markup"),
        _key(world, gold, UNBROKEN, UNBROKEN[:100]),
        _key(world, gold, "no-customer", None),
    ]
    assert 429 in world.call(api, used_up[1], 8)
    assert world.call(api, tried[1], 4) == [200] * 4
    for _, value in others:
        assert world.call(api, value) == [200]
    _targets(world)
    off = [{"op": "replace", "path": "/enabled", "value": "false"}]
    world.tour.wait(world.tour.aws.update_api_key(apiKey=others[-1][0], patchOperations=off))
    return Furniture(api, gold, "acme", used_up[0])


def _targets(world: World) -> None:
    """A target that answers, and one that refuses connections. A test is sent to each."""
    for name, url in (("Billing", world.upstream), (LONG, f"http://127.0.0.1:1/{UNBROKEN}")):
        made = world.ask("POST", "/alerts/targets", {"name": name, "url": url, "description": name})
        world.keep_secret(made["secret"])
        world.ask("POST", f"/alerts/targets/{made['id']}/test")


def _plan(
    world: World, api: str, name: str, *, quota: int | None, throttle: tuple[int, int] | None = None, mode: str = ""
) -> str:
    body: dict[str, Any] = {"name": name, "apiStages": [{"apiId": api, "stage": "prod"}]}
    if quota is not None:
        body["quotas"] = [{"limit": quota, "period": "DAY", "counts": "REQUESTS", "alerts": [80, 100]}]
    if throttle is not None:
        body["throttle"] = {"rateLimit": throttle[0], "burstLimit": throttle[1]}
    if mode:
        body["mode"] = mode
    return str(world.ask("POST", "/plans", body)["id"])


def _key(world: World, plan: str, name: str, customer: str | None) -> tuple[str, str]:
    return world.tour.key(plan, name=name, **({} if customer is None else {"customerId": customer}))
