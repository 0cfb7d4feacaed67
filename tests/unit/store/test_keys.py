"""The keys of the store in memory, with a store that answers when the test says so."""

from __future__ import annotations

import asyncio

import pytest

from authz.check import KeysUnavailable
from authz.core.catalog import UNLOOKED, Caller
from authz.core.resources import ApiKey, Customer, Override, ThrottleSettings, digest
from authz.core.stored import StoredCustomer, StoredKey
from authz.store.keys import MAX_UNKNOWN, StoreKeyCache
from authz.store.ports import Head, KeyLookup, StoreUnavailable

KEY = digest("the value of a key")
INDEX = KEY.hex()


class Shelf:
    """The store, the ring before it, and a clock. While `go` is unset, answers are held back."""

    def __init__(self, size: int = 100) -> None:
        self.keys: dict[str, StoredKey] = {}
        self.customers: dict[str, StoredCustomer] = {}
        self.version, self.asked, self.now, self.away, self.broken = 1, 0, 100.0, False, False
        self.go = asyncio.Event()
        self.go.set()
        self.ring = StoreKeyCache(self.look, size=size, away=lambda: self.away, clock=lambda: self.now)
        self.ring.heard(self.now)

    async def look(self, index: str) -> KeyLookup:
        self.asked += 1
        if self.broken:
            raise StoreUnavailable("down")
        key = self.keys.get(index)
        customer = self.customers.get(key.key.customer_id or "") if key else None
        found = KeyLookup(Head("e", self.version, str(self.version)), key, customer)
        await self.go.wait()
        return found

    def put(self, name: str = "k1", *, index: str = INDEX, **changes: object) -> None:
        """Write a key, without an event for the ring."""
        own = ("enabled", "customer_id", "billing_day")
        key = ApiKey(id=name, **{n: v for n, v in changes.items() if n in own})  # type: ignore[arg-type]
        rest = {n: v for n, v in changes.items() if n not in own}
        stored = StoredKey(key=key, index=index, created_date=1, last_updated_date=1, plans=("p.1",), **rest)  # type: ignore[arg-type]
        self.keys[index] = stored
        self.version += 1

    def put_customer(self, customer: str, **changes: object) -> None:
        """Write a customer, without an event for the ring."""
        self.customers[customer] = StoredCustomer(Customer(id=customer), 1, 1, **changes)  # type: ignore[arg-type]
        self.version += 1

    def tell(self, *indexes: str) -> None:
        """Deliver the event of the last write."""
        self.ring.touched(self.version, indexes or (INDEX,))

    def tell_customer(self, *customers: str) -> None:
        """Deliver the event of the last write, of these customers."""
        self.ring.touched(self.version, (), customers)


@pytest.fixture
async def shelf() -> Shelf:
    return Shelf()


def name(found: object) -> object:
    return found.id if isinstance(found, Caller) else found


async def test_a_key_is_looked_up_once(shelf: Shelf) -> None:
    shelf.put()
    assert shelf.ring.known(KEY) is UNLOOKED
    found = await shelf.ring.find(KEY)
    assert found == Caller("k1", enabled=True, expires_us=None, customer="", plans=("p.1",))
    assert (shelf.ring.known(KEY), shelf.asked) == (found, 1)


async def test_a_digest_without_a_key_is_remembered_until_there_is_one(shelf: Shelf) -> None:
    assert await shelf.ring.find(KEY) is None
    assert shelf.ring.known(KEY) is None
    shelf.put()
    shelf.tell()
    assert shelf.ring.known(KEY) is UNLOOKED
    assert name(await shelf.ring.find(KEY)) == "k1"


async def test_guesses_evict_no_real_key(shelf: Shelf) -> None:
    shelf.put()
    await shelf.ring.find(KEY)
    for guess in range(MAX_UNKNOWN + 1):
        await shelf.ring.find(digest(str(guess)))
    assert name(shelf.ring.known(KEY)) == "k1"
    assert shelf.ring.known(digest("0")) is UNLOOKED


async def test_memory_is_bounded() -> None:
    shelf = Shelf(size=2)
    for value in ("a", "b", "c"):
        shelf.put(value, index=digest(value).hex())
        await shelf.ring.find(digest(value))
    assert [name(shelf.ring.known(digest(value))) for value in ("a", "b", "c")] == [UNLOOKED, "b", "c"]


