"""Signing in to the console through an OpenID Connect provider from PyPI."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from authz.control.console.oidc import ClaimRule, OidcOptions
from tests.support.control import Control, running
from tests.support.servers import RedisServer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it uses what authlib deprecates
    from oidc_provider_mock import User, run_server_in_thread

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@contextmanager
def provider(*users: User) -> Iterator[str]:
    with run_server_in_thread(user_claims=users) as server:
        yield f"http://localhost:{server.server_port}"


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    users = [
        User(sub="ada", claims={"email": "ada@example.com", "email_verified": True, "groups": ["api-admins"]}),
        User(sub="rob", claims={"groups": ["support"]}),
        User(sub="eve", claims={"groups": ["api-admins-not"]}),
    ]
    with provider(*users) as url:
        yield url


@pytest.fixture
def control(shared_redis: RedisServer, account: str, issuer: str) -> Iterator[Control]:
    oidc = OidcOptions(
        issuer, "console", "secret", (ClaimRule("groups", "api-admins"),), (ClaimRule("groups", "support"),)
    )
    with running(shared_redis.url, account, oidc=oidc) as found:
        yield found


def to_provider(browser: httpx.Client, next_: str = "/console/plans") -> httpx.URL:
    """Begin to sign in. Returns the provider's address, with our request."""
    page = browser.get("/console/sign-in", params={"next": next_})
    assert "Sign in with localhost" in page.text
    answer = browser.get("/console/oidc/start", params={"next": next_})
    assert answer.status_code == 302
    return httpx.URL(answer.headers["location"])


def from_provider(there: httpx.URL, sub: str) -> str:
    """Sign in at the provider. Returns the address to which it sends the browser back."""
    answer = httpx.post(there, data={"sub": sub})
    assert answer.status_code == 302, answer.text
    return answer.headers["location"]


@pytest.mark.parametrize(
    ("sub", "name", "may_write"), [("ada", "ada@example.com (localhost", True), ("rob", "rob (localhost", False)]
)
def test_a_person_signs_in_with_the_role_of_their_claims(
    control: Control, sub: str, name: str, may_write: bool
) -> None:
    with httpx.Client(base_url=control.url) as browser:
        there = to_provider(browser)
        assert there.params["code_challenge_method"] == "S256"
        assert there.params["redirect_uri"] == f"{control.url}/console/oidc/callback"
        back = browser.get(from_provider(there, sub))
        assert (back.status_code, back.headers["location"]) == (303, "/console/plans")
        page = browser.get("/console/plans")
        assert (page.status_code, name in page.text, "(read only)" in page.text) == (200, True, not may_write)


def test_a_person_without_the_claim_is_refused(control: Control) -> None:
    with httpx.Client(base_url=control.url) as browser:
        back = browser.get(from_provider(to_provider(browser), "eve"))
        assert (back.status_code, "may not use this console" in back.text) == (403, True)
        assert browser.get("/console/plans").status_code == 303


def test_an_answer_of_the_provider_works_only_in_the_browser_that_began_and_only_once(control: Control) -> None:
    with httpx.Client(base_url=control.url) as victim, httpx.Client(base_url=control.url) as attacker:
        back = from_provider(to_provider(attacker), "ada")
        assert victim.get(back).status_code == 403
        to_provider(victim)  # with a flow of its own under way
        assert victim.get(back).status_code == 403
        assert attacker.get(back).status_code == 303
        assert attacker.get(back).status_code == 403


def test_a_forged_code_begins_no_session(control: Control) -> None:
    with httpx.Client(base_url=control.url) as browser:
        state = to_provider(browser).params["state"]
        back = browser.get("/console/oidc/callback", params={"state": state, "code": "forged"})
        assert (back.status_code, "log says why" in back.text) == (502, True)
        assert browser.get("/console/plans").status_code == 303


def test_a_provider_that_is_away_is_named(shared_redis: RedisServer, account: str) -> None:
    oidc = OidcOptions("http://localhost:9", "console", None, (ClaimRule("groups", "a"),))
    with running(shared_redis.url, account, oidc=oidc) as control, httpx.Client(base_url=control.url) as browser:
        answer = browser.get("/console/oidc/start")
        assert (answer.status_code, "Signing in with localhost:9 failed" in answer.text) == (502, True)


def test_flows_are_throttled_like_attempts_with_a_token(control: Control) -> None:
    with httpx.Client(base_url=control.url) as browser:
        statuses = [browser.get("/console/oidc/start").status_code for _ in range(30)]
    assert statuses[0] == 302
    assert 429 in statuses
