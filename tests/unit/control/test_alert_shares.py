"""Slow name servers: whose look-ups wait, and whose go on."""

from __future__ import annotations

import asyncio
import ipaddress
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from authz.control.alerts.addresses import Rules
from authz.control.alerts.sending import Message, WebhookSender, new_secret
from tests.support.servers import until

SECONDS = 60.0  # the longest wait, on a busy machine
REFUSED = "not sent: the name leads to no public address"
MESSAGE = Message("msg_1", "{}", "https://one.example/", (new_secret(),))


class Names:
    """A resolver whose names never answer until it is let go, except names that begin with `quick`."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.go = threading.Event()

    def __call__(self, host: str, port: int) -> list[Any]:
        self.asked.append(host)
        if not host.startswith("quick"):
            self.go.wait()
        return [ipaddress.ip_address("10.0.0.1")]


@pytest.fixture
def names() -> Iterator[Names]:
    found = Names()
    yield found
    found.go.set()


async def stuck(sender: WebhookSender, names: Names, customers: list[str], look_ups: int) -> None:
    """Give up attempts of these customers, 20 each, when this many look-ups have begun. Those go on."""
    messages = [
        replace(MESSAGE, url=f"https://{number}.{one}.example/", customer_id=one)
        for one in customers
        for number in range(20)
    ]
    attempts = [asyncio.create_task(sender.send(message)) for message in messages]
    await asyncio.to_thread(until, lambda: len(names.asked) >= look_ups, "the look-ups have not begun")
    for attempt in attempts:
        attempt.cancel()
    await asyncio.wait(attempts)


async def test_one_customers_names_that_never_answer_hold_eight_look_ups_and_no_more(names: Names) -> None:
    sender = WebhookSender(Rules(), resolver=names, seconds=SECONDS)
    await stuck(sender, names, ["slow"], 8)
    for customer in ("other", None):
        attempt = await sender.send(replace(MESSAGE, url="https://quick.example/", customer_id=customer))
        assert attempt.error == REFUSED
    assert len(names.asked) == 8 + 2


async def test_all_customers_together_leave_look_ups_to_the_owner(names: Names) -> None:
    sender = WebhookSender(Rules(), resolver=names, seconds=SECONDS)
    await stuck(sender, names, [f"slow{number}" for number in range(10)], 48)
    assert (await sender.send(replace(MESSAGE, url="https://quick.example/"))).error == REFUSED
    assert len(names.asked) == 48 + 1


async def test_a_look_up_that_ends_after_its_attempt_frees_its_place(names: Names) -> None:
    sender = WebhookSender(Rules(), resolver=names, seconds=SECONDS)
    await stuck(sender, names, ["slow"], 8)
    names.go.set()
    again = await sender.send(replace(MESSAGE, url="https://quick.example/", customer_id="slow"))
    assert again.error == REFUSED