async def test_a_key_in_use_stays_however_many_come_once() -> None:
    shelf = Shelf(size=4)
    for value in ("used", *map(str, range(20))):
        shelf.put(value, index=digest(value).hex())
        await shelf.ring.find(digest(value))
        assert name(shelf.ring.known(digest("used"))) == "used"
    assert len(shelf.ring._callers) <= 4


async def test_a_change_drops_a_key_of_either_generation(shelf: Shelf) -> None:
    shelf = Shelf(size=2)
    for value in ("old", "young"):
        shelf.put(value, index=digest(value).hex())
        await shelf.ring.find(digest(value))
    shelf.tell(digest("old").hex(), digest("young").hex())
    assert [shelf.ring.known(digest(value)) for value in ("old", "young")] == [UNLOOKED, UNLOOKED]


async def test_all_who_wait_for_a_key_share_one_look_up(shelf: Shelf) -> None:
    """If one of them is cancelled, the others still get the answer."""
    shelf.put()
    shelf.go.clear()
    waiting = [asyncio.create_task(shelf.ring.find(KEY)) for _ in range(5)]
    await asyncio.sleep(0)
    waiting.pop(0).cancel()
    await asyncio.sleep(0)
    shelf.go.set()
    assert [name(found) for found in await asyncio.gather(*waiting)] == ["k1"] * 4
    assert shelf.asked == 1


async def test_an_answer_older_than_a_known_change_is_not_kept(shelf: Shelf) -> None:
    """The key was disabled during the look-up, so the look-up is repeated."""
    shelf.put()
    shelf.go.clear()
    waiting = asyncio.create_task(shelf.ring.find(KEY))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    shelf.put(enabled=False)
    shelf.tell()
    shelf.go.set()
    found = await waiting
    assert found is not None
    assert (found.enabled, shelf.asked) == (False, 2)
    assert shelf.ring.known(KEY) == found


async def test_an_answer_of_a_redis_that_lags_is_not_kept(shelf: Shelf) -> None:
    """The event came before the look-up, but the server that answers (a replica, a former master) lags behind it."""
    shelf.put()
    shelf.ring.touched(shelf.version + 1, (INDEX,))
    assert name(await shelf.ring.find(KEY)) == "k1"
    assert shelf.ring.known(KEY) is UNLOOKED
    shelf.ring.forget(shelf.version)
    await shelf.ring.find(KEY)
    assert name(shelf.ring.known(KEY)) == "k1"


async def test_an_answer_from_before_all_was_forgotten_is_not_kept(shelf: Shelf) -> None:
    """After a restore or a failover versions cannot be compared."""
    shelf.put()
    shelf.version = 1_000
    shelf.go.clear()
    waiting = asyncio.create_task(shelf.ring.find(KEY))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    shelf.keys.clear()
    shelf.version = 1
    shelf.ring.forget()
    shelf.go.set()
    assert await waiting is None


async def test_forgetting_forgets_known_and_unknown(shelf: Shelf) -> None:
    shelf.put()
    await shelf.ring.find(KEY)
    await shelf.ring.find(digest("another"))
    shelf.ring.forget()
    assert [shelf.ring.known(KEY), shelf.ring.known(digest("another"))] == [UNLOOKED, UNLOOKED]


async def test_memory_is_not_trusted_long_after_the_stream_was_read(shelf: Shelf) -> None:
    shelf.put()
    await shelf.ring.find(KEY)
    shelf.now += 0.51
    assert shelf.ring.known(KEY) is UNLOOKED
    shelf.keys.clear()
    assert await shelf.ring.find(KEY) is None


async def test_without_redis_known_keys_go_on_and_others_are_undecided(shelf: Shelf) -> None:
    """This holds for a new failure, and while look-ups are paused."""
    shelf.put()
    await shelf.ring.find(KEY)
    await shelf.ring.find(digest("unknown"))
    shelf.now += 0.51
    shelf.broken = True
    assert name(await shelf.ring.find(KEY)) == "k1"
    shelf.away = True
    asked = shelf.asked
    assert name(shelf.ring.known(KEY)) == "k1"
    for stranger in ("unknown", "never seen"):
        assert shelf.ring.known(digest(stranger)) is UNLOOKED
        with pytest.raises(KeysUnavailable):
            await shelf.ring.find(digest(stranger))
    assert shelf.asked == asked


