"""Alerts that leave: targets as the API keeps them, and what arrives at a receiver."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import quote

import pytest
import redis
import structlog
from standardwebhooks import Webhook

from authz.core.limits import redis_key
from authz.core.zones import DAY_US
from authz.store.audit import audit
from authz.store.consistency import differences
from authz.store.sealing import Sealer
from tests.support.control import Control, Reply, boto, patiently, raw, running
from tests.support.receiver import Receiver, receiver
from tests.support.servers import RedisServer, until

FOURTH = 20516  # 4 March 2026
WHOLE = {"name": "pager", "url": "https://hooks.example.org/a?b=c", "description": "on call", "usagePlanId": "gold"}


@pytest.fixture
def control(shared_redis: RedisServer, account: str) -> Iterator[Control]:
    with running(shared_redis.url, account, allow_private_targets=True) as plane:
        yield plane


@pytest.fixture
def hooks() -> Iterator[Receiver]:
    with receiver() as started:
        yield started


def call(control: Control, verb: str, path: str, body: Any = None) -> Reply:
    return patiently(control, verb, path, body)


def made(control: Control, url: str, **more: Any) -> dict[str, Any]:
    """A new target, as its creation showed it."""
    reply = call(control, "POST", "/alerts/targets", {"name": "pager", "url": url, **more})
    assert reply.status == 201, reply.body
    found: dict[str, Any] = reply.json()
    return found


def entry(account: str, *value: str, percent: int = 80) -> dict[str, Any]:
    """An alert as the limiter's script appends it; `value` names the quota's state."""
    return {
        "value": redis_key(account, *value),
        "period": "DAY",
        "counts": "UNITS",
        "percent": percent,
        "used": 81,
        "limit": 100,
        "start": FOURTH * DAY_US,
        "end": (FOURTH + 1) * DAY_US,
        "at": FOURTH * DAY_US + 36_000_000_000,
    }


def cross(control: Control, *value: str, percent: int = 80) -> str:
    """Append an alert; returns its id."""
    words = [word for pair in entry(control.account, *value, percent=percent).items() for word in pair]
    made: bytes = control.run(
        lambda _: control.store.database.ask("XADD", control.store.database.key("alerts"), "*", *words)
    )
    return made.decode()


def deliveries(control: Control, state: str, more: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = call(control, "GET", f"/alerts/deliveries?state={state}{more}").json()["item"]
    return found


# --- targets ------------------------------------------------------------------------------------------------------


def test_a_target_is_made_read_replaced_and_deleted(control: Control) -> None:
    gold = boto(control, attempts=10).create_usage_plan(name="gold")["id"]
    target = made(control, WHOLE["url"], description="on call", usagePlanId=gold, customerId="acme")
    shown = {name: value for name, value in target.items() if name != "secret"}
    assert {name: shown[name] for name in ("name", "url", "enabled", "description", "usagePlanId", "customerId")} == {
        "name": "pager",
        "url": "https://hooks.example.org/a?b=c",
        "enabled": True,
        "description": "on call",
        "usagePlanId": gold,
        "customerId": "acme",
    }
    path = f"/alerts/targets/{target['id']}"
    assert call(control, "GET", path).json() == shown
    replaced = call(control, "PUT", path, {"name": "mail", "url": "https://x.example", "enabled": False}).json()
    assert (replaced["name"], replaced["enabled"]) == ("mail", False)
    assert {"description", "usagePlanId", "customerId"}.isdisjoint(replaced)
    assert call(control, "DELETE", path).status == 202
    assert call(control, "GET", path).status == 404
    assert control.run(lambda _: differences(control.store)) == []


def test_targets_are_listed_in_pages_and_by_customer(control: Control) -> None:
    ids = [made(control, "https://x.example", **({"customerId": "acme"} if n % 2 else {}))["id"] for n in range(5)]
    first = call(control, "GET", "/alerts/targets?limit=3").json()
    rest = call(control, "GET", f"/alerts/targets?limit=3&position={quote(first['position'])}").json()
    assert [one["id"] for one in [*first["item"], *rest["item"]]] == ids[::-1]
    assert "position" not in rest
    listed = call(control, "GET", "/alerts/targets?customerId=acme").json()["item"]
    assert [one["id"] for one in listed] == [ids[3], ids[1]]


def test_a_secret_is_shown_once_and_stored_sealed(control: Control) -> None:
    target = made(control, "https://x.example")
    secret = target["secret"]
    assert secret.startswith("whsec_")
    for path in (f"/alerts/targets/{target['id']}", "/alerts/targets"):
        assert b"whsec_" not in call(control, "GET", path).body
    stored = control.run(
        lambda _: control.store.database.ask("HGETALL", control.store.database.items_key("alerttarget"))
    )
    assert secret.removeprefix("whsec_").encode() not in b"".join(stored.values())


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"url": "https://x.example"}, "$.name: required"),
        ({"name": "", "url": "https://x.example"}, "$.name"),
        ({"name": "a\nb", "url": "https://x.example"}, "$.name: expected no control characters"),
        ({"name": "a", "url": "https://x.example", "urls": []}, "$.urls: unknown field; did you mean url?"),
        ({"name": "a", "url": "ftp://x.example"}, "$.url: expected https://host/path"),
        ({"name": "a", "url": "https://me:pw@x.example"}, "$.url: expected no user name and no password"),
        ({"name": "a", "url": "https://[fe80::1]/"}, "$.url: the address fe80::1 is link-local"),
        ({"name": "a", "url": "https://x.example", "enabled": "yes"}, "$.enabled"),
        ({"name": "a", "url": "https://x.example", "secret": "whsec_x"}, "$.secret: unknown field"),
    ],
)
def test_a_mistake_has_its_address(control: Control, body: dict[str, Any], words: str) -> None:
    reply = call(control, "POST", "/alerts/targets", body)
    assert (reply.status, words in reply.json()["message"]) == (400, True), reply.body


def test_a_plan_that_does_not_exist_is_refused(control: Control) -> None:
    assert call(control, "POST", "/alerts/targets", WHOLE).status == 404


def test_the_account_and_each_customer_have_a_bounded_number_of_targets(control: Control) -> None:
    for customer in ({}, {"customerId": "acme"}):
        for _ in range(10):
            made(control, "https://x.example", **customer)
        reply = call(control, "POST", "/alerts/targets", {"name": "a", "url": "https://x.example", **customer})
        assert (reply.status, "may have 10" in reply.json()["message"]) == (400, True)
    made(control, "https://x.example", customerId="other")


@pytest.mark.parametrize("url", ["http://10.0.0.1/", "https://127.0.0.1/", "https://2130706433/", "https://localhost/"])
def test_a_private_target_needs_a_setting(shared_redis: RedisServer, account: str, url: str) -> None:
    with running(shared_redis.url, account) as strict:
        reply = call(strict, "POST", "/alerts/targets", {"name": "a", "url": url})
        assert (reply.status, "$.url" in reply.json()["message"]) == (400, True)


def test_without_a_sealing_key_no_target_is_made(shared_redis: RedisServer, account: str) -> None:
    with running(shared_redis.url, account, sealer=Sealer([], b"a pepper for tests")) as plane:
        bearer = partial(raw, headers={"authorization": f"Bearer {plane.token.secret}"}, sign=False)
        reply = patiently(plane, "POST", "/alerts/targets", {"name": "a", "url": "https://x.example"}, send=bearer)
        assert (reply.status, "--sealing-key-file" in reply.json()["message"]) == (400, True)


def test_a_write_is_audited_under_the_callers_name(control: Control) -> None:
    target = made(control, "https://x.example")["id"]
    call(control, "POST", f"/alerts/targets/{target}/rotate", {})
    call(control, "DELETE", f"/alerts/targets/{target}")
    lines = control.run(lambda _: audit(control.store.database, 3))
    assert [(line.who, line.what) for line in lines] == [
        ("admin", f"CreateAlertTarget alerttarget/{target}"),
        ("admin", f"RotateAlertTargetSecret {target}"),
        ("admin", f"DeleteAlertTarget {target}"),
    ]


# --- what arrives -------------------------------------------------------------------------------------------------


def test_an_alert_arrives_signed(control: Control, hooks: Receiver) -> None:
    aws = boto(control, attempts=10)
    plan, key = aws.create_usage_plan(name="gold")["id"], aws.create_api_key(name="k", customerId="acme")["id"]
    target = made(control, f"{hooks.url}/path?word=1")
    alert = cross(control, "ledger", plan, key)
    until(lambda: bool(hooks.got), "nothing arrived")
    (got,) = hooks.got
    assert (got.path, got.id, got.headers["content-type"]) == (
        "/path?word=1",
        f"msg_{alert}_{target['id']}",
        "application/json",
    )
    assert Webhook(target["secret"]).verify(got.body, got.headers) == got.json
    assert got.json == {
        "type": "usage.threshold",
        "timestamp": "2026-03-04T10:00:00Z",
        "data": {
            "accountId": control.account,
            "id": alert,
            "usagePlanId": plan,
            "keyId": key,
            "period": "DAY",
            "counts": "UNITS",
            "percent": 80,
            "used": 81,
            "limit": 100,
            "start": "2026-03-04T00:00:00Z",
            "end": "2026-03-05T00:00:00Z",
            "usagePlanName": "gold",
            "keyName": "k",
            "customerId": "acme",
        },
    }
    until(lambda: len(deliveries(control, "delivered")) == 1, "it is not listed")
    (listed,) = deliveries(control, "delivered")
    assert (listed["id"], listed["attempts"], listed["lastStatus"], listed["message"]) == (got.id, 1, 204, got.json)


def test_a_target_gets_the_alerts_that_are_its_own(control: Control, hooks: Receiver) -> None:
    aws = boto(control, attempts=10)
    gold, silver = (aws.create_usage_plan(name=name)["id"] for name in ("gold", "silver"))
    acme, other = (aws.create_api_key(name=name, customerId=name)["id"] for name in ("acme", "other"))
    made(control, f"{hooks.url}/all")
    # A customer's target leads to public addresses only, so it is read before it is sent.
    own = made(control, "https://hooks.invalid/acme", customerId="acme")["id"]
    made(control, f"{hooks.url}/gold", usagePlanId=gold)
    made(control, f"{hooks.url}/off", enabled=False)
    cross(control, "ledger", gold, acme)
    cross(control, "ledger", silver, other)
    cross(control, "customer-ledger", silver, "acme")
    until(lambda: len(hooks.got) == 4, "not all have arrived")
    until(lambda: len(deliveries(control, "pending")) == 2, "not all are on their way")
    sent = [(one.path, one.json["data"]) for one in hooks.got]
    sent += [("/acme", one["message"]["data"]) for one in deliveries(control, "pending", f"&targetId={own}")]
    arrived = sorted((path, data.get("keyId", ""), data["customerId"]) for path, data in sent)
    assert arrived == sorted(
        [
            ("/all", acme, "acme"),
            ("/all", other, "other"),
            ("/all", "", "acme"),
            ("/acme", acme, "acme"),
            ("/acme", "", "acme"),
            ("/gold", acme, "acme"),
        ]
    )


def test_alerts_from_before_the_first_control_plane_are_not_sent(
    shared_redis: RedisServer, account: str, hooks: Receiver
) -> None:
    """An account that is upgraded has a stream of old ones."""
    with redis.Redis.from_url(shared_redis.url) as client:
        client.xadd(redis_key(account, "alerts"), entry(account, "ledger", "p", "old"))
    with running(shared_redis.url, account, allow_private_targets=True) as control:
        made(control, hooks.url)
        cross(control, "ledger", "p", "new")
        until(lambda: bool(hooks.got), "nothing arrived")
    assert [one.json["data"]["keyId"] for one in hooks.got] == ["new"]


def test_alerts_that_the_stream_dropped_are_counted(shared_redis: RedisServer, account: str, hooks: Receiver) -> None:
    """No control plane ran for too long."""
    with redis.Redis.from_url(shared_redis.url) as client:
        stream = redis_key(account, "alerts")
        with running(shared_redis.url, account, allow_private_targets=True) as control:
            made(control, hooks.url)
            until(lambda: bool(client.exists(redis_key(account, "alerts-cursor"))), "there is no cursor")
        ids = [client.xadd(stream, entry(account, "ledger", "p", str(n))) for n in range(5)]
        client.xtrim(stream, minid=ids[3], approximate=False)
    with structlog.testing.capture_logs() as lines, running(shared_redis.url, account, allow_private_targets=True):
        until(lambda: len(hooks.got) == 2, "the others have not arrived")
    assert sorted(one.json["data"]["keyId"] for one in hooks.got) == ["3", "4"]
    assert [line["alerts"] for line in lines if line["event"].startswith("alerts were lost")] == [3]


def test_a_test_answers_with_what_became_of_it(control: Control, hooks: Receiver) -> None:
    target = made(control, hooks.url, enabled=False)
    path = f"/alerts/targets/{target['id']}/test"
    result = call(control, "POST", path).json()
    (got,) = hooks.got
    assert result == {"webhookId": got.id, "arrived": True, "status": 204}
    assert (got.json["type"], got.json["data"]["targetId"]) == ("webhook.test", target["id"])
    assert got.is_signed_by(target["secret"])
    hooks.answer = lambda _: (302, {"location": f"{hooks.url}/elsewhere"})
    result = call(control, "POST", path).json()
    assert (result["arrived"], result["status"]) == (False, 302)
    assert result["error"] == "answered 302: redirects are not followed"
    assert [one.path for one in hooks.got] == ["/", "/"]


def test_a_test_of_a_receiver_that_is_not_there_says_so(control: Control) -> None:
    with receiver() as gone:
        url = gone.url
    target = made(control, url)
    result = call(control, "POST", f"/alerts/targets/{target['id']}/test").json()
    assert result["arrived"] is False
    assert "ConnectError" in result["error"]


def test_a_new_secret_signs_beside_the_old_one(control: Control, hooks: Receiver) -> None:
    target = made(control, hooks.url)
    path = f"/alerts/targets/{target['id']}"
    rotated = call(control, "POST", f"{path}/rotate", {"overlapSeconds": 60}).json()
    assert rotated["secret"] != target["secret"]
    assert "previousSecretExpiresAt" in rotated
    call(control, "POST", f"{path}/test")
    assert hooks.got[0].is_signed_by(target["secret"])
    assert hooks.got[0].is_signed_by(rotated["secret"])
    call(control, "POST", f"{path}/rotate", {"overlapSeconds": 0})
    call(control, "POST", f"{path}/test")
    assert not hooks.got[1].is_signed_by(rotated["secret"])


# --- attempts that fail -------------------------------------------------------------------------------------------


def test_a_failed_attempt_is_listed_and_repeated_under_the_same_id(control: Control, hooks: Receiver) -> None:
    hooks.answer = lambda before: (500, {}) if before == 0 else (200, {})
    target = made(control, hooks.url)
    cross(control, "ledger", "p", "k")
    until(lambda: bool(deliveries(control, "pending", f"&targetId={target['id']}")), "it is not pending")
    until(lambda: len(hooks.got) == 2, "it is not repeated")
    first, second = hooks.got
    assert (first.id, first.body) == (second.id, second.body)
    assert second.is_signed_by(target["secret"])
    until(lambda: len(deliveries(control, "delivered")) == 1, "it is not delivered")
    assert deliveries(control, "pending") == []


def test_a_receiver_that_is_gone_disables_its_target(control: Control, hooks: Receiver) -> None:
    hooks.answer = lambda _: (410, {})
    target = made(control, hooks.url)
    cross(control, "ledger", "p", "k")
    path = f"/alerts/targets/{target['id']}"
    until(lambda: not call(control, "GET", path).json()["enabled"], "it is still on")
    until(lambda: bool(deliveries(control, "failed")), "the delivery is not listed")
    (failed,) = deliveries(control, "failed")
    assert (failed["lastStatus"], failed["lastError"]) == (410, "answered 410 Gone, so the target was disabled")
    reply = call(control, "POST", f"/alerts/deliveries/{failed['id']}/resend")
    assert (reply.status, "enable it" in reply.json()["message"]) == (409, True)
    hooks.answer = lambda _: (200, {})
    call(control, "PUT", path, {"name": "pager", "url": hooks.url})
    assert call(control, "POST", f"/alerts/deliveries/{failed['id']}/resend").status == 202
    until(lambda: len(hooks.got) == 2, "it is not sent again")
    assert hooks.got[0].id == hooks.got[1].id
    assert call(control, "POST", f"/alerts/deliveries/{failed['id']}/resend").status == 404


@pytest.mark.parametrize("verb", ["PUT", "DELETE"])
def test_a_target_that_is_off_gets_nothing_more(control: Control, hooks: Receiver, verb: str) -> None:
    hooks.answer = lambda _: (500, {})
    target = made(control, hooks.url)
    cross(control, "ledger", "p", "k")
    until(lambda: bool(hooks.got), "nothing was tried")
    until(lambda: any(one["attempts"] for one in deliveries(control, "pending")), "the attempt is not listed")
    body = {"name": "pager", "url": hooks.url, "enabled": False} if verb == "PUT" else None
    call(control, verb, f"/alerts/targets/{target['id']}", body)
    assert deliveries(control, "pending") == []
    assert [one["lastError"] for one in deliveries(control, "failed")] == (
        ["not sent: the target is disabled"] if verb == "PUT" else []
    )


def test_lists_of_deliveries_have_pages(control: Control, hooks: Receiver) -> None:
    target = made(control, hooks.url)["id"]
    for _ in range(5):
        cross(control, "ledger", "p", "k")
    until(lambda: len(deliveries(control, "delivered")) == 5, "they are not delivered")
    whole = [one["id"] for one in deliveries(control, "delivered")]
    for where in ("", f"&targetId={target}"):
        found: list[str] = []
        position = ""
        while True:
            page = call(control, "GET", f"/alerts/deliveries?state=delivered&limit=2{where}{position}").json()
            found += [one["id"] for one in page["item"]]
            if "position" not in page:
                break
            position = f"&position={page['position']}"
        assert found == whole


@pytest.mark.parametrize("query", ["state=lost", "state=failed&colour=red", "state=failed&position=x"])
def test_a_query_that_cannot_be_answered_is_refused(control: Control, query: str) -> None:
    assert call(control, "GET", f"/alerts/deliveries?{query}").status == 400
