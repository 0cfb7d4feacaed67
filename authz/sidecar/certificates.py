"""The certificate that the gRPC server shows and the CAs it asks of clients: read, checked, and read again on a change.

A broken file is never taken over: the last good ones go on serving, and the log says why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, NoReturn

import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from authz.config.file import Stamp, stamp
from authz.config.settings import Settings

Of = Literal["server", "clients"]
Stamps = tuple[Stamp | None, ...]

LOOK_SECONDS: Final = 1.0
# Raised by cryptography for unreadable input: a TypeError for a key with a password.
UNREADABLE: Final = (TypeError, ValueError, UnsupportedAlgorithm, x509.InvalidVersion)
# Our server would show others too, and each Envoy refuse to speak to it.
CURVES: Final = ("secp256r1", "secp384r1")
RSA_BITS: Final = 2048
KINDS: Final = f"expected a key of RSA with at least {RSA_BITS} bits, or of the elliptic curve P-256 or P-384"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Files:
    """A certificate chain and its key, and the CAs of clients if those have to show a certificate; all PEM."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    @classmethod
    def of(cls, settings: Settings) -> Files | None:
        """None for a server without TLS."""
        if not (settings.tls_cert_file and settings.tls_key_file):
            return None
        ca = settings.tls_client_ca_file
        # Not resolved: in Kubernetes the name stays, and where its symlinks lead is what changes.
        return cls(
            Path(settings.tls_cert_file).absolute(),
            Path(settings.tls_key_file).absolute(),
            Path(ca).absolute() if ca else None,
        )

    def stamps(self) -> Stamps:
        """One for each file; they differ when a file does."""
        return tuple(stamp(path) for path in (self.certificate, self.key, self.client_ca) if path)


@dataclass(frozen=True, slots=True)
class Material:
    """The content of the files, in PEM.

    From `starts` to `expires` all certificates of the chain are good, and until `client_ca_expires` one CA at least.
    """

    certificate: bytes
    key: bytes
    client_ca: bytes | None
    starts: datetime
    expires: datetime
    client_ca_expires: datetime | None

    @classmethod
    def read(cls, files: Files) -> Material:
        """Raises OSError, in words for the operator, for what no server could serve."""
        certificate, key = _bytes(files.certificate), _bytes(files.key)
        client_ca = _bytes(files.client_ca) if files.client_ca else None
        with _told(f"{files.certificate} and {files.key} cannot be used as a certificate and its key"):
            chain = x509.load_pem_x509_certificates(certificate)
            _check_pair(chain[0], load_pem_private_key(key, None))
            starts = max(one.not_valid_before_utc for one in chain)
            expires = min(one.not_valid_after_utc for one in chain)
        with _told(f"{files.client_ca} cannot be used as CA certificates"):
            trusted = x509.load_pem_x509_certificates(client_ca) if client_ca is not None else []
            client_ca_expires = max((one.not_valid_after_utc for one in trusted), default=None)
        return cls(certificate, key, client_ca, starts, expires, client_ca_expires)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OSError(f"{path} cannot be read: {error.strerror or error}") from None


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn unreadable input into an OSError, in a line."""
    try:
        yield
    except UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OSError(f"{what}: {reason}") from None


def _check_pair(certificate: x509.Certificate, key: PrivateKeyTypes) -> None:
    """Raises ValueError where they do not belong together, or are of a kind that Envoy never accepts."""
    if _public(key) != _public(certificate):
        raise ValueError("the key is another certificate's")
    match key:
        case rsa.RSAPrivateKey() if key.key_size >= RSA_BITS:
            return
        case ec.EllipticCurvePrivateKey() if key.curve.name in CURVES:
            return
    raise ValueError(KINDS)


def _public(of: x509.Certificate | PrivateKeyTypes) -> bytes:
    return of.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


class Certificates:
    """The certificates that are served now. Their files are checked once a second, and read again after a change."""

    def __init__(self, files: Files, expires: Callable[[Of, float], None] = lambda *_: None) -> None:
        """`expires` gets the time of expiry, as a Unix time. Raises OSError as `Material.read` does."""
        self.files = files
        self._tell = expires
        self._seen = files.stamps()
        self.current = Material.read(files)
        self._on_good: list[Callable[[], None]] = []
        self._took()

    @classmethod
    def of(cls, settings: Settings, expires: Callable[[Of, float], None]) -> Certificates | None:
        """None for a server without TLS."""
        files = Files.of(settings)
        return cls(files, expires) if files else None

    def on_good(self, act: Callable[[], None]) -> None:
        """Call this, in the event loop, whenever the files have been read and were good, be they the same or others.

        Who reads them for itself may have done so in a worse moment.
        """
        self._on_good.append(act)

    async def watch(self) -> NoReturn:
        """Stamps and not inotify: it sees a swapped symlink, a file written in place and a network's file alike."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self.files.stamps() != self._seen:
                self.reload()

    def reload(self) -> None:
        """Take over what the files hold, if it is good."""
        self._seen = self.files.stamps()  # before they are read: what changes meanwhile is seen the next time
        try:
            found = Material.read(self.files)
        except OSError as error:
            log.error("certificates not reloaded", error=str(error))
            return
        if found != self.current:
            self.current = found
            log.info("certificates reloaded", expires=found.expires.isoformat())
            self._took()
        for act in self._on_good:
            act()

    def _took(self) -> None:
        """Report the times. A certificate outside its validity is served, too: our clock may be wrong."""
        now = datetime.now(UTC)
        if self.current.starts > now:
            log.warning("certificate is not valid yet", until=self.current.starts.isoformat())
        told: tuple[tuple[Of, datetime | None], ...] = (
            ("server", self.current.expires),
            ("clients", self.current.client_ca_expires),
        )
        for of, expires in told:
            if expires:
                self._tell(of, expires.timestamp())
                if expires < now:
                    log.warning("certificate has expired", of=of, at=expires.isoformat())
