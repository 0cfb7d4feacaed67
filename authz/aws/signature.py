"""AWS Signature Version 4: reads the Authorization header, and checks the signature of a request."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import quote, unquote

from authz.aws.errors import ApiError

ALGORITHM: Final = "AWS4-HMAC-SHA256"
SERVICE: Final = "apigateway"
UNSIGNED: Final = "UNSIGNED-PAYLOAD"
WINDOW_SECONDS: Final = 15 * 60
STAMP: Final = "%Y%m%dT%H%M%SZ"
PARTS: Final = ("Credential", "SignedHeaders", "Signature")
UNRESERVED: Final = "-_.~"
MISMATCH: Final = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key "
    "and signing method. Consult the service documentation for details."
)

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Signature:
    """The fields of an Authorization header, and the time of signing."""

    access_key: str
    scope: tuple[str, ...]  # day, region, service, aws4_request
    signed_headers: tuple[str, ...]
    signature: str
    moment: datetime

    @property
    def stamp(self) -> str:
        return self.moment.strftime(STAMP)


def parse(authorization: str, headers: Headers) -> Signature:
    """Read an Authorization header. Raises IncompleteSignatureException, whose message quotes no part of the header."""
    algorithm, _, rest = authorization.strip().partition(" ")
    if algorithm != ALGORITHM:
        raise _incomplete(f"Unsupported AWS algorithm: expected {ALGORITHM}.")
    pairs = (part.strip().partition("=") for part in rest.split(","))
    given = {name: value.strip() for name, _, value in pairs}
    missing = [f"Authorization header requires '{name}' parameter." for name in PARTS if not given.get(name)]
    moment = _signed_at(headers)
    if moment is None:
        missing.append("Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.")
    if missing or moment is None:
        raise _incomplete(" ".join(missing))
    access_key, *scope = given["Credential"].split("/")
    if len(scope) != 4 or not access_key:
        raise _incomplete("Credential must have exactly 5 slash-delimited elements.")
    names = tuple(given["SignedHeaders"].lower().split(";"))
    return Signature(access_key, tuple(scope), names, given["Signature"], moment)


def _incomplete(message: str) -> ApiError:
    return ApiError("IncompleteSignatureException", message)


def _signed_at(headers: Headers) -> datetime | None:
    """Return the time of signing, from `X-Amz-Date` or else `Date`. A time without a zone is UTC."""
    text = _joined(headers, "x-amz-date") or _joined(headers, "date")
    try:
        if re.fullmatch(r"\d{8}T\d{6}Z", text, re.ASCII):
            return datetime.strptime(text, STAMP).replace(tzinfo=UTC)
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError, TypeError):
        return None


def check_claims(signature: Signature, now: int) -> None:
    """Check the scope and the time of a signature; `now` is in Unix seconds. Raises InvalidSignatureException."""
    day, _, service, terminator = signature.scope
    if service != SERVICE:
        raise _invalid(f"Credential should be scoped to correct service: '{SERVICE}'.")
    if terminator != "aws4_request":
        raise _invalid("Credential should be scoped with a valid terminator: 'aws4_request'.")
    if day != signature.stamp[:8]:
        raise _invalid("Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP.")
    if "host" not in signature.signed_headers:
        raise _invalid("'Host' must be a 'SignedHeader' in the AWS Authorization.")
    given, clock = signature.stamp, datetime.fromtimestamp(now, UTC).strftime(STAMP)
    age = now - signature.moment.timestamp()
    if age > WINDOW_SECONDS:
        raise _invalid(f"Signature expired: {given} is now more than 15 min. earlier than {clock}")
    if age < -WINDOW_SECONDS:
        raise _invalid(f"Signature not yet current: {given} is still more than 15 min. later than {clock}")


def check(signature: Signature, secret: str, verb: str, path: str, query: str, headers: Headers, payload: str) -> None:
    """Check that the holder of `secret` signed this very request. Raises InvalidSignatureException.

    `payload` is the SHA-256 of the body in hexadecimal, or the result of `payload_of`.
    """
    canonical = canonical_request(verb, path, query, headers, signature.signed_headers, payload)
    hashed = hashlib.sha256(canonical.encode("utf-8", "surrogateescape")).hexdigest()
    key = f"AWS4{secret}".encode()
    for word in signature.scope:
        key = hmac.digest(key, word.encode(), "sha256")
    text = "\n".join((ALGORITHM, signature.stamp, "/".join(signature.scope), hashed))
    expected = hmac.digest(key, text.encode(), "sha256").hex()
    if not hmac.compare_digest(expected.encode(), signature.signature.encode("utf-8", "replace")):
        raise _invalid(MISMATCH)


def _invalid(message: str) -> ApiError:
    return ApiError("InvalidSignatureException", message)


def payload_of(headers: Headers) -> str | None:
    """Return the body's hash from the headers, which may be `UNSIGNED-PAYLOAD`; None if the headers have none."""
    return _joined(headers, "x-amz-content-sha256") or None


def canonical_request(
    verb: str, path: str, query: str, headers: Headers, signed_headers: Sequence[str], payload: str
) -> str:
    """Return the text whose hash is signed: verb, path, query, headers and body hash in AWS's canonical form."""
    lines = [f"{name}:{_joined(headers, name)}" for name in signed_headers]
    pairs = (pair.partition("=") for pair in query.split("&") if pair)
    encoded = sorted((_encoded(name), _encoded(value)) for name, _, value in pairs)
    fields = "&".join(f"{name}={value}" for name, value in encoded)
    return "\n".join((verb, _canonical_path(path), fields, *lines, "", ";".join(signed_headers), payload))


def _canonical_path(path: str) -> str:
    """Remove empty and dot segments, and encode the path as sent once more, as every service but S3 does."""
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            kept = kept[:-1]
        elif segment not in ("", "."):
            kept.append(segment)
    ending = "/" if kept and path.endswith("/") else ""
    return quote("/" + "/".join(kept) + ending, safe="/~", encoding="latin-1")


def _encoded(text: str) -> str:
    """Encode a name or value of the query in the one way that the signature wants."""
    return quote(unquote(text, encoding="latin-1"), safe=UNRESERVED, encoding="latin-1")


def _joined(headers: Headers, name: str) -> str:
    return ",".join(" ".join(value.split()) for each, value in headers if each == name)
