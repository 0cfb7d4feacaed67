"""Addresses: one way to read and to write them."""

from __future__ import annotations

import pytest

from authz.core.address import Address


@pytest.mark.parametrize("text", ["127.0.0.1:80", "[::1]:80", "localhost:0", "a-b.example_c:65535", "unix:/run/a.sock"])
def test_an_address_is_written_as_it_was_read(text: str) -> None:
    assert str(Address.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", ":80", "host", "host:", "host:65536", "host:-1", "300.1.1.1:80", "unix:", "a b:1"]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected host:port or unix:/path"):
        Address.parse(text)


def test_a_url_is_refused_with_its_scheme() -> None:
    with pytest.raises(ValueError, match="without https:// and a path"):
        Address.parse("https://example.com:443")


@pytest.mark.parametrize(
    ("text", "second"), [("127.0.0.1:80", "127.0.0.1:81"), ("[::1]:80", "[::1]:81"), ("unix:/a", "unix:/a.1")]
)
def test_each_worker_has_the_next_port_or_a_path_of_its_own(text: str, second: str) -> None:
    assert str(Address.parse(text).of_worker(1)) == second
