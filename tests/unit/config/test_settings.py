"""Settings: the first source that gives one wins, an error names its source, and no password is shown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from authz.config.faults import ConfigError
from authz.config.settings import Settings, load_settings, options
from authz.core.resources import FailurePolicy
from authz.redisio.url import mask_url


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
        ({"AUTHZ_REPLICAS": 1}, {}, {}, "f.yaml: $.settings.AUTHZ_REPLICAS: unknown field"),
        ({"AUTHZ_SERVER": "pyvoy"}, {}, {}, "f.yaml: $.settings.AUTHZ_SERVER: unknown field"),
        ({"AUTHZ_HOST": "pyvoy"}, {}, {}, "f.yaml: $.settings.AUTHZ_HOST: unknown field"),
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
def test_a_bad_setting_is_reported_with_its_origin(
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
        "redis://h/0?pass\nword=secret",
        " redis://:secret@h",
        "redis+sentinel://:secret@h:1,h:2",
        "redis+sentinel://:secret@h:1/name/zero",
        "redis+sentinel://:se/cret@h:1/name",
        "redis+sentinel://:12/cret@h:1/name",
        "redis+sentinel://:se@cret@h:1/name",
        "redis+sentinel://:secret@h:1,/name",
        "redis+sentinel://:secret@h:0/name",
        "redis+sentinel://:secret@[h]:1/name",
        "redis+sentinel://:secret@[1:2]:1/name",
        "redis+sentinel://h:1/name?sentinel_password=secret&db=1",
        "redis+sentinel://h:1/name?sentinel_password=secret&ssl_cert_reqs=none",
        "redis+sentinel:secret",
        "redis+cluster://:secret@/",
        "redis+cluster://:secret@h:1/1",
        "redis+cluster://:secret@h:1/name",
        "redis+cluster://:secret@h:65536",
        "redis+cluster://h?sentinel_password=secret",
        "unix+cluster://:secret@h:1",
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
        "AUTHZ_TEST_BROWSER",
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
    """A Service named authz sets AUTHZ_SERVICE_HOST in every container; authz starts nevertheless."""
    assert load_settings({}, {variable: "x"}, {}).settings == Settings()


@pytest.mark.parametrize(
    ("file_settings", "environ", "flags", "warning"),
    [
        ({"host": "pyvoy"}, {}, {}, "f.yaml: $.settings.host: renamed; use server"),
        ({}, {"AUTHZ_HOST": "pyvoy"}, {}, "environment AUTHZ_HOST: renamed; use AUTHZ_SERVER"),
        ({}, {}, {"host": "pyvoy"}, "flag --host: renamed; use --server"),
    ],
)
def test_a_former_name_still_sets_the_setting_and_is_warned_about(
    file_settings: dict[str, object], environ: dict[str, str], flags: dict[str, object], warning: str
) -> None:
    loaded = load_settings(file_settings, environ, flags, "f.yaml")
    assert loaded.settings.server == "pyvoy"
    assert [str(found) for found in loaded.warnings] == [f"{warning}. The next release refuses the old name"]


def test_the_new_name_wins_over_the_former_one() -> None:
    loaded = load_settings({}, {"AUTHZ_HOST": "pyvoy", "AUTHZ_SERVER": "grpcio"}, {})
    assert (loaded.settings.server, loaded.origins["server"]) == ("grpcio", "environment AUTHZ_SERVER")


def test_a_bad_value_under_a_former_name_is_refused_by_that_name() -> None:
    with pytest.raises(ConfigError, match="environment AUTHZ_HOST: expected one of grpcio, pyvoy"):
        load_settings({}, {"AUTHZ_HOST": "uvicorn"}, {})


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
        ("redis+sentinel://me:secret@h:1,[::1]:2/main/3", "redis+sentinel://me:***@h:1,[::1]:2/main/3"),
        (
            "rediss+sentinel://h/main?sentinel_username=me&sentinel_p%61ssword=secret&ssl_cert_reqs=none",
            "rediss+sentinel://h/main?sentinel_username=me&sentinel_p%61ssword=***&ssl_cert_reqs=none",
        ),
        ("redis+cluster://:secret@h:1,h:2", "redis+cluster://:***@h:1,h:2"),
        ("rediss+cluster://h?password=secret", "rediss+cluster://h?password=***"),
    ],
)
def test_a_password_is_masked_however_it_is_given(url: str, masked: str) -> None:
    loaded = load_settings({"redisUrl": url}, {}, {})
    assert mask_url(url) == masked
    assert ("redisUrl", masked, "plans.yaml: $.settings.redisUrl") in loaded.shown()


@pytest.mark.parametrize(
    ("given", "missing"),
    [("tls_cert_file", "tlsKeyFile"), ("tls_key_file", "tlsCertFile"), ("tls_client_ca_file", "tlsCertFile")],
)
def test_half_of_tls_is_refused_where_it_was_given(given: str, missing: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_settings({}, {}, {given: "some.pem"})
    [problem] = refused.value.problems
    flag = "--" + given.replace("_", "-")
    assert str(problem).startswith(f"flag {flag}: expected {missing} beside it")


def test_the_password_of_redis_may_be_in_a_file_and_is_not_shown(tmp_path: Path) -> None:
    secret = tmp_path / "redis-password"
    secret.write_text("a/b@c\n")
    given = {"AUTHZ_REDIS_URL": "redis://h/0", "AUTHZ_REDIS_PASSWORD_FILE": str(secret)}
    loaded = load_settings({}, given, {})
    assert loaded.settings.redis_url == "redis://:a%2Fb%40c@h/0"
    assert ("redisUrl", "redis://:***@h/0", "environment AUTHZ_REDIS_URL") in loaded.shown()


@pytest.mark.parametrize(
    ("url", "content", "rule"),
    [
        ("redis://h", None, "secret cannot be read: No such file or directory"),
        ("redis://h", b"\xff", "secret cannot be read: not text"),
        ("redis://h", b" \n", "expected a password in secret, and it is empty"),
        ("redis://h", b"one\ntwo\n", "expected one line in secret, the password, and it has 2"),
        ("redis://h", b"one\r\ntwo", "expected one line in secret, the password, and it has 2"),
        (
            "redis://h",
            b"\xef\xbb\xbfpass",
            "expected a password in secret, and it begins with a byte-order mark: save it without one",
        ),
        ("redis://:old@h", b"new", "expected no password in redisUrl beside redisPasswordFile"),
    ],
)
def test_a_bad_password_file_is_reported_with_its_origin(
    url: str, content: bytes | None, rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("secret").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_settings({"redisUrl": url}, {"AUTHZ_REDIS_PASSWORD_FILE": "secret"}, {})
    assert str(caught.value) == f"environment AUTHZ_REDIS_PASSWORD_FILE: {rule}"
