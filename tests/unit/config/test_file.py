"""Reading the configuration: every mistake has an address, every setting an origin, and no secret is repeated."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from click.testing import CliRunner

from authz.cli.main import cli
from authz.config.faults import ConfigError
from authz.config.file import (
    REFUSED,
    TAKES_PUBLISHED,
    Config,
    LoaderError,
    LoaderStoppedError,
    load,
    load_in_child,
    parse,
    stamp,
)
from authz.core.resources import HttpMethod, ThrottleSettings, digest
from authz.core.rules import value_problem
from authz.ids import random_key_value
from tests.support.builders import resources, value_of

SECRET = "K1-a-value-that-nobody-may-read"
FILE = f"""
settings:
  replicas: 2
apis:
  - id: a1
    resources: {{/pets: {{GET: {{}}}}}}
    stages: [{{name: prod}}]
usagePlans:
  - id: p1
    name: Silver
    throttle: {{rateLimit: 50, burstLimit: 100}}
    apiStages: [{{apiId: a1, stage: prod}}]
    keys: [k1]
apiKeys:
  - id: k1
    value: {SECRET}
    expiresAt: 2030-01-31T23:59:59Z
"""


PLACE = re.compile(r" \(line \d+(, in [^()]+)?\)$")


def refusal(text: str) -> list[str]:
    """Return the lines of the refusal of `text`, without the line number and the item at their ends."""
    return [PLACE.sub("", line) for line in refusal_with_places(text)]


def refusal_with_places(text: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        parse(text, "plans.yaml")
    return str(refused.value).splitlines()


# --- the file -----------------------------------------------------------------------------------------------------


def test_a_file_becomes_settings_and_resources() -> None:
    config = parse(FILE, "plans.yaml")
    assert config.settings == {"replicas": 2}
    assert config.resources.usage_plans[0].throttle is not None
    assert config.resources.usage_plans[0].throttle.rate_limit == 50.0
    assert config.resources.api_keys[0].expires_at == datetime(2030, 1, 31, 23, 59, 59, tzinfo=UTC)


@pytest.mark.parametrize("text", ["apis: []", "{}", "\ufeffapis: []", "apis: []\nsettings:\n"])
def test_every_part_of_a_file_may_be_left_out(text: str, tmp_path: Path) -> None:
    path = tmp_path / "plans.yaml"
    path.write_text(text, encoding="utf-8")
    assert load(path).resources.apis == ()


@pytest.mark.parametrize(
    ("written", "rate"), [("1e3", 1000), ("1.5e3", 1500), (".5", 0.5), ("1_000", 1000), ("0.25", 0.25), ("+5e-1", 0.5)]
)
def test_a_rate_is_written_as_numbers_are(written: str, rate: float) -> None:
    plan = parse(FILE.replace("50", written), "plans.yaml").resources.usage_plans[0]
    assert plan.throttle == ThrottleSettings(rate_limit=rate, burst_limit=100)


def test_a_field_has_one_name_in_file_and_api() -> None:
    """The file uses the names of AWS's API, each only in its own place."""
    text = """
account: {throttleSettings: {rateLimit: 1, burstLimit: 2}}
apis: [{id: a1, stages: [{name: prod, methodSettings: {"*/*": {throttlingRateLimit: 3, throttlingBurstLimit: 4}}}]}]
apiKeys: [{id: k1, value: "a-value-of-twenty-characters", expiresAt: 2030-01-31T23:59:59Z}]
"""
    found = parse(text, "plans.yaml").resources
    assert found.account.throttle_settings == ThrottleSettings(1.0, 2)
    assert found.apis[0].stages[0].method_settings["*/*"].throttling_burst_limit == 4
    assert found.api_keys[0].expires_at == datetime(2030, 1, 31, 23, 59, 59, tzinfo=UTC)
    (refused,) = refusal("account: {throttle: {rateLimit: 1}}")
    assert refused.startswith("plans.yaml: $.account.throttle: unknown field")


def test_digits_in_quotes_are_a_text() -> None:
    assert parse("apis: [{id: '0100'}]", "plans.yaml").resources.apis[0].id == "0100"


