"""What the other rooms know of the store: its values, its exceptions, and the Protocols they depend on."""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

from authz.aws.usage import CallerUse, Days
from authz.core.holders import HeldQuota, Holder, QuotaState
from authz.core.stored import Item, Items, StoredCustomer, StoredKey
from authz.store.figures import Overview, Sums

T = TypeVar("T")
R = TypeVar("R", bound=Item)

Name = tuple[str, str]  # of an item: kind and id
CallerName = tuple[str, str]  # of a caller: plan id and key id


# --- exceptions ---------------------------------------------------------------------------------------------------


class StoreUnavailable(Exception):  # noqa: N818  (a state of Redis, not a mistake)
    """Redis does not answer. A write may or may not have happened."""


class ConnectionLost(StoreUnavailable):
    """The connection was closed, perhaps long ago. Trying again at once may help."""


class StoreRefusal(Exception):  # noqa: N818  (an answer to the caller, not a mistake of ours)
    """The store refuses a call. The message is for an operator; the control plane has AWS's words for each kind."""


class InvalidPosition(StoreRefusal):
    """No page ends at this position."""


class ReadOnlyItem(StoreRefusal):
    """The item is the configuration file's."""

    def __init__(self, kind: str, item_id: str) -> None:
        super().__init__(f"The {kind} {item_id} is defined in the configuration file, and so read-only here")


class NotUnique(StoreRefusal):
    """Another item has a word that only one item may have, such as the digest of a key's value."""


class Contention(StoreRefusal):
    """Other writers won every attempt. Nothing was written."""


# --- values -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Head:
    """A state of the store: `version` counts its commits, and each commit has a random `tag`.

    `epoch` is random too. It changes when a backup is restored, and when the store begins again without its data.
    """

    epoch: str = ""
    version: int = 0
    tag: str = ""


@dataclass(frozen=True, slots=True)
class Page(Generic[R]):
    """Some items of a list, and the position after them; None on the last page."""

    items: list[R]
    position: str | None


@dataclass(frozen=True, slots=True)
class Event:
    """One commit: `previous` is the tag of the commit before it, `changes` the items that it wrote.

    `indexes` are the digests of all keys it touched, `usage` the callers whose counters were set.
    """

    version: int
    previous: str
    tag: str
    changes: tuple[Name, ...] = ()
    indexes: tuple[str, ...] = ()
    usage: tuple[CallerName, ...] = ()


@dataclass(frozen=True, slots=True)
class KeyLookup:
    """The key that a digest belongs to and its customer, if there are any, and the state of the store then."""

    head: Head
    key: StoredKey | None
    customer: StoredCustomer | None = None


@dataclass(frozen=True, slots=True)
class StoreSnapshot:
    """The items that a catalog is compiled from: no keys, only requested customers and deployments that stages use."""

    head: Head
    items: Items


@dataclass(frozen=True, slots=True)
class Presence:
    """A live worker, and the state of the store that it serves. `release` is its program's; "" for an older one."""

    worker: str
    epoch: str
    version: int
    release: str = ""


@dataclass(frozen=True, slots=True)
class Written(Generic[T]):
    """The result of an edit, and the version of the store that has it.

    `at_risk` says why a failover of Redis may lose the write: too few replicas have confirmed it. "" if enough have.
    """

    result: T
    version: int
    at_risk: str = ""


@dataclass(frozen=True, slots=True)
class BackupEntry:
    """A Redis key of the account: its name within the account, its DUMP, its remaining life in ms (None: no end)."""

    name: str
    value: bytes
    lasts: int | None = None

    @property
    def is_counter(self) -> bool:
        """True for the state of limits and usage; False for the store's own keys."""
        return not self.name.startswith("store:")


@dataclass(frozen=True, slots=True)
class UsageReading:
    """Usage records by key id, and Redis's time in µs. A key whose ledger cannot be read has no record."""

    now: int
    records: dict[str, CallerUse]


@dataclass(frozen=True, slots=True)
class Survey:
    """Some callers of a plan by key id, the states of some quotas by their names, and Redis's time in µs.

    Callers and quotas without use, or with bytes that are not ours, are left out. Rows lack the rest of the quota.
    """

    now: int
    records: dict[str, CallerUse]
    states: dict[tuple[str, ...], QuotaState]


@dataclass(frozen=True, slots=True)
class Alert:
    """A call that took a quota's `used` units to `percent` of its `limit`. Exactly one of key and customer is set.

    `start`, `end` (None: the period never ends) and `at` are µs of Unix time.
    """

    id: str
    plan_id: str
    key_id: str | None
    customer_id: str | None
    period: str
    counts: str
    percent: int
    used: int
    limit: int
    start: int
    end: int | None
    at: int


