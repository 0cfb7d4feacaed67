"""The two forms of a plan's quotas: `quota` or `quotas` in a file, AWS's and the further ones in Resources."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import yaml

from authz.config.file import parse
from authz.config.quotas import as_written, to_document
from authz.core.problem import Problem
from authz.core.resources import UsagePlan

HOUR = {"limit": 10, "period": "HOUR"}
DAY = {"limit": 50, "period": "DAY"}
MONTH = {"limit": 900, "period": "MONTH", "timeZone": "Europe/Paris", "alerts": [80, 100]}
TOTAL = {"limit": 9000, "period": "TOTAL", "counts": "REQUESTS"}


def plans(*given: dict[str, Any]) -> tuple[UsagePlan, ...]:
    listed = [{"id": f"p{n}", "name": "P", **fields} for n, fields in enumerate(given)]
    return parse(yaml.safe_dump({"usagePlans": listed}), "plans.yaml").resources.usage_plans


def values(found: object) -> Any:
    return msgspec.json.decode(msgspec.json.encode(found))


@pytest.mark.parametrize(
    ("written", "quota", "quotas"),
    [
        ({}, None, []),
        ({"quota": None, "quotas": [DAY]}, DAY, []),
        ({"quota": DAY}, DAY, []),
        ({"quota": HOUR}, None, [HOUR]),
        ({"quotas": [DAY]}, DAY, []),
        ({"quotas": [MONTH, HOUR, TOTAL]}, MONTH, [HOUR, TOTAL]),
        ({"quotas": [HOUR, MONTH]}, None, [HOUR, MONTH]),
        ({"quotas": [TOTAL, HOUR]}, None, [TOTAL, HOUR]),
    ],
)
def test_the_first_quota_is_aws_s_if_aws_knows_its_period(
    written: dict[str, Any], quota: dict[str, Any] | None, quotas: list[dict[str, Any]]
) -> None:
    (plan,) = plans(written)
    assert values((plan.quota, plan.quotas)) == [quota, quotas]
    assert values(plan.all_quotas) == [*filter(None, [quota]), *quotas]


@pytest.mark.parametrize(
    ("written", "address", "spelled"),
    [
        ({"quota": DAY}, "quota.offset", "quota.offset"),
        ({"quota": HOUR}, "quotas[0].limit", "quota.limit"),
        ({"quotas": [DAY]}, "quota.limit", "quotas[0].limit"),
        ({"quotas": [DAY, HOUR, TOTAL]}, "quota", "quotas[0]"),
        ({"quotas": [DAY, HOUR, TOTAL]}, "quotas[0].timeZone", "quotas[1].timeZone"),
        ({"quotas": [DAY, HOUR, TOTAL]}, "quotas[1]", "quotas[2]"),
        ({"quotas": [HOUR, DAY]}, "quotas[1].limit", "quotas[1].limit"),
        ({"quotas": [HOUR, DAY]}, "quotas", "quotas"),
        ({"quota": DAY}, "throttle.rateLimit", "throttle.rateLimit"),
    ],
)
def test_a_mistake_has_the_address_that_the_file_spells(written: dict[str, Any], address: str, spelled: str) -> None:
    text = yaml.safe_dump({"usagePlans": [{"id": "p", "name": "P", **written}]})
    resources = parse(text, "plans.yaml").resources
    found = as_written(Problem(f"$.usagePlans[0].{address}", "a rule"), yaml.safe_load(text), resources)
    assert found == Problem(f"$.usagePlans[0].{spelled}", "a rule")


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ({"quota": DAY}, {"quota": DAY}),
        ({"quotas": [MONTH]}, {"quota": MONTH}),
        ({"quota": HOUR}, {"quota": HOUR}),
        ({"quotas": [MONTH, HOUR]}, {"quotas": [MONTH, HOUR]}),
        ({"quotas": [HOUR, MONTH]}, {"quotas": [HOUR, MONTH]}),
        ({}, {}),
    ],
)
def test_a_document_has_quota_or_quotas(written: dict[str, Any], shown: dict[str, Any]) -> None:
    resources = parse(yaml.safe_dump({"usagePlans": [{"id": "p", "name": "P", **written}]}), "plans.yaml").resources
    document = to_document(resources)
    assert document["usagePlans"] == [{"id": "p", "name": "P", **shown}]
    assert parse(yaml.safe_dump(document), "plans.yaml").resources == resources
