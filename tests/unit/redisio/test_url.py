"""Redis URLs name servers. A bad one fails with a rule, and no message shows a password."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from authz.cli.main import cli
from authz.config.faults import ConfigError
from authz.redisio.client import connect
from authz.redisio.url import RedisUrl, check_tls_files, in_words, mask_url, read_url, with_password

SECRET = "hunter2"
SAMPLE = Path(__file__).parents[3] / "authz" / "samples" / "plans.yaml"
SCHEMES = st.sampled_from(
    ["redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster", "http"]
)
PIECES = st.sampled_from(
    [
        "h",
        ":",
        "1",
        "@",
        "/",
        "?",
        "&",
        "=",
        ",",
        "[::1]",
        "[",
        "]",
        "%",
        "#",
        "²",
        "٣",
        "\t",
        " ",
        "db",
        "main",
        "password",
        "sentinel_password",
        "ssl_cert_reqs",
        "username",
        "0",
        "://",
    ]
)


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("redis://h:1/2", RedisUrl("server", "redis://h:1/2")),
        ("unix:///run/a b?db=2", RedisUrl("server", "unix:///run/a b?db=2")),
        (
            "redis+sentinel://h:1,other/main",
            RedisUrl("sentinel", "redis://h:1/", (("h", 1), ("other", 26379)), "main"),
        ),
        (
            "rediss+sentinel://me:p%40@[::1]:1/main.a-1/3?ssl_certfile=k&sentinel_username=s&sentinel_password=q%2B&",
            RedisUrl("sentinel", "rediss://me:p%40@[::1]:1/3?ssl_certfile=k&", (("::1", 1),), "main.a-1", ("s", "q+")),
        ),
        ("redis+cluster://:p@h,h:2", RedisUrl("cluster", "redis://:p@h:6379/", (("h", 6379), ("h", 2)))),
        (
            "rediss+cluster://h/0?ssl_cert_reqs=none",
            RedisUrl("cluster", "rediss://h:6379/?ssl_cert_reqs=none", (("h", 6379),)),
        ),
    ],
)
def test_a_url_names_one_server_or_the_sentinels_that_know_the_master(url: str, read: RedisUrl) -> None:
    assert read_url(url) == read


def _rule(url: str) -> str | None:
    """The rule that the URL breaks."""
    try:
        read_url(url)
    except ValueError as rule:
        return str(rule)
    return None


@given(st.one_of(st.text(), st.builds("{}://{}".format, SCHEMES, st.lists(PIECES, max_size=12).map("".join))))
def test_any_text_is_refused_by_a_rule_or_makes_a_client(url: str) -> None:
    """redis-py accepts every URL that the settings accept."""
    rule = _rule(url)
    if rule is None:
        connect(url, 1.0)
    else:
        assert rule.startswith("expected ")
        assert mask_url(url) == "***"


@given(
    SCHEMES,
    st.lists(PIECES, max_size=6).map("".join),
    st.lists(PIECES, max_size=6).map("".join),
    st.sampled_from(
        ["{pieces}:{secret}@{more}", "{pieces}?password={secret}&{more}", "h:1/main?{more}&p%61ssword={secret}"]
    ),
    st.sampled_from(["h/main?sentinel_password={secret}", "", "h:1/0"]),
)
def test_a_password_is_in_no_message(scheme: str, pieces: str, more: str, shape: str, end: str) -> None:
    """The text that the client would send as a password is in no masked URL, and in no rule."""
    url = f"{scheme}://" + (shape + end).format(pieces=pieces, more=more, secret=SECRET)
    rule = _rule(url)
    assert SECRET not in (rule or "")
    if rule is None and any(SECRET in password for password in _passwords(url)):
        assert SECRET not in mask_url(url)


def _passwords(url: str) -> list[str]:
    """Return the passwords that the client would send."""
    options: dict[str, Any] = connect(url, 1.0).connection_pool.connection_kwargs
    return [options.get("password") or "", read_url(url).login[1]]


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_a_password_arrives_however_odd_it_is(password: str) -> None:
    quoted = quote(password, safe="")
    for url in (f"redis://:{quoted}@h", f"redis+sentinel://:{quoted}@h/main", f"redis+cluster://:{quoted}@h:1,g"):
        assert connect(url, 1.0).connection_pool.connection_kwargs["password"] == password


@pytest.mark.parametrize(
    ("url", "user"),
    [
        ("redis://h", None),
        ("redis://h:1/2?username=ann", "ann"),
        ("redis://ann@h:1/2", "ann"),
        ("rediss://h/0?ssl_cert_reqs=none", None),
        ("unix:///run/redis.sock?db=2", None),
        ("redis+sentinel://ann@h:1,other/main", "ann"),
        ("redis+sentinel://h/main?sentinel_password=theirs", None),
        ("redis+cluster://h:1,[::1]:2", None),
    ],
)
@given(password=st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_a_password_from_a_file_reaches_redis_as_it_is(url: str, user: str | None, password: str) -> None:
    told = connect(with_password(url, password), 1.0).connection_pool.connection_kwargs
    assert (told["password"], told.get("username") or None) == (password, user)
    assert SECRET not in mask_url(with_password(url, SECRET))


@pytest.mark.parametrize("url", ["redis://:old@h", "redis://:@h", "redis://h?password=old", "redis://h?pass%77ord="])
def test_two_passwords_are_one_too_many(url: str) -> None:
    with pytest.raises(ValueError, match="expected no password in redisUrl"):
        with_password(url, SECRET)


TLS_RULES = [
    ("rediss://h?ssl_cert_reqs=CERT_NONE", "expected none, optional or required for ssl_cert_reqs, got 'CERT_NONE'"),
    ("rediss://h?ssl_cert_reqs=None", "expected none, optional or required for ssl_cert_reqs"),
    ("rediss+cluster://a,b?ssl_cert_reqs=", "expected none, optional or required for ssl_cert_reqs"),
    ("rediss://h?ssl_check_hostname=maybe", "expected true or false for ssl_check_hostname, got 'maybe'"),
    ("rediss+sentinel://a/m?ssl_check_hostname=1", "expected true or false for ssl_check_hostname"),
    ("rediss://h?ssl_keyfile=/key.pem", "expected ssl_certfile beside ssl_keyfile"),
    ("rediss://h?ssl_cert_reqs=none&ssl_cert_reqs=required", "expected each option once"),
    ("redis://a,b:6379", "expected one host; several are named with redis+sentinel:// or redis+cluster://"),
    ("redis://:secret@a,b:6379", "expected one host"),
    ("redis://a;b", "expected one host"),
    ("redis://a b", "expected one host"),
    ("redis://*", "expected one host"),
    ("rediss://h?ssl_ca_certs=/not/there", "ssl_ca_certs /not/there: No such file or directory"),
    ("rediss://h?ssl_ca_certs=/dev/null", "ssl_ca_certs /dev/null: "),
    ("rediss://h?ssl_ca_path=/not/there", "ssl_ca_path /not/there: No such file or directory"),
    ("rediss://h?ssl_certfile=/not/there", "ssl_certfile /not/there: No such file or directory"),
    ("rediss+sentinel://a,b/m?ssl_ca_certs=/not/there", "ssl_ca_certs /not/there: No such file"),
    ("rediss+cluster://a,b?ssl_ca_certs=/not/there", "ssl_ca_certs /not/there: No such file"),
]


@pytest.mark.parametrize(("url", "rule"), TLS_RULES)
def test_what_would_only_fail_later_is_refused_with_the_fix(url: str, rule: str) -> None:
    """redis-py accepts all of them, and then cannot connect, or connects without checks."""
    with pytest.raises(ValueError, match=re.escape(rule)) as refused:
        check_tls_files(url)
    assert "secret" not in str(refused.value)
    ended = CliRunner().invoke(cli, ["check-config", "--redis-url", url, "--config", os.fspath(SAMPLE)])
    assert isinstance(ended.exception, ConfigError)
    assert rule in str(ended.exception)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (ConnectionError("Error 111 connecting to h:1."), "ConnectionError: Error 111 connecting to h:1."),
        (TimeoutError(), "TimeoutError: no answer in time"),
        (ValueError(), "ValueError"),
        (OSError("two\nlines"), "OSError: two lines"),
        (
            RuntimeError("unknown command 'AUTH', with args beginning with: 's3cret' "),
            "RuntimeError: unknown command 'AUTH'",
        ),
        (RuntimeError(400 * "x"), "RuntimeError: " + 300 * "x"),
    ],
)
def test_words_of_an_error_are_one_line_without_a_password(said: Exception, words: str) -> None:
    assert in_words(said) == words
