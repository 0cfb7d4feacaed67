"""When the control plane serves pages, and when it warns that they are readable on the network."""

from __future__ import annotations

import pytest

from authz.control.server import ControlOptions

HTTPS, HTTP, LOOPBACK = "https://plans.example.com", "http://plans.example.com", "http://127.0.0.1:8085"


@pytest.mark.parametrize(
    ("listen", "tls", "console", "served"),
    [
        ("127.0.0.1:8085", False, None, True),
        ("[::1]:8085", False, None, True),
        ("localhost:8085", False, None, True),
        ("0.0.0.0:8085", False, None, False),
        ("10.0.0.1:8085", False, None, False),
        ("unix:/run/control.sock", False, None, False),
        ("0.0.0.0:8085", True, None, True),
        ("0.0.0.0:8085", False, True, True),
        ("127.0.0.1:8085", False, False, False),
        ("0.0.0.0:8085", True, False, False),
    ],
)
def test_the_console_is_on_by_default_where_the_network_cannot_read_it(
    listen: str, tls: bool, console: bool | None, served: bool
) -> None:
    assert ControlOptions(listen, tls_cert="c" if tls else None, console=console).serves_console == served


@pytest.mark.parametrize(
    ("listen", "tls", "url", "in_clear"),
    [
        ("127.0.0.1:8085", False, None, False),
        ("unix:/run/control.sock", False, None, False),
        ("0.0.0.0:8085", False, None, True),
        ("0.0.0.0:8085", True, None, False),
        ("0.0.0.0:8085", False, HTTPS, False),
        ("0.0.0.0:8085", False, HTTP, True),
        ("127.0.0.1:8085", False, HTTP, True),
        ("0.0.0.0:8085", False, LOOPBACK, False),
    ],
)
def test_a_console_that_the_network_can_read_is_reported(
    listen: str, tls: bool, url: str | None, in_clear: bool
) -> None:
    options = ControlOptions(listen, tls_cert="c" if tls else None, console=True, console_url=url)
    assert options.shows_secrets_in_clear == in_clear
    assert not ControlOptions(listen, console=False, console_url=url).shows_secrets_in_clear


@pytest.mark.parametrize(
    "url", ["plans.example.com", "ftp://plans.example.com", "https://", "https://a:b", "https://a:0"]
)
def test_a_url_that_no_browser_opens_is_refused(url: str) -> None:
    for options in (ControlOptions(console_url=url), ControlOptions(grafana_url=url)):
        assert url in (options.problem() or "")