def test_a_moment_is_the_same_content_in_every_zone() -> None:
    moved = parse(FILE.replace("23:59:59Z", "12:59:59-11:00"), "plans.yaml")
    assert moved.content == parse(FILE, "plans.yaml").content
    assert moved.resources.api_keys[0].expires_at == datetime(2030, 1, 31, 23, 59, 59, tzinfo=UTC)


def test_an_anchored_mapping_with_an_override_can_be_merged() -> None:
    """Its own key wins over the merged one, and does not count as a duplicate."""
    text = """
apis: [{id: a, stages: [{name: s, variables: &one {x: '1', y: '1'}}, {name: t, variables: &two {<<: *one, x: '2'}}]}]
usagePlans: [{id: p, name: P, tags: {<<: *two, z: '3'}}]
"""
    found = parse(text, "plans.yaml").resources
    assert found.apis[0].stages[1].variables == {"x": "2", "y": "1"}
    assert found.usage_plans[0].tags == {"x": "2", "y": "1", "z": "3"}


def test_merges_of_merges_do_not_grow() -> None:
    """Each of ten mappings merges the one before it ten times; together that would be 10¹⁰ keys."""
    merged = (f"  {new}: &{new} {{<<: [{', '.join(['*' + old] * 10)}]}}" for old, new in pairwise("abcdefghijk"))
    assert len(refusal("\n".join(["settings:", "  a: &a {x: 1}", *merged]))) == 11


