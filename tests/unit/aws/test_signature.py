"""A signature made by botocore is accepted, and refused after any change to the parts that it covers."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from authz.aws import signature
from authz.aws.errors import ApiError
from authz.control.app import Received
from authz.control.auth import verify
from authz.control.bodies import Body, Budget

ID, SECRET = "AKIAEXAMPLE", "a secret access key"
HOST = "api.example.com"


def sign(
    verb: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None, service: str = "apigateway"
) -> dict[str, str]:
    """Return the headers of a request that botocore signed, by their names in lower case."""
    request = AWSRequest(method=verb, url=f"http://{HOST}{target}", data=body, headers=headers or {})
    SigV4Auth(Credentials(ID, SECRET), service, "eu-west-1").add_auth(request)
    return {"host": HOST} | {name.lower(): str(value) for name, value in request.headers.items()}


def check(
    headers: dict[str, str], verb: str = "GET", target: str = "/apikeys", body: bytes = b"", late: int = 0, **of: Any
) -> None:
    pairs = list(headers.items())
    given = signature.parse(headers["authorization"], pairs)
    path, _, query = target.partition("?")
    now = int(datetime.now(UTC).timestamp()) + late
    received = Received(verb, path, query, pairs, Body(_once(body), len(body), Budget()))

    async def verified() -> None:
        await verify(given, of.get("secret", SECRET), received, now)
        await received.body.read()

    asyncio.run(verified())


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


def refusal(*args: Any, **kwargs: Any) -> ApiError:
    with pytest.raises(ApiError) as raised:
        check(*args, **kwargs)
    return raised.value


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/apikeys",
        "/apikeys?limit=5&includeValues=true",
        "/apikeys?name=a%20b%2Fc&customerId=&flag",
        "/tags/arn%3Aaws%3Aapigateway%3Aeu-west-1%3A%3A%2Frestapis%2Fabc?tagKeys=a&tagKeys=b",
        "/usageplans/a~b-c_d.e/keys",
        "/apikeys?z=1&a=2&a=1",
        "/domainnames/%C3%A9.example",
    ],
)
def test_a_request_signed_by_botocore_is_accepted(target: str) -> None:
    check(sign("GET", target), target=target)


@given(st.lists(st.text(min_size=1).filter(lambda text: text.encode("utf-8", "ignore")), min_size=1, max_size=3))
def test_any_path_that_botocore_signs_is_accepted(parts: list[str]) -> None:
    target = "/" + "/".join(quote(part.encode("utf-8", "ignore"), safe="-._~") for part in parts)
    check(sign("GET", target), target=target)


def test_a_body_is_covered() -> None:
    headers = sign("POST", "/apikeys", b'{"name":"a"}')
    check(headers, "POST", body=b'{"name":"a"}')
    assert refusal(headers, "POST", body=b'{"name":"b"}').code == "InvalidSignatureException"


def test_a_given_hash_of_the_body_must_be_true() -> None:
    body, other = b"one", b"two"
    headers = sign("POST", "/apikeys", body, {"X-Amz-Content-SHA256": hashlib.sha256(body).hexdigest()})
    check(headers, "POST", body=body)
    assert refusal(headers, "POST", body=other).code == "InvalidSignatureException"


def test_an_unsigned_payload_may_be_anything() -> None:
    headers = sign("POST", "/apikeys", b"one", {"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"})
    check(headers, "POST", body=b"another")


@pytest.mark.parametrize(
    "changed",
    [
        {"verb": "DELETE"},
        {"target": "/apikeys/other"},
        {"target": "/apikeys?includeValues=true"},
        {"secret": "another secret"},
    ],
)
def test_a_change_to_a_signed_part_is_noticed(changed: dict[str, str]) -> None:
    error = refusal(sign("GET", "/apikeys"), **changed)
    assert error.code == "InvalidSignatureException"
    assert error.message.startswith("The request signature we calculated does not match")


def test_a_signed_header_is_covered() -> None:
    headers = sign("GET", "/apikeys", headers={"X-Custom": "a   b"})
    check(headers | {"x-custom": " a b "})
    assert refusal(headers | {"x-custom": "c"}).code == "InvalidSignatureException"


@pytest.mark.parametrize(("late", "message"), [(16 * 60, "Signature expired"), (-16 * 60, "not yet current")])
def test_the_window_is_a_quarter_of_an_hour(late: int, message: str) -> None:
    headers = sign("GET", "/apikeys")
    check(headers, late=late - 2 * 60 if late > 0 else late + 2 * 60)
    error = refusal(headers, late=late)
    assert error.code == "InvalidSignatureException"
    assert message in error.message


def test_another_service_is_refused() -> None:
    error = refusal(sign("GET", "/apikeys", service="s3"))
    assert "correct service: 'apigateway'" in error.message


def test_the_host_must_be_signed() -> None:
    headers = sign("GET", "/apikeys")
    headers["authorization"] = headers["authorization"].replace("SignedHeaders=host;", "SignedHeaders=")
    assert "'Host'" in refusal(headers).message


@pytest.mark.parametrize(
    ("authorization", "message"),
    [
        ("Basic abc", "Unsupported AWS algorithm"),
        ("AWS4-HMAC-SHA256", "requires 'Credential' parameter"),
        ("AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host, Signature=x", "5 slash-delimited elements"),
        ("AWS4-HMAC-SHA256 Credential=a/b/c/d/e, Signature=x", "requires 'SignedHeaders' parameter"),
    ],
)
def test_the_answer_names_the_missing_part_of_a_header(authorization: str, message: str) -> None:
    with pytest.raises(ApiError, match=message) as raised:
        signature.parse(authorization, [("x-amz-date", "20260304T100000Z")])
    assert raised.value.code == "IncompleteSignatureException"


@pytest.mark.parametrize("stamp", ["", "yesterday", "99999999T999999Z", "Thu, 99 Foo 2026"])
def test_a_request_without_a_date_is_incomplete(stamp: str) -> None:
    given = "AWS4-HMAC-SHA256 Credential=a/b/c/d/e, SignedHeaders=host, Signature=x"
    with pytest.raises(ApiError, match="'X-Amz-Date' or a 'Date' header"):
        signature.parse(given, [("x-amz-date", stamp)])


def test_a_date_header_will_do() -> None:
    given = "AWS4-HMAC-SHA256 Credential=a/b/c/d/e, SignedHeaders=host, Signature=x"
    parsed = signature.parse(given, [("date", "Wed, 04 Mar 2026 10:00:00 GMT")])
    assert parsed.stamp == "20260304T100000Z"
