"""`apiKeySource: AUTHORIZER`: the key is a claim that jwt_authn has verified."""

from __future__ import annotations

from tests.e2e.catalog import token
from tests.e2e.stack import Answer, Stack
from tests.support.builders import value_of


def ask(stack: Stack, claims: dict[str, str], key: str = "") -> Answer:
    return stack.get("/prod/pets", key, host="login.test", headers=[("authorization", f"Bearer {token(claims)}")])


def test_a_verified_claim_is_the_key(shared: Stack) -> None:
    answer = ask(shared, {"api_key": value_of("customer")})
    assert (answer.status, answer.upstream["x-api-key-id"]) == (200, "customer")


def test_a_token_without_the_claim_has_no_key(shared: Stack) -> None:
    assert ask(shared, {"sub": "somebody"}).status == 403


def test_a_header_is_no_key_beside_a_token(shared: Stack) -> None:
    assert ask(shared, {"sub": "somebody"}, "free").refusal == (403, '{"message":"Forbidden"}')


def test_a_header_that_could_be_a_key_is_taken_off(shared: Stack) -> None:
    """Whichever source was used."""
    answer = ask(shared, {"api_key": value_of("customer")}, "free")
    assert (answer.status, "x-api-key" in answer.upstream) == (200, False)


def test_a_forged_token_does_not_get_that_far(shared: Stack) -> None:
    forged = token({"api_key": value_of("customer")}) + "x"
    assert shared.get("/prod/pets", host="login.test", headers=[("authorization", f"Bearer {forged}")]).status == 401