THROTTLED = "$.apis[0].stages[0].gatewayResponses['THROTTLED']"
PLAIN = "expected a number in decimal without leading zeros, or a text in quotes"
ZONELESS = "expected a time with its zone, such as 2030-01-31T23:59:59Z, got '2030-01-31T23:59:59'"
NO_MAPPING = "expected a mapping, got 1"
PERIODS = "expected one of HOUR, DAY, WEEK, MONTH, TOTAL"
UP_TO = "expected a whole number from 1 to 2147483647 or UNLIMITED"
QUOTA = "quota: {limit: 5, period: MONTH}"
SHAPES = {
    "empty": ("", "plans.yaml: the file is empty"),
    "comment": ("# nothing yet", "plans.yaml: the file is empty"),
    "list": ("- a", "plans.yaml: expected a mapping with apis, usagePlans and apiKeys"),
    "two documents": (
        "apis: []\n---\napis: []",
        "plans.yaml: line 2, column 1: not valid YAML: but found another document",
    ),
    "open bracket": (
        "apis: []\nusagePlans: [",
        "plans.yaml: line 3, column 1: not valid YAML: did not find expected node content",
    ),
    "tab": (
        "apis:\n\t- id: a1",
        "plans.yaml: line 2, column 1: not valid YAML: found character that cannot start any token",
    ),
    "control character": (
        "apis: []\na: \x01",
        "plans.yaml: line 2: not valid YAML: control characters are not allowed",
    ),
    "key given twice": (
        "apis: []\nusagePlans: []\napis: []",
        "plans.yaml: line 3, column 1: the key apis is given twice",
    ),
    "unknown field": ("apiz: []", "plans.yaml: $.apiz: unknown field; did you mean apis?"),
    "misspelt settings": ("setings: {}", "plans.yaml: $.setings: unknown field; did you mean settings?"),
    "settings as a list": ("settings: [1]", "plans.yaml: $.settings: expected a mapping, got a list"),
    "setting": ("settings: {replicas: 0}", "plans.yaml: $.settings.replicas: expected a whole number ≥ 1, got 0"),
    "unknown setting": (
        "settings: {redisURL: redis://h}",
        "plans.yaml: $.settings.redisURL: unknown field; did you mean redisUrl?",
    ),
    "missing field": ("apiKeys: [{name: x, value: aaaaaaaaaaaaaaaaaaaa}]", "plans.yaml: $.apiKeys[0].id: required"),
    "not a list": ("apis: {}", "plans.yaml: $.apis: expected a list, got a mapping"),
    "nothing": ("apis: [null]", "plans.yaml: $.apis[0]: expected a mapping, got nothing"),
    "id": ("apis: [{id: a b}]", "plans.yaml: $.apis[0].id: expected 1 to 128 letters, digits, - or _, got 'a b'"),
    "id with a line end": (
        'apis: [{id: "a\\n"}]',
        "plans.yaml: $.apis[0].id: expected 1 to 128 letters, digits, - or _",
    ),
    "number for a text": (
        "apis: [{id: 12}]",
        "plans.yaml: $.apis[0].id: expected a text, got 12: put it in quotes",
    ),
    "yes for a text": (
        "apis: [{id: yes}]",
        "plans.yaml: $.apis[0].id: expected a text, got yes, which YAML reads as true: put it in quotes",
    ),
    "rate": (
        "usagePlans: [{id: p, name: P, throttle: {rateLimit: -1}}]",
        "plans.yaml: $.usagePlans[0].throttle.rateLimit: expected a number ≥ 0, got -1",
    ),
    "rate that is none": (
        "usagePlans: [{id: p, name: P, throttle: {rateLimit: .nan}}]",
        "plans.yaml: $.usagePlans[0].throttle.rateLimit: expected a number ≥ 0, got nan",
    ),
    "rate in words": (
        "usagePlans: [{id: p, name: P, throttle: {rateLimit: fast}}]",
        "plans.yaml: $.usagePlans[0].throttle.rateLimit: expected a number, got 'fast'",
    ),
    "burst": (
        "usagePlans: [{id: p, name: P, throttle: {burstLimit: 2147483648}}]",
        "plans.yaml: $.usagePlans[0].throttle.burstLimit: expected a whole number ≤ 2147483647, got 2147483648",
    ),
    "stage rate": (
        "apis: [{id: a, stages: [{name: s, methodSettings: {'*/*': {throttlingRateLimit: -2}}}]}]",
        "plans.yaml: $.apis[0].stages[0].methodSettings['*/*'].throttlingRateLimit: expected a number ≥ -1, got -2",
    ),
    "quota of 0": (
        "usagePlans: [{id: p, name: P, quota: {limit: 0, period: DAY}}]",
        "plans.yaml: $.usagePlans[0].quota.limit: expected a whole number ≥ 1, got 0",
    ),
    "period": (
        "usagePlans: [{id: p, name: P, quota: {limit: 1, period: YEAR}}]",
        "plans.yaml: $.usagePlans[0].quota.period: expected one of HOUR, DAY, WEEK, MONTH, TOTAL, got 'YEAR'",
    ),
    "mode": (
        "usagePlans: [{id: p, name: P, mode: shaddow}]",
        "plans.yaml: $.usagePlans[0].mode: expected one of enforce, shadow, got 'shaddow'; did you mean shadow?",
    ),
    "period in lower case": (
        "usagePlans: [{id: p, name: P, quotas: [{limit: 1, period: DAY}, {limit: 1, period: monthly}]}]",
        f"plans.yaml: $.usagePlans[0].quotas[1].period: {PERIODS}, got 'monthly'; did you mean MONTH?",
    ),
    "quota and quotas": (
        f"usagePlans: [{{id: p, name: P, {QUOTA}, quotas: [{{limit: 9, period: HOUR}}]}}]",
        "plans.yaml: $.usagePlans[0].quota: expected quota or quotas, not both: put this one into quotas, as the first",
    ),
    "no quotas": (
        "usagePlans: [{id: p, name: P, quotas: []}]",
        "plans.yaml: $.usagePlans[0].quotas: expected at least one quota; leave quotas out if the plan has none",
    ),
    "who counts": (
        "usagePlans: [{id: p, name: P, limitsPer: customers}]",
        "plans.yaml: $.usagePlans[0].limitsPer: expected one of KEY, CUSTOMER, got 'customers'; did you mean CUSTOMER?",
    ),
    "unit": (
        "usagePlans: [{id: p, name: P, throttle: {rateLimit: 1, counts: UNIT}}]",
        "plans.yaml: $.usagePlans[0].throttle.counts: expected one of REQUESTS, UNITS, got 'UNIT'; did you mean UNITS?",
    ),
    "anchor": (
        "usagePlans: [{id: p, name: P, quota: {limit: 1, period: MONTH, anchor: billingDay}}]",
        (
            "plans.yaml: $.usagePlans[0].quota.anchor: expected one of CALENDAR, BILLING_DAY, got 'billingDay'; "
            "did you mean BILLING_DAY?"
        ),
    ),
    "endless overage in lower case": (
        "usagePlans: [{id: p, name: P, quota: {limit: 1, period: DAY, overage: {upTo: unlimited}}}]",
        f"plans.yaml: $.usagePlans[0].quota.overage.upTo: {UP_TO}, got 'unlimited'; did you mean UNLIMITED?",
    ),
    "overage of 0": (
        "usagePlans: [{id: p, name: P, quota: {limit: 1, period: DAY, overage: {upTo: 0}}}]",
        f"plans.yaml: $.usagePlans[0].quota.overage.upTo: {UP_TO}, got 0",
    ),
    "overage as a number": (
        "usagePlans: [{id: p, name: P, quota: {limit: 1, period: DAY, overage: 500}}]",
        "plans.yaml: $.usagePlans[0].quota.overage: expected a mapping, got 500; did you mean {upTo: 500}?",
    ),
    "overage as a word": (
        "usagePlans: [{id: p, name: P, quota: {limit: 1, period: DAY, overage: UNLIMITED}}]",
        (
            "plans.yaml: $.usagePlans[0].quota.overage: expected a mapping, got 'UNLIMITED'; "
            "did you mean {upTo: UNLIMITED}?"
        ),
    ),
    "alert without a list": (
        "usagePlans: [{id: p, name: P, quota: {limit: 1, period: DAY, alerts: 80}}]",
        "plans.yaml: $.usagePlans[0].quota.alerts: expected a list, got 80; did you mean [80]?",
    ),
    "alert with a percent sign": (
        "usagePlans: [{id: p, name: P, quota: {limit: 1, period: DAY, alerts: [80%]}}]",
        "plans.yaml: $.usagePlans[0].quota.alerts[0]: expected a whole number, got '80%'; did you mean 80?",
    ),
    "alert of 0": (
        "usagePlans: [{id: p, name: P, quota: {limit: 1, period: DAY, alerts: [0]}}]",
        "plans.yaml: $.usagePlans[0].quota.alerts[0]: expected a whole number ≥ 1, got 0",
    ),
    "nine alerts": (
        "usagePlans: [{id: p, name: P, quota: {limit: 1, period: DAY, alerts: [1, 2, 3, 4, 5, 6, 7, 8, 9]}}]",
        "plans.yaml: $.usagePlans[0].quota.alerts: expected at most 8 items",
    ),
    "cost": (
        "apis: [{id: a, resources: {/pets: {GET: {cost: 1000001}}}}]",
        "plans.yaml: $.apis[0].resources['/pets']['GET'].cost: expected a whole number ≤ 1000000, got 1000001",
    ),
    "cost from nowhere": (
        "apis: [{id: a, costFrom: {metadata: [my.filter], max: 9}}]",
        "plans.yaml: $.apis[0].costFrom.metadata: expected at least 2 items",
    ),
    "cost from a namespace without a name": (
        'apis: [{id: a, costFrom: {metadata: ["", cost], max: 9}}]',
        "plans.yaml: $.apis[0].costFrom.metadata[0]: expected at least 1 character, got ''",
    ),
    "cost from a field without a name": (
        'apis: [{id: a, resources: {/pets: {GET: {costFrom: {metadata: [my.filter, ""], max: 9}}}}}]',
        "plans.yaml: $.apis[0].resources['/pets']['GET'].costFrom.metadata[1]: expected at least 1 character, got ''",
    ),
    "cost without a maximum": (
        "apis: [{id: a, costFrom: {metadata: [my.filter, cost]}}]",
        "plans.yaml: $.apis[0].costFrom.max: required",
    ),
    "billing day with a leading zero": (
        "apiKeys: [{id: k, value: aaaaaaaaaaaaaaaaaaaa, billingDay: 08}]",
        "plans.yaml: $.apiKeys[0].billingDay: expected a whole number, got '08'; did you mean 8?",
    ),
    "billing day that February lacks": (
        "customers: [{id: acme, billingDay: 29}]",
        "plans.yaml: $.customers[0].billingDay: expected a whole number ≤ 28, got 29",
    ),
    "country as a customer": (
        "customers: [{id: NO}]",
        "plans.yaml: $.customers[0].id: expected a text, got NO, which YAML reads as false: put it in quotes",
    ),
    "number as a customer": (
        "customers: [{id: 1001}]",
        "plans.yaml: $.customers[0].id: expected a text, got 1001: put it in quotes",
    ),
    "customer given twice": (
        "customers: [{id: acme}, {id: acme}]",
        "plans.yaml: $.customers[1].id: the customer acme is already used by $.customers[0].id",
    ),
    "number as the plan of an override": (
        "customers: [{id: acme, overrides: {2024: {quotas: [{period: DAY, limit: 1}]}}}]",
        "plans.yaml: $.customers[0].overrides['2024']: expected a text, not a whole number: put it in quotes",
    ),
    "empty name": (
        "usagePlans: [{id: p, name: ''}]",
        "plans.yaml: $.usagePlans[0].name: expected at least 1 character, got ''",
    ),
    "unknown verb": (
        "apis: [{id: a, resources: {/pets: {FETCH: {}}}}]",
        f"plans.yaml: $.apis[0].resources['/pets']['FETCH']: expected one of {', '.join(get_args(HttpMethod))}",
    ),
    "status": (
        "apis: [{id: a, stages: [{name: s, gatewayResponses: {THROTTLED: {statusCode: '600'}}}]}]",
        f"plans.yaml: {THROTTLED}.statusCode: expected a status of three digits, such as '429', got '600'",
    ),
    "expiry": (
        "apiKeys: [{id: k, value: aaaaaaaaaaaaaaaaaaaa, expiresAt: tomorrow}]",
        "plans.yaml: $.apiKeys[0].expiresAt: expected a time such as 2030-01-31T23:59:59Z, got 'tomorrow'",
    ),
    "expiry without zone": (
        "apiKeys: [{id: k, value: aaaaaaaaaaaaaaaaaaaa, expiresAt: 2030-01-31T23:59:59}]",
        f"plans.yaml: $.apiKeys[0].expiresAt: {ZONELESS}",
    ),
    "expiry that no year holds in UTC": (
        "apiKeys: [{id: k, value: aaaaaaaaaaaaaaaaaaaa, expiresAt: '9999-12-31T23:59:59-14:00'}]",
        "plans.yaml: $.apiKeys[0].expiresAt: expected a time that is in the years 1 to 9999 in UTC, too",
    ),
    "octal": ("settings: {replicas: 0100}", f"plans.yaml: line 1, column 22: {PLAIN}"),
    "sexagesimal": ("usagePlans: [{throttle: {rateLimit: 1:30}}]", f"plans.yaml: line 1, column 37: {PLAIN}"),
    "sexagesimal fraction": (
        "usagePlans: [{throttle: {rateLimit: 1:30.5}}]",
        f"plans.yaml: line 1, column 37: {PLAIN}",
    ),
    "hexadecimal": ("settings: {replicas: 0x10}", f"plans.yaml: line 1, column 22: {PLAIN}"),
    "endless": ("settings: {replicas: " + "9" * 5000 + "}", f"plans.yaml: line 1, column 22: {PLAIN}"),
    "key given twice beside a merged mapping": (
        "apis: [&a {id: a1}, {<<: *a, name: x, name: y}]",
        "plans.yaml: line 1, column 39: the key name is given twice",
    ),
    "aliases of aliases": (
        "settings:\n  a: &a [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"  {new}: &{new} [{', '.join(['*' + old] * 10)}]\n" for old, new in pairwise("abcdefghi")),
        "plans.yaml: too large with its aliases written out",
    ),
    "long text many times over": (
        f"usagePlans: [&p {{id: p, name: {'x' * 100_000}}}{', *p' * 2000}]",
        "plans.yaml: too large with its aliases written out",
    ),
    "alias within what it stands for": (
        "settings: &a {b: *a}",
        "plans.yaml: nested too deeply, or an alias within what it stands for",
    ),
    "long word as a setting": (
        f"settings: {{{SECRET}: 1}}",
        "plans.yaml: $.settings.(31 characters): unknown field",
    ),
    "long word as a tag": (
        f"apiKeys: [{{id: k, tags: {{{SECRET}: 1}}}}]",
        "plans.yaml: $.apiKeys[0].tags['(31 characters)']: expected a text, not a whole number: put it in quotes",
    ),
    "long path": (
        "apis: [{id: a, resources: {'/customers/{id}/orders': {GET: 1}}}]",
        "plans.yaml: $.apis[0].resources['/customers/{id}/orders']['GET']: expected a mapping, got 1",
    ),
    "long kind of response": (
        "apis: [{id: a, stages: [{name: s, gatewayResponses: {MISSING_AUTHENTICATION_TOKEN: 1}}]}]",
        f"plans.yaml: {THROTTLED.replace('THROTTLED', 'MISSING_AUTHENTICATION_TOKEN')}: {NO_MAPPING}",
    ),
    "digest": (
        "apiKeys: [{id: k, valueSha256: ABC}]",
        "plans.yaml: $.apiKeys[0].valueSha256: expected 64 hexadecimal digits in lower case",
    ),
    "reference": (
        "usagePlans: [{id: p, name: P, keys: [k9]}]",
        "plans.yaml: $.usagePlans[0].keys[0]: there is no API key k9",
    ),
}


