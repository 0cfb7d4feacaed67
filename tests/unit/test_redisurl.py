"""Redis URLs: whom they name, and that no text whatever makes them fail in another way or shows a password."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.redisurl import RedisUrl, mask_url, read_url, with_password
from authz.scripts import connect

SECRET = "hunter2"
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
            "rediss+sentinel://me:p%40@[::1]:1/main.a-1/3?ssl_keyfile=k&sentinel_username=s&sentinel_password=q%2B&",
            RedisUrl("sentinel", "rediss://me:p%40@[::1]:1/3?ssl_keyfile=k&", (("::1", 1),), "main.a-1", ("s", "q+")),
        ),
        ("redis+cluster://:p@h,h:2", RedisUrl("cluster", "redis://:p@h:6379/", (("h", 6379), ("h", 2)))),
        (
            "rediss+cluster://h/0?ssl_cert_reqs=none",
            RedisUrl("cluster", "rediss://h:6379/?ssl_cert_reqs=none", (("h", 6379),)),
        ),
    ],
)
def test_a_url_names_one_server_or_whoever_knows_the_master(url: str, read: RedisUrl) -> None:
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
    """What the settings have accepted is not refused later, by redis-py."""
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
def test_a_password_is_neither_shown_nor_told(scheme: str, pieces: str, more: str, shape: str, end: str) -> None:
    """As far as it is taken for one: what the client would send as a password is in no masked URL, and in no rule."""
    url = f"{scheme}://" + (shape + end).format(pieces=pieces, more=more, secret=SECRET)
    rule = _rule(url)
    assert SECRET not in (rule or "")
    if rule is None and any(SECRET in password for password in _passwords(url)):
        assert SECRET not in mask_url(url)


def _passwords(url: str) -> list[str]:
    """What is sent as a password."""
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
