"""Reading the configuration: every mistake has an address, every setting an origin, and no secret is repeated."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from authz.config import (
    REFUSED,
    Config,
    ConfigError,
    LoaderError,
    Settings,
    load,
    load_in_child,
    load_settings,
    mask_url,
    new_key,
    options,
    parse,
    stamp,
)
from authz.core.resources import FailurePolicy, HttpMethod, digest
from authz.core.rules import value_problem
from tests.builders import resources, value_of

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


def refusal(text: str) -> list[str]:
    """The lines that an operator reads about a file with such a text."""
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


THROTTLED = "$.apis[0].stages[0].gatewayResponses['THROTTLED']"
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
    "settings as a list": ("settings: [1]", "plans.yaml: $.settings: expected a mapping, not a list"),
    "setting": ("settings: {replicas: 0}", "plans.yaml: $.settings.replicas: expected a whole number ≥ 1"),
    "unknown setting": (
        "settings: {redisURL: redis://h}",
        "plans.yaml: $.settings.redisURL: unknown field; did you mean redisUrl?",
    ),
    "missing field": ("apiKeys: [{name: x, value: aaaaaaaaaaaaaaaaaaaa}]", "plans.yaml: $.apiKeys[0].id: required"),
    "not a list": ("apis: {}", "plans.yaml: $.apis: expected a list, not a mapping"),
    "nothing": ("apis: [null]", "plans.yaml: $.apis[0]: expected a mapping, not nothing"),
    "id": ("apis: [{id: a b}]", "plans.yaml: $.apis[0].id: expected 1 to 128 letters, digits, - or _"),
    "id with a line end": (
        'apis: [{id: "a\\n"}]',
        "plans.yaml: $.apis[0].id: expected 1 to 128 letters, digits, - or _",
    ),
    "number for a text": (
        "apis: [{id: 12}]",
        "plans.yaml: $.apis[0].id: expected a text, not a whole number: put it in quotes",
    ),
    "yes for a text": (
        "apis: [{id: yes}]",
        "plans.yaml: $.apis[0].id: expected a text, not true or false: put it in quotes",
    ),
    "rate": (
        "usagePlans: [{id: p, name: P, throttle: {rateLimit: -1}}]",
        "plans.yaml: $.usagePlans[0].throttle.rateLimit: expected a number ≥ 0",
    ),
    "rate that is none": (
        "usagePlans: [{id: p, name: P, throttle: {rateLimit: .nan}}]",
        "plans.yaml: $.usagePlans[0].throttle.rateLimit: expected a number ≥ 0",
    ),
    "rate in words": (
        "usagePlans: [{id: p, name: P, throttle: {rateLimit: fast}}]",
        "plans.yaml: $.usagePlans[0].throttle.rateLimit: expected a number, not a text",
    ),
    "burst": (
        "usagePlans: [{id: p, name: P, throttle: {burstLimit: 2147483648}}]",
        "plans.yaml: $.usagePlans[0].throttle.burstLimit: expected a whole number ≤ 2147483647",
    ),
    "stage rate": (
        "apis: [{id: a, stages: [{name: s, methodSettings: {'*/*': {throttlingRateLimit: -2}}}]}]",
        "plans.yaml: $.apis[0].stages[0].methodSettings['*/*'].throttlingRateLimit: expected a number ≥ -1",
    ),
    "quota of 0": (
        "usagePlans: [{id: p, name: P, quota: {limit: 0, period: DAY}}]",
        "plans.yaml: $.usagePlans[0].quota.limit: expected a whole number ≥ 1",
    ),
    "period": (
        "usagePlans: [{id: p, name: P, quota: {limit: 1, period: YEAR}}]",
        "plans.yaml: $.usagePlans[0].quota.period: expected one of DAY, WEEK, MONTH",
    ),
    "mode": (
        "usagePlans: [{id: p, name: P, mode: shaddow}]",
        "plans.yaml: $.usagePlans[0].mode: expected one of enforce, shadow",
    ),
    "empty name": (
        "usagePlans: [{id: p, name: ''}]",
        "plans.yaml: $.usagePlans[0].name: expected at least 1 character",
    ),
    "unknown verb": (
        "apis: [{id: a, resources: {/pets: {FETCH: {}}}}]",
        f"plans.yaml: $.apis[0].resources['/pets']['FETCH']: expected one of {', '.join(get_args(HttpMethod))}",
    ),
    "status": (
        "apis: [{id: a, stages: [{name: s, gatewayResponses: {THROTTLED: {statusCode: '600'}}}]}]",
        f"plans.yaml: {THROTTLED}.statusCode: expected a status of three digits, such as '429'",
    ),
    "expiry": (
        "apiKeys: [{id: k, value: aaaaaaaaaaaaaaaaaaaa, expiresAt: tomorrow}]",
        "plans.yaml: $.apiKeys[0].expiresAt: expected a time such as 2030-01-31T23:59:59Z",
    ),
    "expiry without zone": (
        "apiKeys: [{id: k, value: aaaaaaaaaaaaaaaaaaaa, expiresAt: 2030-01-31T23:59:59}]",
        "plans.yaml: $.apiKeys[0].expiresAt: expected a time with its zone, such as 2030-01-31T23:59:59Z",
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
def test_a_mistake_is_told_with_its_address(text: str, line: str) -> None:
    assert refusal(text) == [line]


def test_all_mistakes_of_a_file_are_told_at_once() -> None:
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


def test_what_cannot_be_read_is_told_by_its_path(tmp_path: Path) -> None:
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
        f"{{id: k, value: {SECRET}}}, {{id: l, value: {SECRET}}}",
        SECRET,
    ],
)
def test_no_message_repeats_a_value(entry: str) -> None:
    assert SECRET not in "\n".join(refusal(f"apiKeys: [{entry}]"))


def test_new_keys_are_acceptable_and_different() -> None:
    values = {new_key() for _ in range(100)}
    assert len(values) == 100
    assert all(value_problem(value) is None and len(value) == 40 for value in values)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("redis://:secret@h:1/0", "redis://:***@h:1/0"),
        ("redis://me:se%40cr%2Fet@h:1/0", "redis://me:***@h:1/0"),
        ("rediss://h/0?password=secret&ssl_cert_reqs=none", "rediss://h/0?password=***&ssl_cert_reqs=none"),
        ("redis://h/0?p%61ssword=secret", "redis://h/0?p%61ssword=***"),
        ("unix://me:secret@/run/redis?db=2", "unix://me:***@/run/redis?db=2"),
        ("unix:///run/redis?db=2&password=secret", "unix:///run/redis?db=2&password=***"),
    ],
)
def test_a_password_is_masked_however_it_is_given(url: str, masked: str) -> None:
    loaded = load_settings({"redisUrl": url}, {}, {})
    assert mask_url(url) == masked
    assert ("redisUrl", masked, "plans.yaml: $.settings.redisUrl") in loaded.shown()


# --- settings -----------------------------------------------------------------------------------------------------


def test_a_flag_wins_over_the_environment_over_the_file_over_the_default() -> None:
    sources: list[tuple[Mapping[str, object], Mapping[str, str], Mapping[str, object]]] = [
        ({}, {}, {"replicas": None}),
        ({"replicas": 2}, {}, {}),
        ({"replicas": 2}, {"AUTHZ_REPLICAS": "3"}, {}),
        ({"replicas": 2}, {"AUTHZ_REPLICAS": "3"}, {"replicas": 4}),
    ]
    found = [load_settings(*source) for source in sources]
    assert [(loaded.settings.replicas, loaded.origins["replicas"]) for loaded in found] == [
        (1, "default"),
        (2, "plans.yaml: $.settings.replicas"),
        (3, "environment AUTHZ_REPLICAS"),
        (4, "flag --replicas"),
    ]


def test_text_from_the_environment_becomes_what_the_setting_is() -> None:
    environ = {
        "AUTHZ_REFLECTION": "true",
        "AUTHZ_REFUSAL_LOG_SAMPLE": "0.25",
        "AUTHZ_FAILURE_POLICY": "deny",
        "AUTHZ_ACCOUNT_ID": "123456789012",
    }
    settings = load_settings({}, environ, {}).settings
    assert (settings.reflection, settings.refusal_log_sample) == (True, 0.25)
    assert (settings.failure_policy, settings.account_id) == (FailurePolicy.DENY, "123456789012")


@pytest.mark.parametrize(
    ("file_settings", "environ", "flags", "line"),
    [
        ({"replicas": 0}, {}, {}, "f.yaml: $.settings.replicas: expected a whole number ≥ 1"),
        ({}, {"AUTHZ_REPLICAS": "many"}, {}, "environment AUTHZ_REPLICAS: expected a whole number"),
        ({}, {"AUTHZ_REFLECTION": "perhaps"}, {}, "environment AUTHZ_REFLECTION: expected true or false"),
        ({}, {}, {"log_level": "loud"}, "flag --log-level: expected one of debug, info, warning, error"),
        ({}, {"AUTHZ_REPLICA": "1"}, {}, "environment AUTHZ_REPLICA: unknown setting; did you mean AUTHZ_REPLICAS?"),
        (
            {"accountId": 12},
            {},
            {},
            "f.yaml: $.settings.accountId: expected a text, not a whole number: put it in quotes",
        ),
        ({"refusalLogSample": 1.5}, {}, {}, "f.yaml: $.settings.refusalLogSample: expected a number ≤ 1"),
        ({"grpcListen": "50051"}, {}, {}, "f.yaml: $.settings.grpcListen: expected host:port or unix:/path"),
        ({"grpcListen": "h:70000"}, {}, {}, "f.yaml: $.settings.grpcListen: expected host:port or unix:/path"),
        (
            {"httpListen": "unix:a"},
            {},
            {},
            "f.yaml: $.settings.httpListen: expected unix: and an absolute path of at most 107 bytes",
        ),
        (
            {"httpListen": "127.0.0.1:50051"},
            {},
            {},
            "f.yaml: $.settings.httpListen: expected another address than grpcListen",
        ),
    ],
)
def test_a_bad_setting_is_told_with_its_origin(
    file_settings: dict[str, object], environ: dict[str, str], flags: dict[str, object], line: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        load_settings(file_settings, environ, flags, "f.yaml")
    assert str(refused.value) == line


@pytest.mark.parametrize(
    "url",
    [
        "http://secret@h",
        "redis://",
        "redis://:secret@/0",
        "redis://:secret@h:port",
        "redis://:se/cret@h:1/0",
        "redis://:se#cret@h:1/0",
        "redis://h/zero?password=secret",
        "redis://h?password=secret&socket_timeout=9",
        "redis://h?password=secret&db=zero",
        "unix://?password=secret",
    ],
)
def test_a_bad_redis_url_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_settings({"redisUrl": url}, {}, {})
    assert str(refused.value).startswith("plans.yaml: $.settings.redisUrl: expected ")
    assert "cret" not in str(refused.value)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::1]:50051", "sidecar.local:1", "unix:/run/authz.sock"])
def test_an_address_is_a_host_and_port_or_a_socket(address: str) -> None:
    assert load_settings({"grpcListen": address}, {}, {}).settings.grpc_listen == address


@pytest.mark.parametrize(
    "variable",
    [
        "AUTHZ_TEST_REDIS",
        "AUTHZ_CONFIG",
        "AUTHZ_SERVICE_HOST",
        "AUTHZ_SERVICE_PORT_GRPC",
        "AUTHZ_PORT",
        "AUTHZ_PORT_50051_TCP_ADDR",
        "AUTHZ_METRICS_PORT_9190_TCP",
        "AUTHZED",
    ],
)
def test_variables_of_kubernetes_services_and_of_tests_are_no_settings(variable: str) -> None:
    """A Service named authz sets AUTHZ_SERVICE_HOST in every container; that must not keep us from starting."""
    assert load_settings({}, {variable: "x"}, {}).settings == Settings()


def test_every_setting_has_a_flag_a_variable_and_a_help_text() -> None:
    assert all(option.help.endswith(".") for option in options())
    timeout = next(option for option in options() if option.field == "redis_timeout_ms")
    assert (timeout.name, timeout.flag, timeout.variable, timeout.default) == (
        "redisTimeoutMs",
        "--redis-timeout-ms",
        "AUTHZ_REDIS_TIMEOUT_MS",
        50,
    )
    policy = next(option for option in options() if option.field == "failure_policy")
    assert policy.choices == ("local", "allow", "deny")


# --- the child ----------------------------------------------------------------------------------------------------


def child(path: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "authz.config", path], capture_output=True, check=False, timeout=60)


async def test_the_child_hands_back_what_the_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "plans.yaml"
    path.write_text(FILE)
    assert await load_in_child(path) == load(path)
    assert SECRET.encode() not in child(path).stdout


async def test_the_child_hands_back_the_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "plans.yaml"
    path.write_text(FILE.replace("50", "fast"))
    with pytest.raises(ConfigError, match=r"rateLimit: expected a number, not a text") as refused:
        await load_in_child(path)
    assert not isinstance(refused.value, LoaderError)
    ended = child(path)
    assert (ended.returncode, ended.stderr) == (REFUSED, b"")
    assert SECRET.encode() not in ended.stdout


async def test_a_child_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    """A FIFO that nobody writes to is a file that is never read to its end."""
    path = tmp_path / "plans.yaml"
    os.mkfifo(path)
    with pytest.raises(LoaderError, match=r"not read within 0.2 s"):
        await load_in_child(path, 0.2)


def test_a_configuration_survives_messagepack() -> None:
    config = Config({"replicas": 2}, resources(), "abc", ("/plans.yaml", 1, 2, 3, 4))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(config), type=Config) == config
    assert value_of("k1") not in repr(config)
