"""Which claims let a person in, and as what."""

from __future__ import annotations

from typing import Any

import pytest

from authz.control.console.oidc import ClaimRule, OidcOptions
from authz.control.pages.sessions import OwnerSession

ISSUER = "https://login.example.com/tenant"


def options(issuer: str = ISSUER, client_id: str = "console") -> OidcOptions:
    return OidcOptions(
        issuer,
        client_id,
        admins=(ClaimRule.parse("groups=api-admins"), ClaimRule.parse("email=ada@example.com")),
        readers=(ClaimRule.parse("role=support=2"),),
    )


@pytest.mark.parametrize(
    ("claims", "read_only"),
    [
        ({"groups": ["staff", "api-admins"]}, False),
        ({"groups": "api-admins"}, False),
        ({"groups": ["api-admins"], "role": "support=2"}, False),
        ({"role": "support=2"}, True),
        ({"email": "ada@example.com", "email_verified": True}, False),
        ({"email": "ada@example.com"}, None),
        ({"email": "ada@example.com", "email_verified": False}, None),
        ({"email": "ada@example.com", "email_verified": "true"}, None),
        ({"groups": ["not-api-admins", "api-admins-2", "API-ADMINS", "api-admins "]}, None),
        ({"groups": "api-admins,staff"}, None),
        ({"groups": {"api-admins": True}}, None),
        ({"groups": [["api-admins"]]}, None),
        ({"Groups": ["api-admins"]}, None),
        ({"groups": None}, None),
        ({}, None),
    ],
)
def test_a_claim_counts_only_if_it_is_exactly_the_value(claims: dict[str, Any], read_only: bool | None) -> None:
    found = options().session({"sub": "u1", **claims})
    assert (None if found is None else found.read_only) == read_only


def test_the_audit_names_a_verified_address_or_else_the_subject_and_the_provider() -> None:
    claims = {"sub": "u1", "groups": ["api-admins"], "email": "eve@example.com"}
    assert options().session(claims) == OwnerSession("u1 (login.example.com)")
    assert options().session({**claims, "email_verified": True}) == OwnerSession("eve@example.com (login.example.com)")


@pytest.mark.parametrize("rule", ["groups", "=api-admins", "groups=", ""])
def test_a_rule_names_a_claim_and_a_value(rule: str) -> None:
    with pytest.raises(ValueError, match="expected CLAIM=VALUE"):
        ClaimRule.parse(rule)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (options(), None),
        (options("http://localhost:9000"), None),
        (options("http://login.example.com"), "https"),
        (options("login.example.com"), "https"),
        (options("https://"), "https"),
        (options("https://login.example.com/?a=b"), "https"),
        (options(client_id=""), "--oidc-client-id"),
        (OidcOptions(ISSUER, "console"), "--oidc-admin"),
    ],
)
def test_options_that_are_unsafe_or_admit_no_person_are_refused(given: OidcOptions, problem: str | None) -> None:
    found = given.problem()
    assert found is None if problem is None else problem in (found or "")
