"""The portal of a real control plane over a real Redis."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from authz.cli.main import cli
from authz.core.resources import digest
from authz.store.audit import audit
from tests.support.control import PEPPER, Control, boto, raw, running
from tests.support.control import control as control
from tests.support.servers import RedisServer

OWN = {"Sec-Fetch-Site": "same-origin"}
VALUE = "value-of-acme-0123456789"
BURST, RATE = 20, 0.5  # of a key's programs, at once and a second


@pytest.fixture
def browser(control: Control) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=control.url, headers=OWN, follow_redirects=True) as client:
        yield client


def with_key(control: Control, value: str = VALUE, **more: Any) -> str:
    """A key in a plan of 100 calls a day. Returns its id."""
    aws = boto(control)
    plan = aws.create_usage_plan(name="Gold", quota={"limit": 100, "period": "DAY"})["id"]
    key: str = aws.create_api_key(name="production", value=value, enabled=True, **more)["id"]
    aws.create_usage_plan_key(usagePlanId=plan, keyId=key, keyType="API_KEY")
    return key


def invited(control: Control, body: Any) -> str:
    reply = raw(control, "POST", "/portal/sessions", body)
    assert reply.status == 201, reply.body
    url: str = reply.json()["url"]
    return url


def follow(browser: httpx.Client, url: str) -> httpx.Response:
    token = httpx.URL(url).params["token"]
    return browser.post("/portal/link", data={"token": token})


def test_a_customer_comes_by_a_link_rolls_its_key_and_goes_on_calling(control: Control, browser: httpx.Client) -> None:
    key = with_key(control, customerId="acme")
    url = invited(control, {"customerId": "acme"})
    assert url.startswith(f"{control.url}/portal/link?token=")
    page = follow(browser, url)
    assert (page.status_code, page.url.path) == (200, "/portal")
    assert "0 of 100 units" in page.text
    assert "production" in browser.get("/portal/keys").text
    rolled = browser.post(f"/portal/keys/{key}/roll", data={"overlap": "3600"})
    new = re.search(r'id="value">(upk_\w+)<', rolled.text)
    assert new is not None
    for value in (VALUE, new[1]):
        assert usage(control, value).status_code == 200
    assert "The old value has ended." in browser.post(f"/portal/keys/{key}/end-old").text
    assert [usage(control, value).status_code for value in (VALUE, new[1])] == [403, 200]
    lines = [line.what for line in control.run(lambda _: audit(control.store.database))[-3:]]
    assert lines == ["CreatePortalSession customer acme", f"RotateApiKey {key}", f"EndPreviousApiKeyValue {key}"]


def usage(control: Control, value: str) -> httpx.Response:
    return httpx.get(f"{control.url}/portal/usage", headers={"x-api-key": value})


def test_the_programs_of_a_key_are_throttled(control: Control) -> None:
    with_key(control)
    with_key(control, "value-of-eve-01234567890")
    began, answers = time.monotonic(), list[httpx.Response]()
    while len(answers) < 2 * BURST + RATE * (time.monotonic() - began):  # more than can be admitted by then
        answers.append(usage(control, VALUE))
    admitted = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert answers[0].status_code == 200
    assert refused
    assert len(admitted) <= BURST + RATE * (time.monotonic() - began)
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert usage(control, "value-of-eve-01234567890").status_code == 200, "each key has its own"


def test_attempts_to_sign_in_are_throttled(control: Control, browser: httpx.Client) -> None:
    with_key(control)
    statuses = {browser.post("/portal/sign-in", data={"token": "wrong"}).status_code for _ in range(30)}
    assert statuses == {403, 429}
    assert browser.post("/portal/sign-in", data={"token": VALUE}).status_code == 429, "a right key waits too"


def test_no_secret_of_a_session_is_in_redis(control: Control, browser: httpx.Client) -> None:
    with_key(control, customerId="acme")
    url = invited(control, {"customerId": "acme"})
    assert httpx.URL(url).params["token"] not in _dump(control)
    follow(browser, url)
    browser.post("/portal/sign-in", data={"token": VALUE})
    kept = _dump(control)
    assert browser.cookies["authz-portal"] not in kept
    assert VALUE not in kept
    assert digest(VALUE).hex() not in kept


def _dump(control: Control) -> str:
    """All keys and values of the account's sessions, links and messages."""

    async def read(_: Any) -> str:
        database = control.store.database
        _, keys = await database.ask("SCAN", "0", "MATCH", database.key("page", "*"), "COUNT", 10_000)
        return str([(key, await database.ask("GET", key)) for key in keys if b":sign-in:" not in key])

    found: str = control.run(read)
    return found


@pytest.mark.parametrize("path", ["/portal", "/portal/usage", "/portal/errors", "/portal/sign-in", "/console"])
def test_without_the_console_nothing_of_it_exists(shared_redis: RedisServer, account: str, path: str) -> None:
    with running(shared_redis.url, account, console=False) as control:
        reply = raw(control, "GET", path)
        assert (reply.status, reply.code) == (404, "NotFoundException")
        reply = raw(control, "POST", "/portal/sessions", {"customerId": "acme"})
        assert (reply.status, reply.code) == (404, "NotFoundException")


def test_the_command_prints_a_link_for_a_customer_and_the_audit_says_so(
    control: Control, browser: httpx.Client, shared_redis: RedisServer
) -> None:
    with_key(control, customerId="acme")
    place = ("--redis-url", shared_redis.url, "--account-id", control.account, "--url", control.url)
    printed = CliRunner().invoke(
        cli, ["console", "link", "--customer", "acme", "--read-only", *place], env={"AUTHZ_PEPPER": PEPPER}
    )
    assert printed.exit_code == 0, printed.output
    page = follow(browser, printed.output.splitlines()[0])
    assert (page.url.path, "Gold" in page.text) == ("/portal", True)
    (line,) = control.run(lambda _: audit(control.store.database, 1))
    assert line.what == "CreatePortalSession customer acme mayRotate=false"
    assert line.who.startswith("authz console")