@pytest.mark.parametrize(("text", "line"), SHAPES.values(), ids=SHAPES)
def test_a_mistake_is_reported_with_its_address(text: str, line: str) -> None:
    assert refusal(text) == [line]


def test_all_mistakes_of_a_file_are_reported_at_once() -> None:
    text = """
settings: {logLevel: loud, foo: 1}
apis: [{id: a b, stages: [{name: 1}, {}]}, {}]
usagePlans: [{id: p, nmae: P, throttle: {rateLimit: fast, burstLimit: -1}}]
apiKeys: [{id: k1, enabled: maybe}, 7]
"""
    assert [re.sub(": .*", "", line.removeprefix("plans.yaml: ")) for line in refusal(text)] == [
        "$.settings.foo",
        "$.settings.logLevel",
        "$.apis[0].id",
        "$.apis[0].stages[0].name",
        "$.apis[0].stages[1].name",
        "$.apis[1].id",
        "$.usagePlans[0].nmae",
        "$.usagePlans[0].name",
        "$.usagePlans[0].throttle.rateLimit",
        "$.usagePlans[0].throttle.burstLimit",
        "$.apiKeys[0].enabled",
        "$.apiKeys[1]",
    ]


def test_an_unreadable_file_is_named_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"apis: \xe9")
    for name, rule in {"absent": "no such file", "latin": "expected UTF-8 text; byte 6 is none"}.items():
        with pytest.raises(ConfigError, match=re.escape(f"{tmp_path / name}: {rule}")):
            load(tmp_path / name)
    with pytest.raises(ConfigError, match="a directory, not a file"):
        load(tmp_path)


