"""AWS Signature Version 4: what a signature covers, and what it must be."""

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
    """What the Authorization header says, and when the request was signed."""

    access_key: str
    scope: tuple[str, ...]  # day, region, service, aws4_request
    signed_headers: tuple[str, ...]
    signature: str
    moment: datetime

    @property
    def stamp(self) -> str:
        return self.moment.strftime(STAMP)


def parse(authorization: str, headers: Headers) -> Signature:
    """The parts of an Authorization header. Raises IncompleteSignatureException; it repeats nothing that was given."""
    algorithm, _, rest = authorization.strip().partition(" ")
    if algorithm != ALGORITHM:
        raise _incomplete(f"Unsupported AWS algorithm: expected {ALGORITHM}.")
    pairs = (part.strip().partition("=") for part in rest.split(","))
    given = {name: value.strip() for name, _, value in pairs}
    missing = [f"Authorization header requires '{name}' parameter." for name in PARTS if not given.get(name)]
    moment = _moment(headers)
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


def _moment(headers: Headers) -> datetime | None:
    """AWS takes `X-Amz-Date` first. A moment without a zone is UTC."""
    for name in ("x-amz-date", "date"):
        text = _joined(headers, name)
        if text:
            return _read_moment(text)
    return None


def _read_moment(text: str) -> datetime | None:
    try:
        if re.fullmatch(r"\d{8}T\d{6}Z", text, re.ASCII):
            return datetime.strptime(text, STAMP).replace(tzinfo=UTC)
        found = parsedate_to_datetime(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError, TypeError):
        return None


def check_claims(signature: Signature, now: int) -> None:
    """Raises InvalidSignatureException unless it is for this service, and was made at about `now`."""
    _check_scope(signature)
    _check_window(signature.moment, now)


def check(signature: Signature, secret: str, verb: str, path: str, query: str, headers: Headers, payload: str) -> None:
    """Raises InvalidSignatureException unless the holder of `secret` signed just this.

    `payload` is the SHA-256 of the body in hexadecimal, or what `payload_of` finds in the headers.
    """
    canonical = canonical_request(verb, path, query, headers, signature.signed_headers, payload)
    expected = _expected(signature, secret, canonical)
    if not hmac.compare_digest(expected.encode(), signature.signature.encode("utf-8", "replace")):
        raise _invalid(MISMATCH)


def _invalid(message: str) -> ApiError:
    return ApiError("InvalidSignatureException", message)


def _check_scope(signature: Signature) -> None:
    day, _, service, terminator = signature.scope
    if service != SERVICE:
        raise _invalid(f"Credential should be scoped to correct service: '{SERVICE}'.")
    if terminator != "aws4_request":
        raise _invalid("Credential should be scoped with a valid terminator: 'aws4_request'.")
    if day != signature.stamp[:8]:
        raise _invalid("Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP.")
    if "host" not in signature.signed_headers:
        raise _invalid("'Host' must be a 'SignedHeader' in the AWS Authorization.")


def _check_window(moment: datetime, now: int) -> None:
    given, clock = moment.strftime(STAMP), datetime.fromtimestamp(now, UTC).strftime(STAMP)
    age = now - moment.timestamp()
    if age > WINDOW_SECONDS:
        raise _invalid(f"Signature expired: {given} is now more than 15 min. earlier than {clock}")
    if age < -WINDOW_SECONDS:
        raise _invalid(f"Signature not yet current: {given} is still more than 15 min. later than {clock}")


def payload_of(headers: Headers) -> str | None:
    """The body's hash as the headers give it, `UNSIGNED-PAYLOAD`, or None: then only the body tells."""
    return _joined(headers, "x-amz-content-sha256") or None


def canonical_request(
    verb: str, path: str, query: str, headers: Headers, signed_headers: Sequence[str], payload: str
) -> str:
    lines = [f"{name}:{_joined(headers, name)}" for name in signed_headers]
    return "\n".join((verb, _path(path), _query(query), *lines, "", ";".join(signed_headers), payload))


def _path(path: str) -> str:
    """The path as it was sent, encoded once more (only S3 does without), without empty and dot segments."""
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            kept = kept[:-1]
        elif segment not in ("", "."):
            kept.append(segment)
    ending = "/" if kept and path.endswith("/") else ""
    return quote("/" + "/".join(kept) + ending, safe="/~", encoding="latin-1")


def _query(query: str) -> str:
    pairs = (pair.partition("=") for pair in query.split("&") if pair)
    return "&".join(
        f"{name}={value}" for name, value in sorted((_again(name), _again(value)) for name, _, value in pairs)
    )


def _again(text: str) -> str:
    """Encoded as the signature wants it, however it was sent."""
    return quote(unquote(text, encoding="latin-1"), safe=UNRESERVED, encoding="latin-1")


def _joined(headers: Headers, name: str) -> str:
    return ",".join(" ".join(value.split()) for each, value in headers if each == name)


def _expected(signature: Signature, secret: str, canonical: str) -> str:
    scope = "/".join(signature.scope)
    hashed = hashlib.sha256(canonical.encode("utf-8", "surrogateescape")).hexdigest()
    key = f"AWS4{secret}".encode()
    for word in signature.scope:
        key = hmac.digest(key, word.encode(), "sha256")
    text = "\n".join((ALGORITHM, signature.stamp, scope, hashed))
    return hmac.digest(key, text.encode(), "sha256").hex()
