"""What a read-only role may do, and which credentials are refused, in one process over a dictionary store."""

from __future__ import annotations

import re
from typing import Any

import pytest

from authz.control.api import operations
from authz.control.call import Answer, Call, Context, Operation, Principal
from authz.control.operations.apikeys import key_value
from authz.core.resources import ApiKey, UsagePlan
from authz.core.stored import StoredKey, StoredPlan
from tests.support.dictstore import DictStore
from tests.support.plane import SEALER, NoUsage, Plane

VALUE = "a-value-that-stands-out"
WRITES = [operation for operation in operations() if operation.writes]


def _key(*plans: str) -> StoredKey:
    return StoredKey(ApiKey("k1", "n"), "digest", 1, 1, sealed=SEALER.seal(VALUE, "k1"), plans=plans)


def _plane() -> Plane:
    return Plane(DictStore(_key("p1.n"), StoredPlan(UsagePlan("p1", "plan"), nonce="n")))


@pytest.mark.parametrize("operation", WRITES, ids=[operation.name for operation in WRITES])
def test_a_read_only_role_may_not_write(operation: Operation) -> None:
    plane = _plane()
    before = dict(plane.store.items)
    path = re.sub(r"\{\w+\}", "x", operation.path) + (f"?mode={operation.mode}" if operation.mode else "")
    reply = plane.call(operation.verb, path, {}, by=plane.reader)
    assert (reply.status, reply.code) == (403, "AccessDeniedException")
    assert reply.body == {"message": f"User: reader is not authorized to perform: apigateway:{operation.name}"}
    assert (plane.store.items, plane.store.lines) == (before, [])


def test_an_administrator_may_write() -> None:
    """So a refusal of the read-only role is the role's, and not the call's."""
    plane = _plane()
    assert plane.call("POST", "/usageplans", {"name": "Silver"}).status == 201
    assert [line.split()[:2] for line in plane.store.lines] == [["admin", "CreateUsagePlan"]]


@pytest.mark.parametrize("path", ["/apikeys/k1?includeValue=true", "/apikeys?includeValues=true"])
def test_a_read_only_role_may_not_ask_for_values(path: str) -> None:
    plane = _plane()
    reply = plane.call("GET", path, by=plane.reader)
    assert (reply.status, reply.code) == (403, "AccessDeniedException")
    assert VALUE in str(plane.call("GET", path).body)


@pytest.mark.parametrize("path", ["/usageplans/p1/keys/k1", "/usageplans/p1/keys"])
def test_a_read_only_role_does_not_see_the_values_of_a_plans_keys(path: str) -> None:
    """AWS shows them without `includeValues`."""
    plane = _plane()
    reply = plane.call("GET", path, by=plane.reader)
    assert reply.status == 200
    assert "k1" in str(reply.body)
    assert VALUE not in str(reply.body)
    assert VALUE in str(plane.call("GET", path).body)


@pytest.mark.parametrize("role", ["reader", "admin"])
def test_no_handler_opens_a_value_for_a_read_only_role(role: str) -> None:
    context = Context(DictStore(), NoUsage(), SEALER, "default", lambda: 1, dict, _nothing)
    call = Call(context, "GetApiKey", {}, {}, b"", Principal(role, read_only=role == "reader"))
    assert key_value(call, _key()) == (None if role == "reader" else VALUE)


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ({"id": "k1", "value": VALUE}, {"id": "k1"}),
        ({"item": [{"id": "k1", "value": VALUE, "previousValue": VALUE}]}, {"item": [{"id": "k1"}]}),
    ],
)
def test_a_value_that_a_handler_shows_by_mistake_is_taken_out_for_a_read_only_role(body: Any, shown: Any) -> None:
    async def leaks(call: Call) -> Answer:
        return Answer(body=body)

    plane = Plane(DictStore(), [Operation("Leak", "GET", "/leak", leaks, writes=False)])
    assert plane.call("GET", "/leak", by=plane.reader).body == shown
    assert plane.call("GET", "/leak").body == body


def test_a_session_token_is_refused() -> None:
    """Our access keys are long-term keys, which have no session. The signature covers the token and is right."""
    plane = _plane()
    assert plane.call("GET", "/apikeys", headers=plane.signed("GET", "/apikeys")).status == 200
    reply = plane.call("GET", "/apikeys", headers=plane.signed("GET", "/apikeys", token="a session"))
    assert (reply.status, reply.code) == (403, "UnrecognizedClientException")


async def _nothing(*_: Any) -> str:
    return ""