@dataclass(frozen=True, slots=True)
class AlertQuery:
    """The alerts to read: of a plan, a key or a customer, or all of them. `key_ids` are those of the customer."""

    plan_id: str | None = None
    key_id: str | None = None
    customer_id: str | None = None
    newest_first: bool = True
    key_ids: frozenset[str] = frozenset()

    def matches(self, alert: Alert) -> bool:
        return (
            self.plan_id in (None, alert.plan_id)
            and self.key_id in (None, alert.key_id)
            and (self.customer_id in (None, alert.customer_id) or alert.key_id in self.key_ids)
        )


@dataclass(frozen=True, slots=True)
class AlertPage:
    """Some alerts, and the position after them; None on the last page."""

    alerts: list[Alert]
    position: str | None


@dataclass(frozen=True, slots=True)
class AuditLine:
    """Who wrote a version of the store, and what; `at` in µs of Unix time."""

    version: int
    at: int
    who: str
    what: str

    def names(self, item_id: str) -> bool:
        """True if the line has this id as a word, or behind a kind, as `apikey/ID`."""
        return re.search(rf"(?:^|[ /]){re.escape(item_id)}(?: |$)", self.what) is not None


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """The lines to read: those that name an id, those of a person, or all of them."""

    names: str | None = None
    who: str | None = None

    def matches(self, line: AuditLine) -> bool:
        return self.who in (None, line.who) and (self.names is None or line.names(self.names))


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Some lines of the audit, and the position after them; None on the last page."""

    lines: list[AuditLine]
    position: str | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """An alert to send to a target: always under this id, and with this body.

    `created` is when it was made, `since` when the time for its attempts began (again): both in µs of Unix time.
    The fields `last_…` are those of the last attempt; `last_status` is None where no answer came.
    """

    id: str
    target_id: str
    body: str
    created: int
    since: int
    attempts: int = 0
    last_at: int | None = None
    last_status: int | None = None
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery that this process got at `at` and may send until `until`, in µs of Redis's clock."""

    delivery: Delivery
    at: int
    until: int


@dataclass(frozen=True, slots=True)
class OutboxReading:
    """The alerts that were not yet turned into deliveries, and what there is to do. Times are µs of Redis's clock.

    `missed` counts alerts that the stream had dropped before they were read. `due` are ids of targets with deliveries
    to send now, `pending` counts all that wait, `oldest` is when the oldest was made, `failing` counts targets.
    """

    now: int
    cursor: str
    position: int
    missed: int
    alerts: list[Alert]
    due: list[str]
    pending: int
    oldest: int | None
    failing: int


DeliveryState = Literal["pending", "failed", "delivered"]


@dataclass(frozen=True, slots=True)
class ListedDelivery:
    """A delivery in a list. `at` (µs) is when it became failed or delivered, or when a pending one is due."""

    delivery: Delivery
    state: DeliveryState
    at: int


@dataclass(frozen=True, slots=True)
class DeliveryPage:
    """Some deliveries, and the position after them; None on the last page."""

    deliveries: list[ListedDelivery]
    position: str | None


@dataclass(frozen=True, slots=True)
class StatesReading:
    """The states of quotas in the order of the request, and Redis's time in µs. None: the bytes are not ours."""

    now: int
    states: list[QuotaState | None]


@dataclass(frozen=True, slots=True)
class Adjusted:
    """What remains of a quota was set, or units were granted to it, at `now` (µs).

    `used` is below 0 if more remains than the limit. `requests` and `units` are those of the caller's day, 0 for a
    quota that is not in a caller's ledger. A `repeated` grant had been made before, and changed nothing.
    """

    now: int
    used: int
    requests: int = 0
    units: int = 0
    repeated: bool = False


# --- Protocols ----------------------------------------------------------------------------------------------------


class ItemSource(Protocol):
    """Reads items by kind and id: a store, or a draft of an edit."""

    async def get(self, kind: str, item_id: str) -> Item | None: ...

    async def many(self, kind: str, ids: Sequence[str]) -> list[Item | None]:
        """The items of these ids, None for each that does not exist."""
        ...

    async def members(self, list_: str) -> list[str]:
        """The ids in a list, the newest first, and then the configuration file's."""
        ...


class Draft(ItemSource, Protocol):
    """An edit before its commit. Everything it reads becomes a condition of the commit."""

    def put(self, item: Item, *, taken: Exception | None = None) -> None:
        """Raises ReadOnlyItem. The commit raises `taken` (default: NotUnique) if a unique word has another owner."""
        ...

    def delete(self, kind: str, item_id: str) -> None:
        """Raises ReadOnlyItem."""
        ...

    def drop(self, list_: str) -> None:
        """Delete a list, although its members still name it."""
        ...

    def record(self) -> None:
        """Commit even without a change, so that the audit has a line."""
        ...

    def disjoint(self, list_a: str, list_b: str, otherwise: Exception) -> None:
        """Commit only if these lists have no member in common; else the commit raises `otherwise`."""
        ...


