"""The input and the output of a handler of the control plane: a call and an answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeVar

from authz.aws.errors import bad_request
from authz.aws.plans import checked_value
from authz.control import inputs
from authz.control.alerts.sending import Sender
from authz.core.keyform import DEFAULT_PREFIX, KeyForm
from authz.core.request import Request
from authz.core.stored import Items, StoredKey
from authz.doctor.facts import Redis
from authz.envoy.accesslog import LogLine
from authz.ids import random_key_value
from authz.store.ports import Draft, Outbox, Usage, Writer, Written
from authz.store.sealing import Sealer

T = TypeVar("T")

REGION: Final = "us-east-1"  # the region of a caller who does not sign
PAGE: Final = 25  # AWS's default page size
MAX_PAGE: Final = 500
PAGING: Final = ("limit", "position")  # the query parameters that `Call.paging` reads
ID_LENGTH: Final = 256  # characters of an id in the audit stream; callers choose the ids in a path
WARNING_LENGTH: Final = 250  # characters of one warning
MAX_WARNINGS: Final = 4  # in one answer; a header that is longer than 1 kB breaks clients


Fields = Mapping[str, Sequence[str]]  # a query string: the values of each name


def first(fields: Fields, name: str) -> str | None:
    return next(iter(fields.get(name, ())), None) or None


def flag(fields: Fields, name: str) -> bool:
    return (first(fields, name) or "").lower() == "true"


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller, and the region that the signature names. `credential_id` is None for a caller without one."""

    name: str
    read_only: bool = False
    region: str = REGION
    credential_id: str | None = None


@dataclass(frozen=True, slots=True)
class Alerts:
    """What the operations on alerts use: the deliveries, and the sender of a test."""

    outbox: Outbox
    sender: Sender


@dataclass(frozen=True, slots=True)
class Context:
    """The values that all calls share. `now` returns seconds of Unix time, `fixed` the configuration file's items.

    `domain_target` is the host to which the DNS record of a custom domain should point.
    """

    store: Writer
    usage: Usage
    sealer: Sealer
    account_id: str
    now: Callable[[], int]
    fixed: Callable[[], Items]
    explain: Callable[[Request, LogLine | None, StoredKey | None], Awaitable[str]]
    domain_target: str | None = None
    key_prefix: str = DEFAULT_PREFIX  # of the values that are made here
    alerts: Alerts | None = None  # None in a context that serves no operation on alerts
    look_at_redis: Callable[[], Awaitable[Redis]] | None = None  # raises UnreachableError; None without GetSystem

    @property
    def form(self) -> KeyForm | None:
        """The form of the values that are made here."""
        return KeyForm.of(self.key_prefix)

    def key_value(self, given: str | None) -> str:
        """A value that a caller has given for a key, checked; a new one if there is none. Raises ApiError."""
        return checked_value(given, self.form) if given else random_key_value(self.key_prefix)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a call.

    A `body` of None is no body. Bytes are sent unchanged, an async iterator of bytes piece by piece. Any other value
    becomes JSON.
    """

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an operation.

    `params` are the decoded parts of the path. `versions` are the store's versions that the call wrote.
    `accept` is the Accept header, with the media types that the caller takes, and `host` the Host header.
    `warnings` are for the caller, such as a setting that is accepted but has no effect.
    """

    context: Context
    operation: str
    params: Mapping[str, str]
    query: Fields
    body: bytes
    principal: Principal
    accept: str = ""
    host: str = ""
    versions: list[int] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        """Add a warning to the answer, the log and the audit stream.

        A repeated text counts once, because the store may run an edit again. Characters outside of ASCII become `?`.
        """
        plain = "".join(each if " " <= each <= "~" else "?" for each in text)[:WARNING_LENGTH]
        if plain not in self.warnings:
            self.warnings.append(plain)

    def warned(self) -> str:
        """The first MAX_WARNINGS warnings and the number of the others, in one line; "" without warnings."""
        more = len(self.warnings) - MAX_WARNINGS
        return "; ".join((*self.warnings[:MAX_WARNINGS], *((f"and {more} more",) if more > 0 else ())))

    def read(self, kind: type[T]) -> T:
        """The body as a struct. Raises SerializationException or ValidationException, as AWS words them."""
        return inputs.read(self.body, kind, self.operation)

    def read_strictly(self, kind: type[T]) -> T:
        """The body as a struct of ours. Raises BadRequestException with the address of each mistake."""
        return inputs.read_strictly(self.body, kind)

    def one(self, name: str) -> str | None:
        """The first value of a query parameter; None where it is absent or empty."""
        return first(self.query, name)

    def flag(self, name: str) -> bool:
        return flag(self.query, name)

    def refuse_others(self, *known: str) -> None:
        """Raise BadRequestException for a query parameter without effect: a misspelt one would widen the answer."""
        if others := [name for name in self.query if name not in known]:
            expected = f"some of {', '.join(known)}" if known else "none"
            raise bad_request(f"Unknown query parameter {others[0][:50]!r}: expected {expected}")

    def paging(self) -> tuple[int, str | None]:
        """The size of the requested page, and its position."""
        text = self.one("limit")
        try:
            limit = PAGE if text is None else int(text[:20])
        except ValueError:
            raise bad_request("Invalid limit: expected a number") from None
        return min(limit, MAX_PAGE) if limit >= 1 else PAGE, self.one("position")

    async def write(self, edit: Callable[[Draft], Awaitable[T]], *ids: str) -> T:
        """Commit an edit under the caller's name. The audit stream gets `ids`, of new resources, beside the path's."""
        what = " ".join((self.operation, *(name[:ID_LENGTH] for name in (*self.params.values(), *ids))))
        written = await self.context.store.write(edit, who=self.principal.name, what=what, note=self.warned)
        self.wrote(written)
        return written.result

    def wrote(self, written: Written[Any]) -> None:
        """Remember the version for the answer, and warn if a failover of Redis may lose the write."""
        self.versions.append(written.version)
        if written.at_risk:
            self.warn(f"written, and lost if the master of Redis fails now: {written.at_risk}")


Handler = Callable[[Call], Awaitable[Answer]]


class Operation(NamedTuple):
    """An operation of the API: `path` is as `/apikeys/{api_Key}`, `mode` the required value of that query parameter."""

    name: str
    verb: str
    path: str
    handler: Handler
    writes: bool
    mode: str | None = None
