"""Keeps secrets out of the store: hashes keys with a pepper, and encrypts values that must be read back."""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from authz.config.faults import ConfigError
from authz.core.problem import Problem

FORMAT: Final = "v1"
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
BLOCK_BYTES: Final = 64  # of SHA-256
PEPPER_BYTES: Final = 16  # the minimum length, against guessing
PEPPER_VARIABLE: Final = "AUTHZ_PEPPER"
KEY_VARIABLE: Final = "AUTHZ_SEALING_KEY"


class SealError(Exception):
    """No key is there to seal with; or a sealed text has another key or another owner, or is damaged."""


class Sealer:
    """Seals with the first key and opens with any, so that a new key can be put before the old ones."""

    def __init__(self, keys: Sequence[bytes] = (), pepper: bytes = b"") -> None:
        self._ciphers = {_name(key): AESGCM(key) for key in keys}
        self._first = _name(keys[0]) if keys else None
        self._index = _keyed(pepper) if pepper else bytes.hex

    @property
    def can_seal(self) -> bool:
        return self._first is not None

    def index(self, sha256: bytes) -> str:
        """Return the index of a key's value in hex, from the value's SHA-256."""
        return self._index(sha256)

    def seal(self, text: str, context_id: str) -> str:
        """Return `v1.<name of the key>.<nonce, ciphertext and tag>`, which opens with this `context_id` only."""
        if self._first is None:
            raise SealError("no sealing key is given")
        nonce = secrets.token_bytes(NONCE_BYTES)
        hidden = self._ciphers[self._first].encrypt(nonce, text.encode(), context_id.encode())
        return f"{FORMAT}.{self._first}.{base64.urlsafe_b64encode(nonce + hidden).decode()}"

    def open(self, sealed: str, context_id: str) -> str:
        version, _, rest = sealed.partition(".")
        name, _, coded = rest.partition(".")
        cipher = self._ciphers.get(name)
        if version != FORMAT or cipher is None:
            raise SealError("sealed with a key that is not given")
        try:
            hidden = base64.urlsafe_b64decode(coded)
            return cipher.decrypt(hidden[:NONCE_BYTES], hidden[NONCE_BYTES:], context_id.encode()).decode()
        except (InvalidTag, ValueError):
            raise SealError("sealed for another owner, or damaged") from None


def _keyed(pepper: bytes) -> Callable[[bytes], str]:
    """Return a function that computes HMAC-SHA-256 with the pepper, in hex.

    Both hashes read the pepper here, once. The function runs for every request, and takes a third of the time of
    `hmac.digest`.
    """
    block = (pepper if len(pepper) <= BLOCK_BYTES else hashlib.sha256(pepper).digest()).ljust(BLOCK_BYTES, b"\0")
    inner, outer = (hashlib.sha256(bytes(byte ^ pad for byte in block)) for pad in (0x36, 0x5C))

    def keyed(message: bytes) -> str:
        inside, outside = inner.copy(), outer.copy()
        inside.update(message)
        outside.update(inside.digest())
        return outside.hexdigest()

    return keyed


def new_key() -> str:
    """Return a new sealing key in base64, as its file holds it."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def load_sealer(
    environ: Mapping[str, str],
    pepper_file: str | PathLike[str] | None = None,
    sealing_key_file: str | PathLike[str] | None = None,
) -> Sealer:
    """Load the pepper and the sealing keys, one a line, from files, else from the environment. Raises ConfigError."""
    pepper, origin = _given(environ, PEPPER_VARIABLE, pepper_file)
    if pepper and len(pepper.encode()) < PEPPER_BYTES:
        raise ConfigError([Problem(origin, f"expected at least {PEPPER_BYTES} characters")])
    text, origin = _given(environ, KEY_VARIABLE, sealing_key_file)
    return Sealer([_key(word, origin) for word in text.replace(",", " ").split()], pepper.encode())


def _given(environ: Mapping[str, str], variable: str, file: str | PathLike[str] | None) -> tuple[str, str]:
    """Return a secret and its origin; "" if none is configured. Raises ConfigError for an unreadable or empty file."""
    if not file:
        return environ.get(variable, "").strip(), f"environment {variable}"
    try:
        text = Path(file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(str(file), f"cannot be read: {getattr(error, 'strerror', 'not text')}")]) from None
    if not text:
        raise ConfigError([Problem(str(file), "expected a secret, and it is empty")])
    return text, str(file)


def _key(word: str, origin: str) -> bytes:
    """Decode a sealing key. Tries hex first, because 64 hex digits are also valid base64, of another length."""
    for decode in (bytes.fromhex, lambda text: base64.b64decode(text, validate=True)):
        try:
            key = decode(word)
        except (binascii.Error, ValueError):
            continue
        if len(key) == KEY_BYTES:
            return key
    raise ConfigError([Problem(origin, f"expected keys of {KEY_BYTES} bytes, each in base64 or hex")])


def _name(key: bytes) -> str:
    return hashlib.sha256(b"name of a sealing key" + key).hexdigest()[:8]
