"""Replays a table of what the provider sends for one resource, and compares what its read function would compare.

A table has the requests in the provider's order, and the members of each answer that must equal the configuration.
Ids stand in braces: `{api}` is the id that an earlier call kept under that name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from tests.support.control import Control, patiently

PLACE: Final = re.compile(r"\{([a-z_]+)\}")
ABSENT: Final = object()  # a member that no answer may show
FURTHER: Final = {"limit": 7, "period": "HOUR"}  # a quota that AWS does not know
READS: Final = 3  # the provider reads after a write, before the next plan, and on import


@dataclass(frozen=True)
class Send:
    """One request. `keeps` names members of the answer for later paths."""

    verb: str
    path: str
    body: Any = None
    status: int | None = None
    keeps: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Update:
    """A changed attribute: the request for it, and the value that the next read shows."""

    name: str
    sends: Sequence[Send]
    shows: Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """What the provider of one form sends for one resource.

    `needs` are the tables whose `create` goes before. `read` is the path of its read function, `shows` what that must
    find after the creation, `gone` a path that is 404 after the destruction.
    """

    resource: str
    form: str
    create: Sequence[Send]
    read: str
    shows: Mapping[str, Any]
    needs: Sequence[str] = ()
    updates: Sequence[Update] = ()
    destroy: Sequence[Send] = ()
    gone: str | None = None

    @property
    def name(self) -> str:
        return f"{self.resource}-{self.form}"


def patch(path: str, *operations: tuple[str, str, str | None]) -> Send:
    """An update; a value of None is not sent."""
    made = [{"op": op, "path": at} | ({} if value is None else {"value": value}) for op, at, value in operations]
    return Send("PATCH", path, {"patchOperations": made})


class Replay:
    """The provider at work on a control plane: ids that it keeps, and what a plan would change."""

    def __init__(self, control: Control, tables: Mapping[str, Table]) -> None:
        self.control = control
        self.tables = tables
        self.ids: dict[str, str] = {}
        self.version = "0"  # of the store, after the last write

    def send(self, send: Send) -> Any:
        """The JSON of the answer. Fails where the provider would report an error."""
        answer = patiently(self.control, send.verb, self.filled(send.path, escape=True), self._body(send.body))
        wanted = (send.status,) if send.status else range(200, 300)
        assert answer.status in wanted, f"{send.verb} {send.path}: {answer}"
        self.version = answer.headers.get("x-authz-version", self.version)
        found: Any = answer.json() if answer.body else None
        for name, member in send.keeps.items():
            self.ids[name] = found[member]
        return found

    def filled(self, text: str, *, escape: bool = False) -> str:
        """A text with its places filled; an unknown place, such as a path's `{id}`, stays."""
        return PLACE.sub(lambda at: self._id(at, escape=escape), text)

    def _id(self, at: re.Match[str], *, escape: bool) -> str:
        found = self.ids.get(at[1], at[0])
        return quote(found, safe="()") if escape else found

    def _body(self, body: Any) -> Any:
        return body if body is None or isinstance(body, bytes) else json.loads(self.filled(json.dumps(body)))

    def apply(self, resources: Iterable[str]) -> None:
        """Make these resources, in this order."""
        for resource in resources:
            for send in self.tables[resource].create:
                self.send(send)

    def drift(self, table: Table, shows: Mapping[str, Any]) -> dict[str, Any]:
        """What a plan would change: each member whose value, read back, is not the configuration's."""
        changes: dict[str, Any] = {}
        for _ in range(READS):
            read = self.send(Send("GET", table.read, status=200))
            for name, wanted in shows.items():
                found = _member(read, name)
                expected = wanted if wanted is ABSENT else self._body(wanted)
                if found != expected:
                    changes[name] = (found, expected)
        return changes

    def extend(self) -> None:
        """Set all that AWS does not have, on every plan, membership of a key and API that is there."""
        for plan in self.send(Send("GET", "/usageplans"))["item"]:
            at = f"/usageplans/{plan['id']}"
            units = {"counts": "UNITS"}
            stages = [
                {**stage, "throttle": dict.fromkeys(stage["throttle"], units)}
                for stage in plan.get("apiStages", ())
                if "throttle" in stage
            ]
            quotas = [{**quota, "alerts": [80], "overage": {"upTo": 5}} for quota in filter(None, [plan.get("quota")])]
            extension = {"limitsPer": "CUSTOMER", "apiStages": stages, "quotas": [*quotas, FURTHER]}
            self.send(Send("PUT", f"{at}/extension", extension | ({"throttle": units} if "throttle" in plan else {})))
            override = {"quotas": [{"period": "HOUR", "limit": 9}]}
            for key in self.send(Send("GET", f"{at}/keys"))["item"]:
                self.send(Send("PUT", f"{at}/keys/{key['id']}/extension", override))
        for api in self.send(Send("GET", "/restapis"))["item"]:
            nodes = self.send(Send("GET", f"/restapis/{api['id']}/resources?embed=methods"))["item"]
            costs = {
                f"{node['path']}/{verb}": {"cost": 5} for node in nodes for verb in node.get("resourceMethods", ())
            }
            from_metadata = {"metadata": ["envoy.filters.http.json_to_metadata", "tokens"], "max": 100}
            self.send(Send("PUT", f"/restapis/{api['id']}/extension", {"costFrom": from_metadata, "methods": costs}))

    def extended(self) -> bool:
        """True if no call since `extend` has taken away what AWS does not have of a plan or of an API."""
        plans = [f"/usageplans/{plan['id']}/extension" for plan in self.send(Send("GET", "/usageplans"))["item"]]
        apis = [f"/restapis/{api['id']}/extension" for api in self.send(Send("GET", "/restapis"))["item"]]
        return all(FURTHER in self.send(Send("GET", path))["quotas"] for path in plans) and all(
            "costFrom" in self.send(Send("GET", path)) for path in apis
        )

    def destroyed(self, table: Table) -> bool:
        """True if the read that follows a destruction says that nothing is there, in the way the provider knows."""
        if table.gone is None:
            return True
        answer = patiently(self.control, "GET", self.filled(table.gone, escape=True))
        return (answer.status, answer.code) == (404, "NotFoundException")


def _member(document: Any, name: str) -> Any:
    """The member that a name such as `quota>limit` leads to."""
    for part in name.split(">"):
        if not isinstance(document, dict) or part not in document:
            return ABSENT
        document = document[part]
    return document
