"""An authority of certificates, which Python 3.13 trusts too: it demands the extensions of RFC 5280."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.servers import HOST

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

NAME: Final = "authz.example.org"
NAMES: Final = (NAME, "localhost")
DAY: Final = timedelta(days=1)
SIGNS_CERTIFICATES: Final = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


class Authority:
    """A CA and its certificates, in PEM. They are good from a day ago on, for another `lasts`."""

    def __init__(self, name: str, lasts: timedelta = DAY) -> None:
        self._name, self._lasts = _named(name), lasts
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.pem = self._signed(self._name, self._key, timedelta(0), x509.BasicConstraints(True, None))

    def pair(self, *, age: timedelta = timedelta(0), key: PrivateKey | None = None) -> Pair:
        """For NAMES and loopback; `age` moves the time for which it is good back."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        known = [*map(x509.DNSName, NAMES), x509.IPAddress(ip_address(HOST))]
        certificate = self._signed(_named("end"), key, age, x509.SubjectAlternativeName(known))
        return Pair(certificate, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    def _signed(self, subject: x509.Name, key: PrivateKey, age: timedelta, extension: x509.ExtensionType) -> bytes:
        then, ours = datetime.now(UTC) - age, self._key.public_key()
        made = (
            x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(then - DAY)
            .not_valid_after(then + self._lasts)
            .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ours), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        if key is self._key:
            made = made.add_extension(SIGNS_CERTIFICATES, critical=True)
        return made.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certificate: bytes
    key: bytes

    @property
    def parsed(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificate)

    @property
    def serial(self) -> int:
        return self.parsed.serial_number