def test_a_comment_does_not_change_the_content_and_a_limit_does() -> None:
    original = parse(FILE, "plans.yaml").content
    assert parse(FILE + "# a remark\n", "plans.yaml").content == original
    assert parse(FILE.replace("50", "51"), "plans.yaml").content != original


def test_a_written_file_gets_another_stamp(tmp_path: Path) -> None:
    path = tmp_path / "plans.yaml"
    assert stamp(path) is None
    path.write_text(FILE)
    before = load(path).stamp
    assert before == stamp(path) is not None
    path.write_text(FILE + "#")
    assert stamp(path) != before


def test_the_file_may_be_named_in_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(FILE)
    run = CliRunner().invoke(cli, ["check-config"], env={"AUTHZ_CONFIG": str(path)})
    assert (run.exit_code, run.output.partition(": ")[0]) == (0, str(path))


# --- secrets ------------------------------------------------------------------------------------------------------


def test_only_the_digest_of_a_value_is_kept() -> None:
    config = parse(FILE, "plans.yaml")
    assert config.resources.api_keys[0].value is None
    assert config.resources.api_keys[0].value_sha256 == digest(SECRET).hex()
    assert SECRET not in repr(config)


@pytest.mark.parametrize(
    "entry",
    [
        f"{{id: k, value: '{SECRET},'}}",
        f"{{id: k, value: {SECRET}, value: {SECRET}}}",
        f"{{id: k, value: *{SECRET}}}",
        f"{{id: k, value: !{SECRET} x}}",
        f"{{id: k, value: &{SECRET} x, name: &{SECRET} x}}",
        f"{{id: k, value: {SECRET}, name: [}}",
        f"{{id: k, value: [{SECRET}]}}",
        f"{{id: k, valueSha256: {SECRET}}}",
        f"{{id: k, {SECRET}}}",
        f"{{id: k, enabled: {SECRET}}}",
        f"{{id: k, tags: {{{SECRET}: 1}}}}",
        f"{{id: {SECRET}, value: {SECRET}}}",
        f"{{id: {SECRET}, value: {SECRET}}}, {{id: {SECRET}, value: x}}",
        f"{{id: k, value: {SECRET}}}, {{id: l, value: {SECRET}}}",
        SECRET,
    ],
)
def test_no_message_repeats_a_value(entry: str) -> None:
    assert SECRET not in "\n".join(refusal(f"apiKeys: [{entry}]"))


