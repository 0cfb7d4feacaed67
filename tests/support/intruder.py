"""A customer who edits everything in its requests: every id, parameter, header and form field."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

from authz.control.pages.sessions import CustomerSession
from authz.core.resources import Counts, Customer, LimitsPer, Period, QuotaSettings, UsagePlan
from authz.core.stored import AlertTarget, StoredCustomer, StoredPlan
from tests.support.plane import SEALER
from tests.support.portal import Counted, PortalPages, key_of

MINE, THEIRS = "mallory", "victim"
SECRETS: Final = (  # what only the victim, or the owner, may see
    "Victims-key-name",
    "Victims-plan-name",
    "Victims-customer-name",
    "Victims-description",
    "victims-receiver.example",
    "owners-receiver.example",
    "value-of-victim-0123456789",
)
OTHERS: Final = ("v1", "v2", "lone", "gold", "secret-plan", THEIRS, "vt", "at")
THEIR_NUMBER: Final = 5_000_000_000_000  # so that sums of others' numbers are recognized too
LARGE: Final = re.compile(r"[0-9]{13,}|[0-9]{1,3}(,[0-9]{3}){4,}")
IDS: Final = ("vt", "mt", "at", "m1", "m2", "v1", "v2", "lone", "gold", "secret-plan", MINE, THEIRS, "nothing", "")
POSITIONS: Final = ("0", "1", "2", "-1", "customer/victim\0v1", "customer/mallory\0m1", "customer/victim\0", "5-0", "~")
PATHS: Final = (
    "/portal",
    "/portal/keys",
    "/portal/keys/{}",
    "/portal/keys/{}/roll",
    "/portal/keys/{}/end-old",
    "/portal/keys/{}/../{}",
    "/portal/alerts",
    "/portal/alerts/targets",
    "/portal/alerts/targets/{}/test",
    "/portal/alerts/targets/{}/delete",
    "/portal/usage",
    "/portal/sessions",
    "/portal/errors",
    "/portal/zone",
    "/portal/sign-in",
    "/portal/link",
    "/portal/{}",
    "/portal/customers/{}",
    "/console",
    "/console/plans",
    "/console/keys/{}",
    "/apikeys/{}",
    "/apikeys",
    "/usage/days",
    "/customers/{}",
)
NAMES: Final = (
    "customerId",
    "customer_id",
    "keyId",
    "key_id",
    "api_Key",
    "usagePlanId",
    "position",
    "limit",
    "includeValue",
    "includeValues",
    "new",
    "message",
    "next",
    "days",
    "startDate",
    "token",
    "overlap",
    "value",
    "zone",
    "name",
    "mode",
    "session",
)
VERBS: Final = (*("GET", "POST") * 6, "PUT", "DELETE", "HEAD", "PATCH")


def intruded() -> PortalPages:
    """A portal with two customers: the intruder and the victim, whose texts and numbers are SECRETS."""
    quota = QuotaSettings(9_000_000, Period.MONTH, counts=Counts.REQUESTS)
    numbers = {"m1": 11, "m2": 12, MINE: 13, **dict.fromkeys(("v1", "v2", "lone", THEIRS), THEIR_NUMBER)}
    return PortalPages(
        StoredPlan(UsagePlan("gold", "Gold", quota=quota, limits_per=LimitsPer.CUSTOMER), nonce="n"),
        StoredPlan(UsagePlan("secret-plan", "Victims-plan-name", quota=quota), nonce="n"),
        StoredCustomer(Customer(THEIRS, "Victims-customer-name"), 1, 1),
        key_of("m1", "value-of-mallory-012345678", MINE, "gold.n"),
        key_of("m2", "second-of-mallory-01234567", MINE, "gold.n"),
        *(
            key_of(
                key_id,
                f"value-of-victim-0123456789{key_id}",
                None if key_id == "lone" else THEIRS,
                "gold.n",
                "secret-plan.n",
                name="Victims-key-name",
                description="Victims-description",
            )
            for key_id in ("v1", "v2", "lone")
        ),
        *(
            AlertTarget(
                target_id, "Alerts", f"https://{host}/", 1, 1, SEALER.seal("whsec_c2VjcmV0", target_id), True, customer
            )
            for target_id, host, customer in (
                ("vt", "victims-receiver.example", THEIRS),
                ("mt", "own-receiver.example", MINE),
                ("at", "owners-receiver.example", None),
            )
        ),
        usage=Counted(numbers),
    )


SESSIONS: Final = (
    CustomerSession(customer_id=MINE, may_rotate=True),
    CustomerSession(customer_id=MINE),
    CustomerSession(key_id="m1", may_rotate=True),
    CustomerSession(key_id="m1"),
    CustomerSession(customer_id=""),
    CustomerSession(),
)


def attack(pages: PortalPages, chance: random.Random) -> int:
    """Send one request of the intruder, and return the status.

    Raises AssertionError if it reads or changes anything of others.
    """
    pages.sign_in(chance.choice(SESSIONS))
    before = _theirs(pages)
    verb, path, more = _request(chance)
    answer = pages.send(verb, path, **more)
    seen = answer.text + json.dumps(dict(answer.headers))
    leaked = [secret for secret in SECRETS if secret in seen]
    leaked += [found[0] for found in LARGE.finditer(answer.text)]
    assert not leaked, (verb, path, more, leaked)
    assert _theirs(pages) == before, (verb, path, more)
    assert answer.status_code < 500, (verb, path, more, answer.text)
    return answer.status_code


def _theirs(pages: PortalPages) -> dict[Any, Any]:
    return {name: item for name, item in pages.store.items.items() if name[1] in OTHERS}


def _request(chance: random.Random) -> tuple[str, str, dict[str, Any]]:
    template = chance.choice(PATHS)
    path = template.format(*(_word(chance, IDS) for _ in range(template.count("{}"))))
    fields = [(chance.choice(NAMES), _word(chance, (*IDS, *POSITIONS, "true", "0", "3600", "30"))) for _ in range(4)]
    cut = chance.randrange(5)
    query = "&".join(f"{name}={value}" for name, value in fields[:cut])
    headers = {"Sec-Fetch-Site": "same-origin", **_headers(chance)}
    more: dict[str, Any] = {"headers": headers}
    if chance.random() < 0.2:
        more["json"] = dict(fields)
    else:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        more["content"] = "&".join(f"{name}={value}" for name, value in [*fields[cut:], *_roll(chance)]).encode()
    return chance.choice(VERBS), path + (f"?{query}" if query else ""), more


def _roll(chance: random.Random) -> Sequence[tuple[str, str]]:
    return [("overlap", "3600")] if chance.random() < 0.7 else []


def _word(chance: random.Random, words: Sequence[str]) -> str:
    word = quote(chance.choice(words), safe="")
    return chance.choice((word, word, word, word.upper(), f"{word}%00", f"%2e%2e%2f{word}", f"{word}/", quote(word)))


def _headers(chance: random.Random) -> dict[str, str]:
    """Headers in which a program may name a caller."""
    names = (
        "x-api-key",
        "x-api-key-id",
        "x-customer-id",
        "x-usage-plan-id",
        "x-original-url",
        "x-http-method-override",
    )
    return {name: chance.choice(IDS) for name in names if chance.random() < 0.1}
