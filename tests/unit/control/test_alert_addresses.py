"""Where a webhook may lead: URLs and addresses as tables, and the connection that follows from them."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.control.alerts.addresses import NotAllowed, Rules, address_of
from authz.control.alerts.schedule import Attempt
from authz.control.alerts.sending import Message, WebhookSender, new_secret, resolve
from tests.support.receiver import receiver

STRICT, PRIVATE = Rules(), Rules(private=True)


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("https://hooks.example.org", ("https", "hooks.example.org", 443, "/")),
        ("https://hooks.example.org/a/b?c=d&e", ("https", "hooks.example.org", 443, "/a/b?c=d&e")),
        ("https://hooks.example.org:8443?x", ("https", "hooks.example.org", 8443, "/?x")),
        ("HTTPS://Hooks.Example.ORG/", ("https", "hooks.example.org", 443, "/")),
        ("https://xn--mller-kva.example/", ("https", "xn--mller-kva.example", 443, "/")),
        ("https://8.8.8.8/", ("https", "8.8.8.8", 443, "/")),
        ("https://[2606:4700::1111]:444/", ("https", "2606:4700::1111", 444, "/")),
    ],
)
def test_a_url_is_taken_apart(url: str, parts: tuple[str, str, int, str]) -> None:
    found = STRICT.endpoint(url)
    assert (found.scheme, found.host, found.port, found.path) == parts


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://hooks.example.org/", "expected https://"),
        ("ftp://hooks.example.org/", "expected https://host/path"),
        ("file:///etc/passwd", "expected https://host/path"),
        ("//hooks.example.org/", "expected https://host/path"),
        ("hooks.example.org", "expected https://host/path"),
        ("https://", "expected a host name"),
        ("https:///path", "expected a host name"),
        ("https://user@hooks.example.org/", "no user name"),
        ("https://user:word@hooks.example.org/", "no user name"),
        ("https://hooks.example.org@10.0.0.1/", "no user name"),
        ("https://hooks.example.org/#part", "no fragment"),
        ("https://hooks.example.org:0/", "port from 1"),
        ("https://hooks.example.org:65536/", "port from 1"),
        ("https://hooks.example.org:x/", "port from 1"),
        ("https://hooks.example.org/a b", "visible ASCII"),
        ("https://hooks.example.org/a\r\nx: y", "visible ASCII"),
        ("https://hooks.example.org\\@10.0.0.1/", "without \\"),
        ("https://müller.example/", "visible ASCII"),
        ("https://ho%6Fks.example.org/", "in ASCII"),
        ("https://hooks..example.org,x/", "in ASCII"),
        ("https://a..b/", "in ASCII"),
        ("https://.a/", "in ASCII"),
        ("https://a-/", "in ASCII"),
        (f"https://{'a' * 64}.example/", "in ASCII"),
        (f"https://{'a.' * 127}a/", "in ASCII"),
        ("https://[::1%25lo]/", "brackets"),
        ("https://[v1.x]/", ""),
        ("https://hooks.example.org/" + "a" * 2_000, "at most 2000"),
        ("https://localhost/", "this machine"),
        ("https://LOCALHOST./", "this machine"),
        ("https://a.localhost/", "this machine"),
    ],
)
def test_a_url_with_a_mistake_is_refused(url: str, words: str) -> None:
    with pytest.raises(NotAllowed) as refusal:
        STRICT.endpoint(url)
    assert words in str(refusal.value)


LOOPBACK = [
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "017700000001",
    "0X7F.0.0.0x1",
]


@pytest.mark.parametrize("host", [*LOOPBACK, "[::1]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"])
def test_loopback_is_found_in_every_spelling(host: str) -> None:
    with pytest.raises(NotAllowed, match="loopback"):
        STRICT.endpoint(f"https://{host}/")


@pytest.mark.parametrize("host", LOOPBACK)
def test_a_spelling_means_the_address_that_the_resolver_makes_of_it(host: str) -> None:
    assert [str(address) for address in resolve(host, 443)] == ["127.0.0.1"] == [str(address_of(host))]


PRIVATE_ADDRESSES = [
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "127.0.0.1",
    "100.64.0.1",
    "::1",
    "fd12::1",
]
FORBIDDEN_ADDRESSES = [
    "0.0.0.0",
    "0.1.2.3",
    "169.254.169.254",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::2",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "fd00:ec2::254",
    "2001::1",  # Teredo
    "2001:db8::1",
    "2002:a00:1::",  # 6to4 of 10.0.0.1
    "2002:808:808::",
    "3fff::1",
    "5f00::1",
    "100::1",
    "64:ff9b:1::1",
    "::10.0.0.1",
    "::8.8.8.8",
    "::ffff:0:10.0.0.1",
    "4000::1",
    "64:ff9b::169.254.169.254",
    "::ffff:169.254.169.254",
]
PUBLIC_ADDRESSES = [
    "8.8.8.8",
    "1.1.1.1",
    "172.32.0.1",
    "100.128.0.1",
    "192.0.1.1",
    "2606:4700::1",
    "2a00:1450::1",
    "64:ff9b::808:808",
    "::ffff:8.8.8.8",
]


@pytest.mark.parametrize("text", [*PRIVATE_ADDRESSES, "64:ff9b::10.0.0.1", "::ffff:192.168.0.1"])
def test_a_private_address_needs_the_setting(text: str) -> None:
    address = ipaddress.ip_address(text)
    with pytest.raises(NotAllowed):
        STRICT.check("https", address)
    PRIVATE.check("https", address)
    PRIVATE.check("http", address)


@pytest.mark.parametrize("rules", [STRICT, PRIVATE])
@pytest.mark.parametrize("text", FORBIDDEN_ADDRESSES)
def test_no_setting_allows_these(text: str, rules: Rules) -> None:
    with pytest.raises(NotAllowed):
        rules.check("https", ipaddress.ip_address(text))


@pytest.mark.parametrize("rules", [STRICT, PRIVATE])
@pytest.mark.parametrize("text", PUBLIC_ADDRESSES)
def test_a_public_address_takes_https_only(text: str, rules: Rules) -> None:
    rules.check("https", ipaddress.ip_address(text))
    with pytest.raises(NotAllowed, match="use https"):
        rules.check("http", ipaddress.ip_address(text))


@given(st.ip_addresses(v=4))
def test_an_allowed_ipv4_address_is_global_by_pythons_own_table_too(address: Any) -> None:
    try:
        STRICT.check("https", address)
    except NotAllowed:
        return
    assert address.is_global


@given(st.one_of(st.ip_addresses(v=6), st.ip_addresses(v=6, network="2000::/3")))
def test_an_allowed_ipv6_address_is_global_by_pythons_own_table_too(address: Any) -> None:
    try:
        STRICT.check("https", address)
    except NotAllowed:
        return
    assert address.is_global


# --- the connection -----------------------------------------------------------------------------------------------


def message(url: str) -> Message:
    return Message("msg_1", "{}", url, (new_secret(),))


def resolving(*answers: Sequence[str]) -> Any:
    """A resolver that gives these answers one after the other, and then the last one again."""
    left = list(answers)

    def look_up(host: str, port: int) -> Sequence[Any]:
        found = left.pop(0) if len(left) > 1 else left[0]
        return [ipaddress.ip_address(text) for text in found]

    return look_up


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["::1"], ["8.8.8.8", "127.0.0.1"], ["10.1.2.3", "8.8.8.8"], []])
async def test_a_name_with_one_address_that_is_refused_gets_nothing(addresses: list[str]) -> None:
    with receiver() as hooks:
        sender = WebhookSender(STRICT, resolver=resolving(addresses))
        attempt = await sender.send(message(f"https://hooks.example.org:{hooks.port}/"))
        assert hooks.got == []
    assert not attempt.arrived
    assert attempt.status is None


async def test_a_connection_goes_to_the_address_that_was_checked() -> None:
    """A name that points elsewhere at the next look-up changes nothing: there is one look-up."""
    with receiver() as hooks:
        sender = WebhookSender(PRIVATE, resolver=resolving(["127.0.0.1"], ["8.8.8.8"]))
        attempt = await sender.send(message(f"http://hooks.example.org:{hooks.port}/"))
    assert attempt == Attempt(204)
    assert hooks.got[0].headers["host"] == f"hooks.example.org:{hooks.port}"


@pytest.mark.parametrize("host", ["hooks.example.org", "127.0.0.1"])
async def test_a_customers_target_gets_nothing_in_the_owners_network(host: str) -> None:
    with receiver() as hooks:
        sender = WebhookSender(PRIVATE, resolver=resolving(["127.0.0.1"]))
        own = message(f"http://{host}:{hooks.port}/")
        assert (await sender.send(own)).arrived
        for url in (own.url, f"https://{host}:{hooks.port}/"):
            attempt = await sender.send(replace(own, url=url, customer_id="acme"))
            assert (attempt.arrived, attempt.status, attempt.error[:9]) == (False, None, "not sent:")
        assert len(hooks.got) == 1


async def test_each_attempt_looks_the_name_up_again() -> None:
    with receiver() as hooks:
        sender = WebhookSender(PRIVATE, resolver=resolving(["127.0.0.1"], ["169.254.169.254"]))
        url = f"http://hooks.example.org:{hooks.port}/"
        assert (await sender.send(message(url))).arrived
        assert "link-local" in (await sender.send(message(url))).error


async def test_http_to_a_public_address_is_refused_when_it_is_known() -> None:
    sender = WebhookSender(PRIVATE, resolver=resolving(["8.8.8.8"]))
    assert "use https" in (await sender.send(message("http://hooks.example.org/"))).error


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    with receiver() as inner, receiver(lambda _: (status, {"location": inner.url})) as hooks:
        attempt = await WebhookSender(PRIVATE).send(message(hooks.url))
        assert inner.got == []
    assert attempt == Attempt(status, f"answered {status}: redirects are not followed")


async def test_a_receiver_without_tls_gets_nothing_over_https() -> None:
    with receiver() as hooks:
        attempt = await WebhookSender(PRIVATE).send(message(f"https://127.0.0.1:{hooks.port}/"))
        assert (attempt.arrived, hooks.got) == (False, [])


async def test_a_receiver_that_never_answers_ends_an_attempt() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        attempt = await WebhookSender(PRIVATE, seconds=0.2).send(message(f"http://127.0.0.1:{port}/"))
    assert attempt == Attempt(error="no answer within 0.2 s")


async def test_an_answer_without_end_is_read_in_part() -> None:
    written = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        try:
            while written < 100_000_000:
                writer.write(b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n")
                written += 0xFFFF
                await writer.drain()
        except OSError:
            pass

    async with await asyncio.start_server(endless, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        attempt = await WebhookSender(PRIVATE).send(message(f"http://127.0.0.1:{port}/"))
    assert attempt.arrived
    assert written < 100_000_000


async def test_a_name_that_no_resolver_takes_is_a_failure_in_words() -> None:
    def refusing(host: str, port: int) -> Sequence[Any]:
        raise UnicodeError("label too long")

    attempt = await WebhookSender(STRICT, resolver=refusing).send(message("https://hooks.example.org/"))
    assert "label too long" in attempt.error


async def test_an_answer_that_is_not_http_is_a_failure_in_words() -> None:
    async def odd(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(odd, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        attempt = await WebhookSender(PRIVATE).send(message(f"http://127.0.0.1:{port}/"))
    assert (attempt.status, "ProtocolError" in attempt.error) == (None, True)


async def _raw_receiver(answer: bytes, *, endless: bool) -> tuple[asyncio.Server, int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            while endless:
                await writer.drain()
                await asyncio.sleep(0)
                writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


async def test_an_absurd_retry_after_does_not_hide_that_the_message_arrived() -> None:
    answer = b"HTTP/1.1 204 x\r\nretry-after: Mon, 01 Jan 2024 00:00:00 +9999999999999999999\r\n\r\n"
    server, port = await _raw_receiver(answer, endless=False)
    async with server:
        assert (await WebhookSender(PRIVATE).send(message(f"http://127.0.0.1:{port}/"))).arrived


async def test_a_receiver_that_never_comes_to_its_answer_is_cut_off_early() -> None:
    """Without a bound of bytes, 1xx answers keep the event loop of the whole control plane busy for 20 s."""
    server, port = await _raw_receiver(b"HTTP/1.1 100 Continue\r\n\r\n" * 500, endless=True)
    async with server:
        attempt = await WebhookSender(PRIVATE, seconds=5.0).send(message(f"http://127.0.0.1:{port}/"))
    assert not attempt.arrived
    assert "no answer within" not in attempt.error


@pytest.mark.parametrize("addresses", [["10.96.3.7"], ["169.254.169.254"]])
async def test_an_attempt_does_not_tell_what_our_name_servers_say(addresses: list[str]) -> None:
    """Customers read this text in the portal: with the address in it they map the owner's network by name."""
    sender = WebhookSender(STRICT, resolver=resolving(addresses))
    assert addresses[0] not in (await sender.send(message("https://redis.prod.svc.cluster.local/"))).error