async def test_the_secret_before_the_last_rotation_ends_when_it_was_said_to(shelf: Shelf) -> None:
    old = digest("the old value")
    shelf.put(previous_index=old.hex(), previous_expires_at=500)
    shelf.keys[old.hex()] = shelf.keys[INDEX]
    ends = [found and found.expires_us for found in (await shelf.ring.find(KEY), await shelf.ring.find(old))]
    assert ends == [None, 500_000_000]


# --- customers ----------------------------------------------------------------------------------------------------

FAST = Override(ThrottleSettings(9, 9))
SLOW = Override(ThrottleSettings(1, 1))


def stored_customer(customer: str, billing_day: int) -> StoredCustomer:
    return StoredCustomer(Customer(id=customer, billing_day=billing_day), 1, 1, {"p.1": FAST})


async def test_a_key_comes_with_its_overrides_and_its_customers_terms(shelf: Shelf) -> None:
    shelf.put(customer_id="acme", billing_day=3, overrides={"p.1": SLOW})
    shelf.customers["acme"] = stored_customer("acme", billing_day=15)
    found = await shelf.ring.find(KEY)
    assert found is not None
    assert (found.terms.billing_day, found.terms.overrides) == (3, {"p.1": SLOW})
    assert (found.customer_terms.billing_day, found.customer_terms.overrides) == (15, {"p.1": FAST})


async def test_a_customer_that_is_not_listed_has_no_terms(shelf: Shelf) -> None:
    shelf.put(customer_id="acme")
    found = await shelf.ring.find(KEY)
    assert found is not None
    assert (found.customer, found.customer_terms.billing_day, found.customer_terms.overrides) == ("acme", None, {})


async def test_a_change_of_a_customer_drops_all_its_keys_and_no_other(shelf: Shelf) -> None:
    values = {"a1": "acme", "a2": "acme", "a3": "acme", "g": "globex", "n": None}
    for value, customer in values.items():
        shelf.put(value, index=digest(value).hex(), customer_id=customer)
        await shelf.ring.find(digest(value))
    shelf.put_customer("acme")
    shelf.tell_customer("acme")
    dropped = [value for value in values if shelf.ring.known(digest(value)) is UNLOOKED]
    assert dropped == ["a1", "a2", "a3"]


async def test_a_key_that_moved_is_dropped_with_its_new_customer(shelf: Shelf) -> None:
    shelf.put(customer_id="acme")
    await shelf.ring.find(KEY)
    shelf.put(customer_id="globex")
    shelf.tell()
    await shelf.ring.find(KEY)
    shelf.tell_customer("acme")
    assert name(shelf.ring.known(KEY)) == "k1"
    shelf.tell_customer("globex")
    assert shelf.ring.known(KEY) is UNLOOKED


async def test_a_look_up_from_before_a_change_of_its_customer_is_repeated(shelf: Shelf) -> None:
    shelf.put(customer_id="acme")
    shelf.go.clear()
    waiting = asyncio.create_task(shelf.ring.find(KEY))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    shelf.put_customer("acme", overrides={"p.1": SLOW})
    shelf.tell_customer("acme")
    shelf.go.set()
    found = await waiting
    assert found is not None
    assert (found.customer_terms.overrides, shelf.asked) == ({"p.1": SLOW}, 2)


async def test_a_customer_of_an_evicted_key_takes_no_memory() -> None:
    shelf = Shelf(size=4)
    for n in range(40):
        shelf.put(str(n), index=digest(str(n)).hex(), customer_id=f"c{n % 15}")
        await shelf.ring.find(digest(str(n)))
        await shelf.ring.find(digest(str(n // 2)))
    assert len(shelf.ring._of_customer) <= 4
    shelf.ring.forget()
    assert len(shelf.ring._of_customer) == 0


async def test_a_key_that_was_evicted_and_came_back_follows_its_customer() -> None:
    """The evicted copy leaves memory later than the new one enters it."""
    shelf = Shelf(size=4)
    for value in ("k", "1", "2", "3", "4", "k", "5", "k", "6", "k", "7", "k"):
        shelf.put(value, index=digest(value).hex(), customer_id="acme" if value == "k" else None)
        if shelf.ring.known(digest(value)) is UNLOOKED:
            await shelf.ring.find(digest(value))
    shelf.put_customer("acme")
    shelf.tell_customer("acme")
    assert shelf.ring.known(digest("k")) is UNLOOKED