def test_no_message_repeats_a_value_in_the_place_of_an_id() -> None:
    """The likeliest mistake: a plan lists a key's value instead of its id."""
    lines = refusal(FILE.replace("keys: [k1]", f"keys: [{SECRET}, {SECRET}]"))
    rule = "this is the value of $.apiKeys[0]; expected its id"
    assert lines == [f"plans.yaml: $.usagePlans[0].keys[{n}]: {rule}" for n in range(2)]


def test_new_keys_are_acceptable_and_different() -> None:
    values = {random_key_value() for _ in range(100)}
    assert len(values) == 100
    assert all(value_problem(value) is None and len(value) == 37 for value in values)


MISTYPED = "upk_" + "0" * 33
TYPO = (
    "plans.yaml: $.apiKeys[0].value: it begins with upk_ and has 37 characters, as generated keys do, and its checksum "
    "is wrong: copy it again, or take a value of another form"
)


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        ("", [TYPO]),
        ("settings: {keyPrefix: upk}", [TYPO]),
        ("settings: {keyPrefix: acme}", []),
        ('settings: {keyPrefix: ""}', []),
    ],
)
def test_a_mistyped_value_is_reported_and_not_repeated(settings: str, lines: list[str]) -> None:
    text = f"{settings}\napiKeys: [{{id: k1, value: {MISTYPED}}}]\n"
    assert (refusal(text) if lines else [*parse(text, "plans.yaml").published]) == lines