class Reader(ItemSource, Protocol):
    """Reads the store: items, lists and pages."""

    async def page(self, kind: str, list_: str, limit: int, position: str | None = None) -> Page[Any]:
        """Items of a list, the newest first. Raises InvalidPosition."""
        ...

    async def search(
        self, prefix: str, limit: int, position: str | None = None, within: str | None = None
    ) -> Page[StoredKey]:
        """Keys in the order of their words in `Indexes.sorted`; with `within`, only members of that list.

        A page with `within` may be short, or empty, and have a position. Raises InvalidPosition.
        """
        ...

    async def count(self, list_: str) -> int:
        """The number of ids in a list."""
        ...

    async def owner(self, unique: str) -> str | None:
        """The item that owns a unique word, as `kind/id`."""
        ...

    async def head(self) -> Head: ...

    async def find(self, index: str) -> KeyLookup:
        """Look up a key and its customer by the digest (hex) of the value, or of the value before the last rotation."""
        ...

    async def snapshot(self, customers: Sequence[str] = ()) -> StoreSnapshot:
        """The items that a catalog is compiled from; of the customers only those of these ids."""
        ...

    async def presences(self) -> list[Presence]:
        """The live workers that follow this store."""
        ...

    async def audit(self, query: AuditQuery, limit: int, position: str | None = None) -> AuditPage:
        """Up to `limit` lines of the audit, the newest first.

        A page may have fewer lines although others follow. Raises InvalidPosition.
        """
        ...


class Writer(Reader, Protocol):
    """Reads and writes the store."""

    @property
    def address(self) -> str:
        """Where the store is, without a password: for logs."""
        ...

    def draft(self) -> Draft:
        """An edit that can be tried and is never committed."""
        ...

    async def write(
        self, edit: Callable[[Draft], Awaitable[T]], *, who: str, what: str, note: Callable[[], str] = str
    ) -> Written[T]:
        """Run `edit` and commit it, whole or not at all; run it again if it lost a race.

        The audit line ends with `note()`, read after the edit. Raises what `edit` raises, ReadOnlyItem, NotUnique,
        Contention and StoreUnavailable.
        """
        ...


class ChangeFeed(Protocol):
    """Follows the store, and announces what its reader serves."""

    @property
    def address(self) -> str: ...

    async def head(self) -> Head: ...

    async def snapshot(self, customers: Sequence[str] = ()) -> StoreSnapshot:
        """The items that a catalog is compiled from; of the customers only those of these ids."""
        ...

    async def changes(self, after: int, block_ms: int) -> list[Event]:
        """The commits after a version, in order. Waits up to `block_ms` for the first."""
        ...

    async def hang_up(self) -> None:
        """Close the connections, so that the next command connects anew: the server's name may have moved."""
        ...

    async def drop_idle(self) -> None:
        """Close the connections that are idle: they may be as dead as one that has not answered."""
        ...

    async def renew_presence(self, worker: str, served: Head, release: str = "") -> Head:
        """Announce for a few seconds that `worker` serves this state. Returns the state of the store."""
        ...

    async def drop_presence(self, worker: str) -> None: ...

    async def aclose(self) -> None: ...


class Archive(Protocol):
    """Takes and restores backups."""

    def dump(self) -> AsyncIterator[BackupEntry]:
        """The store as of one moment, and then the counters. Raises Contention."""
        ...

    async def load(self, backup: AsyncIterable[BackupEntry]) -> int:
        """Replace the account's keys with a backup, under a new epoch. Returns the number of Redis keys. Raises
        Contention."""
        ...


