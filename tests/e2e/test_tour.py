"""The README's tour with boto3: a real Envoy with three sidecars enforces each change made through AWS's API."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from authz.core.resources import Resources
from tests.e2e.stack import Answer, ControlServer, Stack, managed
from tests.support.builders import api, resources
from tests.support.servers import EchoServer, Host, RedisServer

SIDECARS = 3
ROUNDS = 2 * SIDECARS  # Envoy asks its sidecars in turn, so that this many calls ask each of them twice
FORBIDDEN = (403, '{"message":"Forbidden"}')
LIMIT_EXCEEDED = (429, '{"message":"Limit Exceeded"}')
FILE = resources(apis=(api(hosts=()),))


class Tour:
    """A client of the API, and callers of what it makes."""

    def __init__(self, stack: Stack) -> None:
        assert stack.control is not None
        self.stack = stack
        self.control: ControlServer = stack.control
        self.aws = stack.control.client()

    def wait(self, answer: Any) -> None:
        self.control.wait_for(answer)

    def api(self, **method: Any) -> str:
        """An API with GET /pets, deployed to `prod`."""
        made = self.aws.create_rest_api(name="Pets")
        pets = self.aws.create_resource(restApiId=made["id"], parentId=made["rootResourceId"], pathPart="pets")
        where = {"restApiId": made["id"], "resourceId": pets["id"], "httpMethod": "GET"}
        self.aws.put_method(**where, authorizationType="NONE", **{"apiKeyRequired": True, **method})
        self.aws.put_integration(**where, type="MOCK")
        self.aws.create_deployment(restApiId=made["id"], stageName="prod")
        return str(made["id"])

    def plan(self, api_id: str, **changes: Any) -> str:
        silver: dict[str, Any] = {
            "name": "Silver",
            "throttle": {"rateLimit": 50, "burstLimit": 100},
            "quota": {"limit": 5000, "period": "MONTH"},
            "apiStages": [{"apiId": api_id, "stage": "prod"}],
        }
        return str(self.aws.create_usage_plan(**{**silver, **changes})["id"])

    def key(self, plan_id: str, **changes: Any) -> tuple[str, str]:
        """The id and the value of a key that every sidecar lets in."""
        key = self.aws.create_api_key(**{"name": "acme", "enabled": True, **changes})
        self.stack.secrets |= {key["value"]}
        self.wait(self.aws.create_usage_plan_key(usagePlanId=plan_id, keyId=key["id"], keyType="API_KEY"))
        return key["id"], key["value"]

    def change_plan(self, plan_id: str, path: str, value: str) -> None:
        change = {"op": "replace", "path": path, "value": value}
        self.wait(self.aws.update_usage_plan(usagePlanId=plan_id, patchOperations=[change]))

    def used(self, plan_id: str, key_id: str) -> tuple[int, int]:
        """Calls and what remains, whatever the day is now."""
        today = datetime.now(UTC).date()
        days = {"startDate": str(today - timedelta(1)), "endDate": str(today)}
        rows = self.aws.get_usage(usagePlanId=plan_id, keyId=key_id, **days)["items"][key_id]
        return sum(used for used, _ in rows), rows[-1][1]

    def call(self, api_id: str, value: str = "", path: str = "/prod/pets") -> Answer:
        known = [("x-api-key", value)] if value else []
        return self.stack.send("GET", path, [("host", f"{api_id}.example.org"), *known])

    def calls(self, api_id: str, value: str = "") -> set[tuple[int, str]]:
        """What every sidecar answers: the refusals, or (200, "")."""
        answers = [self.call(api_id, value) for _ in range(ROUNDS)]
        return {(200, "") if answer.status == 200 else answer.refusal for answer in answers}


ADMITTED = {(200, "")}


@pytest.fixture(scope="module")
def tour(redis: RedisServer, echo: EchoServer, served_by: Host) -> Iterator[Tour]:
    with managed(FILE, redis, echo.address, SIDECARS, served_by) as stack:
        yield Tour(stack)


def test_the_tour(tour: Tour) -> None:
    api_id = tour.api()
    plan_id = tour.plan(api_id)
    key_id, value = tour.key(plan_id)

    answer = tour.call(api_id, value)
    assert answer.status == 200, answer.body
    told = {name: answer.upstream.get(name) for name in ("x-api-key-id", "x-usage-plan-id", "x-usage-plan-name")}
    assert told == {"x-api-key-id": key_id, "x-usage-plan-id": plan_id, "x-usage-plan-name": "Silver"}
    assert "x-api-key" not in answer.upstream
    assert tour.call(api_id).refusal == FORBIDDEN

    assert tour.used(plan_id, key_id) == (1, 4999)
    tour.change_plan(plan_id, "/quota/limit", "3")
    assert [tour.call(api_id, value).status for _ in range(3)] == [200, 200, 429]
    assert tour.calls(api_id, value) == {LIMIT_EXCEEDED}
    assert tour.used(plan_id, key_id) == (3, 0)

    more = [{"op": "replace", "path": "/remaining", "value": "1"}]
    tour.wait(tour.aws.update_usage(usagePlanId=plan_id, keyId=key_id, patchOperations=more))
    assert [tour.call(api_id, value).status for _ in range(2)] == [200, 429]
    tour.change_plan(plan_id, "/quota/limit", "5000")
    assert tour.calls(api_id, value) == ADMITTED

    off = [{"op": "replace", "path": "/enabled", "value": "false"}]
    tour.wait(tour.aws.update_api_key(apiKey=key_id, patchOperations=off))
    assert tour.calls(api_id, value) == {FORBIDDEN}


def test_a_deleted_key_is_refused_although_every_sidecar_knows_it(tour: Tour) -> None:
    api_id = tour.api()
    key_id, value = tour.key(tour.plan(api_id))
    assert tour.calls(api_id, value) == ADMITTED
    tour.wait(tour.aws.delete_api_key(apiKey=key_id))
    assert tour.calls(api_id, value) == {FORBIDDEN}


def test_a_key_is_let_in_that_was_refused_as_unknown_a_moment_before(tour: Tour) -> None:
    api_id, value = tour.api(), "a-value-of-the-customers-own"
    plan_id = tour.plan(api_id)
    assert tour.calls(api_id, value) == {FORBIDDEN}
    tour.key(plan_id, value=value)
    assert tour.calls(api_id, value) == ADMITTED


def test_a_key_that_leaves_its_plan_is_refused(tour: Tour) -> None:
    api_id = tour.api()
    plan_id = tour.plan(api_id)
    key_id, value = tour.key(plan_id)
    assert tour.calls(api_id, value) == ADMITTED
    tour.wait(tour.aws.delete_usage_plan_key(usagePlanId=plan_id, keyId=key_id))
    assert tour.calls(api_id, value) == {FORBIDDEN}


def test_an_edit_reaches_the_stage_with_the_next_deployment(tour: Tour) -> None:
    """A stage serves a snapshot."""
    api_id = tour.api()
    pets = next(one for one in tour.aws.get_resources(restApiId=api_id)["items"] if one["path"] == "/pets")
    keyless = [{"op": "replace", "path": "/apiKeyRequired", "value": "false"}]
    where = {"restApiId": api_id, "resourceId": pets["id"], "httpMethod": "GET"}
    tour.wait(tour.aws.update_method(**where, patchOperations=keyless))
    assert tour.calls(api_id) == {FORBIDDEN}
    tour.wait(tour.aws.create_deployment(restApiId=api_id, stageName="prod"))
    assert tour.calls(api_id) == ADMITTED


def test_a_stage_throttle_is_in_force_on_every_sidecar(tour: Tour) -> None:
    api_id = tour.api(apiKeyRequired=False)
    none = [{"op": "replace", "path": "/pets/GET/throttling/burstLimit", "value": "0"}]
    tour.wait(tour.aws.update_stage(restApiId=api_id, stageName="prod", patchOperations=none))
    assert tour.calls(api_id) == {(429, '{"message":"Too Many Requests"}')}


def test_what_the_file_has_goes_on_beside_the_store(tour: Tour) -> None:
    assert tour.stack.get("/prod/pets", "k1").status == 200
    assert "a1" in {one["id"] for one in tour.aws.get_rest_apis()["items"]}
    assert tour.used("p1", "k1")[0] >= 1


def test_the_only_api_there_is_needs_neither_a_file_nor_a_host(redis: RedisServer, echo: EchoServer) -> None:
    with managed(Resources(), redis, echo.address, 1) as stack:
        tour = Tour(stack)
        plan_id = tour.plan(tour.api())
        _, value = tour.key(plan_id)
        assert tour.call("none", value).status == 200