@pytest.mark.parametrize("prefix", ["Acme", "a-b", "_a", "a_", "1a", "a" * 31, "a b"])
def test_a_prefix_is_a_word_in_lower_case(prefix: str) -> None:
    [line] = refusal(f"settings: {{keyPrefix: '{prefix}'}}\n")
    assert line.startswith("plans.yaml: $.settings.keyPrefix: expected ")


# --- the child ----------------------------------------------------------------------------------------------------


def child(path: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "authz.config.file", path], capture_output=True, check=False, timeout=60
    )


async def test_the_child_hands_back_what_the_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "plans.yaml"
    path.write_text(FILE)
    assert await load_in_child(path) == load(path)
    assert SECRET.encode() not in child(path).stdout


async def test_the_child_hands_back_the_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "plans.yaml"
    path.write_text(FILE.replace("50", "fast"))
    with pytest.raises(ConfigError, match=r"rateLimit: expected a number, got") as refused:
        await load_in_child(path)
    assert not isinstance(refused.value, LoaderError)
    ended = child(path)
    assert (ended.returncode, ended.stderr) == (REFUSED, b"")
    assert SECRET.encode() not in ended.stdout


async def test_the_child_imports_nothing_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file named secrets.py may lie beside plans.yaml."""
    (tmp_path / "plans.yaml").write_text(FILE)
    (tmp_path / "secrets.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    assert (await load_in_child(Path("plans.yaml"))).settings == {"replicas": 2}


async def test_a_child_that_is_killed_may_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = tmp_path / "python"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killed))
    with pytest.raises(LoaderStoppedError, match=r"ended with status -9"):
        await load_in_child(tmp_path / "plans.yaml")


async def test_a_child_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    """A FIFO without a writer is a file whose end never comes."""
    path = tmp_path / "plans.yaml"
    os.mkfifo(path)
    with pytest.raises(LoaderStoppedError, match=r"not read within 0.2 s"):
        await load_in_child(path, 0.2)


def test_a_configuration_survives_messagepack() -> None:
    config = Config({"replicas": 2}, resources(), "abc", ("/plans.yaml", 1, 2, 3, 4))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(config), type=Config) == config
    assert value_of("k1") not in repr(config)


# --- published keys -----------------------------------------------------------------------------------------------

SAMPLE = Path(__file__).parents[3] / "authz/samples/plans.yaml"


def test_the_keys_of_the_sample_open_nothing() -> None:
    """They are public, so they are disabled, as digests too, and a warning says so."""
    found = load(SAMPLE)
    assert [key.enabled for key in found.resources.api_keys] == [False] * 7
    assert found.published == tuple(key.id for key in found.resources.api_keys)
    assert found.warning
    assert "See `authz new-key`" in found.warning
    digests = [f"{{id: {key.id}, valueSha256: {key.value_sha256}}}" for key in found.resources.api_keys]
    again = parse(f"apiKeys: [{', '.join(digests)}]", "plans.yaml")
    assert again.published == found.published


@pytest.mark.parametrize("value", ["demo-key-acme-0000000001", "demo-key-mine-and-no-other"])
def test_a_key_that_is_made_after_the_samples_pattern_opens_nothing(value: str) -> None:
    assert parse(f"apiKeys: [{{id: k1, value: {value}}}]", "plans.yaml").published == ("k1",)


@pytest.mark.parametrize("value", ["my-demo-key-acme-0000000", "demo-keys-of-ours-0000000", "Demo-Key-Acme-0000000000"])
def test_another_key_opens_what_its_plan_says(value: str) -> None:
    found = parse(f"apiKeys: [{{id: k1, value: {value}}}]", "plans.yaml")
    assert (found.published, found.resources.api_keys[0].enabled) == ((), True)


def test_authz_up_alone_takes_the_keys_of_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TAKES_PUBLISHED, "true")
    found = load(SAMPLE)
    assert (found.published, [key.enabled for key in found.resources.api_keys]) == ((), [True] * 7)


# --- places -------------------------------------------------------------------------------------------------------

LONG = "\n".join(
    [
        "apis:",
        "  - {id: a1, stages: [{name: prod}]}",
        "usagePlans:",
        *(f"  - id: plan-{n}\n    name: Plan {n}\n    throttle:\n      burstLimit: {n}" for n in range(500)),
    ]
)


@pytest.mark.parametrize(
    ("was", "wrong", "says"),
    [
        (
            "burstLimit: 400",
            "burstLimit: 1.5",
            "throttle.burstLimit: expected a whole number, got 1.5 (line 1607, in plan-400)",
        ),
        ("burstLimit: 400", "burstLimit: lots", "expected a whole number, got 'lots' (line 1607, in plan-400)"),
        ("burstLimit: 400", "burstlimit: 4", "unknown field; did you mean burstLimit? (line 1607, in plan-400)"),
        ("name: Plan 400", "name: ", "name: expected a text, got nothing (line 1605, in plan-400)"),
        ("id: plan-400", "id: plan-399", "is already used by $.usagePlans[399].id (line 1604, in plan-399)"),
        ("id: plan-400", "nope: 1", "id: required (line 1604, in Plan 400)"),
    ],
)
def test_a_mistake_in_a_large_file_has_its_line_its_item_and_its_value(was: str, wrong: str, says: str) -> None:
    lines = refusal_with_places(LONG.replace(f"{was}\n", f"{wrong}\n"))
    assert [line for line in lines if says in line] != [], lines


@pytest.mark.parametrize(
    "text",
    [
        "apiKeys: [{id: k1, value: 31415926}]",
        "apiKeys: [{id: k1, valueSha256: 31415926}]",
        "apiKeys: [{id: k1, value: [31415926]}]",
        "apiKeys: [{id: k1, value: 'x-31415926'}]",
        "apiKeys: [{id: k1, value: a-31415926-that-is-long-enough\n, keys: 3}]",
        "usagePlans: [{id: p, name: P, quota: {limit: a-31415926-of-some-length, period: DAY}}]",
        "usagePlans: [{id: p, name: P, keys: [a-31415926-of-some-length]}]",
        "apis: [{id: 'a 31415926 of some length', name: 1}]",
        "settings: {redisUrl: 31415926}",
        "settings: {redisUrl: 'redis://:31415926@h/x'}",
    ],
)
def test_a_value_that_might_be_secret_is_not_shown(text: str) -> None:
    assert [line for line in refusal_with_places(text) if "31415926" in line] == []
