"""What keeps the pages safe: hosts, requests of other sites, sessions, links, messages."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Receive, Scope, Send

from authz.control.pages.forms import BadForm, parse_form
from authz.control.pages.guard import Origins
from authz.control.pages.sessions import MAX_SECONDS, CustomerSession, OwnerSession, Session, Sessions
from authz.control.server import ControlOptions, _http_server
from tests.support.pages import ORIGIN, READER, DictTokens, Pages

CONSOLE_PAGE = "/console/plans"


# --- hosts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:8085", "http://127.0.0.1:8085"),
        ("localhost", "http://localhost"),
        ("LOCALHOST:8085", "http://localhost:8085"),
        ("[::1]:8085", "http://[::1]:8085"),
        ("10.1.2.3", "http://10.1.2.3"),
        ("plans.example.com", "https://plans.example.com"),
        ("Plans.Example.com", "https://plans.example.com"),
        ("plans.example.com:8443", None),
        ("evil.example", None),
        ("localhost.evil.example", None),
        ("127.0.0.1.evil.example", None),
        ("plans.example.com@evil.example", None),
        ("evil.example/plans.example.com", None),
        ("localhost:port", None),
        ("0x7f.1", None),
        ("", None),
    ],
)
def test_a_host_is_ours_only_if_an_attackers_name_cannot_be_it(host: str, origin: str | None) -> None:
    assert Origins(url="https://plans.example.com").of(host) == origin


def test_over_tls_the_origin_of_an_address_is_https() -> None:
    assert Origins(is_tls=True).of("127.0.0.1") == "https://127.0.0.1"


def test_a_request_for_another_host_gets_no_page() -> None:
    answer = Pages().get(CONSOLE_PAGE, {"Host": "evil.example"})
    assert (answer.status_code, "--console-url" in answer.text) == (421, True)


# --- requests of other sites --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, 303),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": ORIGIN}, 403),
        ({"Sec-Fetch-Site": "", "Origin": ORIGIN}, 303),
        ({"Sec-Fetch-Site": "", "Origin": "http://127.0.0.1:9999"}, 403),
        ({"Sec-Fetch-Site": "", "Origin": "https://127.0.0.1:8085"}, 403),
        ({"Sec-Fetch-Site": "", "Origin": "null"}, 403),
        ({"Sec-Fetch-Site": ""}, 403),
    ],
)
def test_a_form_is_taken_from_our_own_pages_only(headers: dict[str, str], status: int) -> None:
    given = {name: value for name, value in headers.items() if value}
    assert Pages().post("/console/zone", {"zone": "UTC"}, given, own=False).status_code == status


def test_every_page_has_the_headers_that_keep_it_safe() -> None:
    for path in ("/console", "/console/sign-in", "/console/nothing"):
        headers = Pages().get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("url", "host", "header"),
    [
        ("https://plans.example.com", "plans.example.com", "max-age=31536000"),
        ("https://Plans.example.com:8443", "plans.example.com:8443", "max-age=31536000"),
        ("https://plans.example.com", "127.0.0.1:8085", None),
        ("https://localhost:8085", "localhost:8085", None),
        ("http://plans.example.com", "plans.example.com", None),
        (None, "127.0.0.1:8085", None),
    ],
)
def test_a_browser_keeps_to_https_for_the_host_of_an_https_url(url: str | None, host: str, header: str | None) -> None:
    """Nowhere else: browsers would no more reach the other ports of `localhost` by plain HTTP."""
    answer = Pages(origins=Origins(is_tls=True, url=url)).get("/console/sign-in", {"Host": host})
    assert (answer.status_code, answer.headers.get("strict-transport-security")) == (200, header)


def test_a_path_with_a_slash_too_many_is_not_redirected() -> None:
    """A redirect would name the scheme that we see, which is http behind a proxy that ends TLS."""
    assert Pages().get(f"{CONSOLE_PAGE}/").status_code == 404


# --- signing in ---------------------------------------------------------------------------------------------------


def test_without_a_session_a_page_leads_to_the_form_and_from_there_back() -> None:
    pages = Pages(as_=None)
    answer = pages.get(f"{CONSOLE_PAGE}?position=3", follow=True)
    assert answer.url.path == "/console/sign-in"
    signed = pages.post("/console/sign-in", {"token": pages.token.secret, "next": f"{CONSOLE_PAGE}?position=3"})
    assert (signed.status_code, signed.headers["location"]) == (303, f"{CONSOLE_PAGE}?position=3")
    assert pages.get(CONSOLE_PAGE).status_code == 200


@pytest.mark.parametrize(
    "wanted",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "/console\\..\\..",
        "/consolation",
        "/apikeys",
        "console",
        "/console/\r\nSet-Cookie: a=b",
        "",
    ],
)
def test_signing_in_never_leads_away_from_the_console(wanted: str) -> None:
    pages = Pages(as_=None)
    signed = pages.post("/console/sign-in", {"token": pages.token.secret, "next": wanted})
    assert signed.headers["location"] == "/console"


@pytest.mark.parametrize("token", ["", "x", "Bearer x", " "])
def test_a_wrong_token_begins_no_session(token: str) -> None:
    pages = Pages(as_=None)
    answer = pages.post("/console/sign-in", {"token": token})
    assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)
    assert "No credential has this token." in answer.text


def test_a_session_ends_with_its_credential_and_has_the_credentials_role() -> None:
    pages = Pages(as_=None)
    pages.post("/console/sign-in", {"token": pages.token.secret})
    assert pages.get(CONSOLE_PAGE).status_code == 200
    del pages.store.items["credential", pages.token.credential.id]
    assert pages.get(CONSOLE_PAGE).status_code == 303


def test_signing_in_begins_a_new_session_and_signing_out_ends_it() -> None:
    pages = Pages(as_=None)
    pages.cookies.set("authz-console", "chosen-by-an-attacker", domain="127.0.0.1")
    pages.post("/console/sign-in", {"token": pages.token.secret})
    given = pages.cookies["authz-console"]
    assert given != "chosen-by-an-attacker"
    pages.post("/console/sign-out")
    pages.cookies.set("authz-console", given, domain="127.0.0.1")
    assert pages.get(CONSOLE_PAGE).status_code == 303


def test_signing_in_again_ends_the_session_before() -> None:
    pages = Pages()
    before = pages.cookies["authz-console"]
    pages.post("/console/sign-in", {"token": pages.token.secret})
    assert asyncio.run(pages.sessions.find(before)) is None


def test_a_link_signs_in_once_and_looking_at_it_does_not_use_it_up() -> None:
    pages = Pages(as_=None)
    token = asyncio.run(pages.sessions.new_link(READER))
    for _ in range(2):
        assert pages.get(f"/console/link?token={token}").status_code == 200
    assert pages.post("/console/link", {"token": token, "zone": "Europe/Berlin"}).status_code == 303
    assert 'value="Europe/Berlin"' in pages.get(CONSOLE_PAGE).text
    assert pages.post("/console/link", {"token": token}).status_code == 403


def test_a_customers_link_and_a_customers_session_do_not_open_the_console() -> None:
    pages = Pages(as_=CustomerSession(customer_id="c"))
    assert pages.get(CONSOLE_PAGE).status_code == 303
    token = asyncio.run(pages.sessions.new_link(CustomerSession(customer_id="c")))
    assert pages.post("/console/link", {"token": token}).status_code == 403
    assert asyncio.run(pages.sessions.linked(token)) is not None


# --- sessions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("later", "is_found"),
    [(MAX_SECONDS - 1, True), (MAX_SECONDS, False), (-1, False)],
    ids=["before 12 hours", "at 12 hours", "with a clock that was put back"],
)
def test_a_session_lasts_at_most_twelve_hours(later: int, is_found: bool) -> None:
    clock = [1_000_000]
    sessions = Sessions(DictTokens(), lambda: clock[0])

    async def found() -> bool:
        id_ = await sessions.begin(OwnerSession("o"))
        clock[0] += later
        return await sessions.find(id_) is not None

    assert asyncio.run(found()) == is_found


def test_redis_gets_each_value_for_a_limited_time() -> None:
    tokens = DictTokens()
    sessions = Sessions(tokens, lambda: 1)

    async def use() -> None:
        id_ = await sessions.begin(OwnerSession("o"))
        await sessions.new_link(OwnerSession("o"))
        await sessions.leave_message(id_, "text")

    asyncio.run(use())
    seconds = {kind: given for (kind, _), given in tokens.seconds.items()}
    assert seconds == {"session": 1800, "link": 900, "message": 300}


def test_a_change_to_a_session_does_not_bring_it_back_after_it_was_ended() -> None:
    """A slow form could otherwise outlive signing out."""
    sessions = Sessions(DictTokens(), lambda: 1)

    async def found() -> Session | None:
        id_ = await sessions.begin(OwnerSession("o"))
        await sessions.end(id_)
        await sessions.keep(id_, OwnerSession("o", zone="Europe/Berlin"))
        return await sessions.find(id_)

    assert asyncio.run(found()) is None


def test_a_message_is_shown_once_to_its_own_session_and_is_not_readable_in_redis() -> None:
    tokens = DictTokens()
    sessions = Sessions(tokens, lambda: 1)

    async def use() -> list[str | None]:
        name = await sessions.leave_message("mine", "upk_secret")
        stored = b"".join(tokens.values.values())
        assert b"upk_secret" not in stored
        return [await sessions.take_message(id_, name) for id_ in ("yours", "mine", "mine")]

    assert asyncio.run(use()) == [None, "upk_secret", None]


def test_a_page_that_renews_itself_does_not_keep_an_idle_session_alive() -> None:
    pages = Pages()
    for headers, extended in (({}, [1800]), ({"Authz-Refresh": "1"}, [None])):
        pages.tokens.extended.clear()
        assert pages.get(CONSOLE_PAGE, headers).status_code == 200
        assert pages.tokens.extended == extended


@pytest.mark.parametrize(
    ("path", "status"),
    [("/console/audit?id=%00", 400), ("/console/usage?customer=a%00b", 400), ("/console/plans/%00", 404)],
)
def test_a_page_passes_no_nul_to_an_operation(path: str, status: int) -> None:
    assert Pages().get(path).status_code == status


# --- forms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"a=%ff", b"\xff", b"a=%00", b"&".join([b"a=1"] * 4001)])
def test_a_form_that_no_page_sends_is_refused(body: bytes) -> None:
    with pytest.raises(BadForm):
        parse_form(body)


def test_a_form_is_limited_in_type_and_size() -> None:
    pages = Pages()
    wrong = pages.post("/console/zone", {"zone": "UTC"}, {"Content-Type": "text/plain"})
    large = pages.post("/console/zone", {"zone": "U" * 70_000})
    assert (wrong.status_code, large.status_code) == (415, 413)


@pytest.mark.parametrize("path", ["/console/sign-in", "/console/link"])
def test_a_stranger_cannot_have_a_query_of_thousands_of_fields_parsed(path: str) -> None:
    assert Pages(as_=None).get(f"{path}?{'a&' * 5_000}").status_code == 400


def test_the_address_of_a_client_is_not_taken_from_its_own_header() -> None:
    """uvicorn trusts X-Forwarded-For from 127.0.0.1 by default, and allowedSources would believe it."""
    seen: list[object] = []

    async def app(scope: Scope, _: Receive, send: Send) -> None:
        seen.append(scope["client"])

    server = _http_server(app, ControlOptions())
    server.config.load()
    scope = {"type": "http", "client": ("127.0.0.1", 1), "headers": [(b"x-forwarded-for", b"10.1.1.1")]}
    asyncio.run(server.config.loaded_app(scope, None, None))
    assert seen == [("127.0.0.1", 1)]