class Usage(Protocol):
    """Reads and sets what callers have used."""

    async def read(self, plan_id: str, key_ids: Sequence[str], days: Days, *, refused: bool = False) -> UsageReading:
        """The records of these keys in a plan, with the rows of these days, and with `refused` the refused calls."""
        ...

    async def uses(self, callers: Sequence[CallerName], days: Days) -> dict[CallerName, CallerUse]:
        """The records of keys in any plans, with the rows and the refused calls of these days."""
        ...

    async def alerts(self, query: AlertQuery, limit: int, position: str | None = None) -> AlertPage:
        """Up to `limit` alerts after a position. Raises InvalidPosition."""
        ...

    @property
    def kept_days(self) -> int:
        """The days after its last call for which a caller's usage is kept at least in part."""
        ...

    async def last_days(self, callers: Sequence[CallerName]) -> tuple[int, dict[CallerName, int | None]]:
        """Today, and the last day on which a call of each caller was counted; None if no such day is kept.

        Days are numbers since 1970. A caller whose usage can't be read is left out.
        """
        ...

    async def top(self, plan_id: str, key_ids: Sequence[str], count: int) -> list[tuple[str, int]]:
        """Up to `count` keys with the most calls today (UTC), and their calls. Keys without a call are left out."""
        ...

    async def states(self, quotas: Sequence[HeldQuota]) -> StatesReading:
        """The stored states of these quotas."""
        ...

    async def redis_time(self) -> int:
        """Redis's time in µs."""
        ...

    async def survey(
        self, plan_id: str, key_ids: Sequence[str], days: Sequence[int], quotas: Sequence[HeldQuota]
    ) -> Survey:
        """The records of keys in a plan with the rows of these days, and the states of quotas."""
        ...

    async def overview(self) -> Overview | None:
        """The figures of the last sweep; None before the first one has ended."""
        ...

    async def keep_overview(self, overview: Overview) -> None: ...

    async def plan_days(self, plan_id: str | None, days: Days) -> dict[int, Sums]:
        """The kept sums of a plan, or of all plans, by day."""
        ...

    async def keep_days(self, plan_id: str | None, days: Sequence[int], sums: Mapping[int, Sums]) -> None:
        """Replace the sums of a plan, or of all plans, on each of these days."""
        ...

    async def lease(self, holder: str, seconds: int) -> bool:
        """Take or renew the lease to sweep. Returns False while another holder has it."""
        ...

    async def release(self, holder: str) -> None:
        """Give the lease back."""
        ...

    async def set_remaining(
        self, plan_id: str, holder: Holder, quota: HeldQuota, remaining: int, *, who: str, what: str
    ) -> Written[Adjusted]:
        """Set what remains in the current period. Setting it twice is setting it once."""
        ...

    async def grant(
        self, plan_id: str, holder: Holder, quota: HeldQuota, units: int, *, name: str, who: str, what: str
    ) -> Written[Adjusted]:
        """Add units to what remains in the current period. A grant of this name that was made before is not repeated.

        Raises StoreRefusal if the name is another grant's.
        """
        ...


class Tokens(Protocol):
    """Keeps values under secret tokens, each for a limited time. All methods raise StoreUnavailable."""

    async def put(self, kind: str, token: str, value: bytes, seconds: int) -> None: ...

    async def add(self, kind: str, token: str, value: bytes, seconds: int) -> bool:
        """Put a value, unless there is one. True if it was put."""
        ...

    async def replace(self, kind: str, token: str, value: bytes, seconds: int) -> None:
        """Put a value in place of another. Does nothing if there is none any more."""
        ...

    async def find(self, kind: str, token: str, extend_seconds: int | None = None) -> bytes | None:
        """The value, if its time is not over. With `extend_seconds` its time begins again."""
        ...

    async def take(self, kind: str, token: str) -> bytes | None:
        """The value, once: it is deleted in the same step."""
        ...


class Outbox(Protocol):
    """Keeps the deliveries of alerts. Several processes may work on one outbox, and each may end at any moment."""

    async def look(self, count: int) -> OutboxReading:
        """Read up to `count` alerts behind the cursor, and which targets have something to send."""
        ...

    async def add(self, reading: OutboxReading, deliveries: Sequence[Delivery]) -> bool:
        """Add deliveries and move the cursor behind the alerts of the reading, both or neither.

        False if another process has moved it. Of a target with too many pending deliveries, a further one fails.
        """
        ...

    async def claim(self, target_id: str) -> Claimed | None:
        """Lease a delivery of the target that is due."""
        ...

    async def delivered(self, claimed: Claimed, delivery: Delivery) -> None: ...

    async def retry(self, claimed: Claimed, delivery: Delivery, pause: float) -> None:
        """Make the delivery due again after `pause` seconds."""
        ...

    async def failed(self, claimed: Claimed, delivery: Delivery) -> None: ...

    async def end(self, target_id: str, reason: str) -> int:
        """Let all pending deliveries of the target fail. Returns how many."""
        ...

    async def forget(self, target_id: str) -> None:
        """Remove all deliveries of the target."""
        ...

    async def failed_one(self, delivery_id: str) -> Delivery | None:
        """The failed delivery with this id."""
        ...

    async def resend(self, delivery_id: str) -> bool:
        """Make a failed delivery due now. False if it is not failed, or no longer."""
        ...

    async def page(
        self, state: DeliveryState, limit: int, position: str | None = None, target_id: str | None = None
    ) -> DeliveryPage:
        """Deliveries in a state: the newest first; pending ones the longest waiting first. Raises InvalidPosition."""
        ...

    async def failing_since(self, target_ids: Sequence[str]) -> dict[str, int]:
        """For each of these targets whose attempts fail: when the first of them failed (µs)."""
        ...
