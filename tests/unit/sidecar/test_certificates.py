"""New certificates are loaded once they are good, and listeners are notified."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from structlog.testing import capture_logs

from authz.config.settings import Settings
from authz.observe.metrics import Metrics
from authz.sidecar.certificates import KINDS, Certificates, Files, Material
from tests.support.topologies import Certificates as Made


def files_of(made: Made) -> Files:
    return Files(made.certificate, made.key, made.ca)


def test_a_pair_and_its_ca_are_read_with_their_ends(tmp_path: Path) -> None:
    made = Made.make(tmp_path / "made")
    found = Material.read(files_of(made))
    certificate, ca = (x509.load_pem_x509_certificate(path.read_bytes()) for path in (made.certificate, made.ca))
    assert (found.expires, found.client_ca_expires) == (certificate.not_valid_after_utc, ca.not_valid_after_utc)


def test_without_tls_there_are_no_certificates_and_no_metric() -> None:
    metrics = Metrics()
    assert Certificates.of(Settings(), metrics.certificate_expires) is None
    assert b"\nauthz_tls_certificate_expiry_timestamp_seconds{" not in metrics.exposition()


def test_names_are_not_resolved(tmp_path: Path) -> None:
    """A symlink's target may change, so the link itself is watched."""
    (tmp_path / "name").symlink_to("elsewhere")
    found = Files.of(Settings(tls_cert_file=str(tmp_path / "name"), tls_key_file=str(tmp_path / "key")))
    assert found == Files(tmp_path / "name", tmp_path / "key")


def test_a_chain_ends_with_the_first_of_it(tmp_path: Path) -> None:
    made, other = Made.make(tmp_path / "made"), Made.make(tmp_path / "later")
    made.certificate.write_bytes(made.certificate.read_bytes() + other.certificate.read_bytes())
    first = x509.load_pem_x509_certificate(made.certificate.read_bytes()).not_valid_after_utc
    assert Material.read(files_of(made)).expires == first


@pytest.mark.parametrize(
    ("broken", "content", "says"),
    [
        ("cert.pem", b"", "cannot be used as a certificate and its key"),
        ("key.pem", b"no PEM", "cannot be used as a certificate and its key"),
        ("ca.pem", b"no PEM", "cannot be used as CA certificates"),
        ("cert.pem", None, "cannot be read: No such file or directory"),
        ("key.pem", None, "cannot be read: No such file or directory"),
        ("ca.pem", None, "cannot be read: No such file or directory"),
    ],
)
def test_an_unusable_certificate_is_named(broken: str, content: bytes | None, says: str, tmp_path: Path) -> None:
    made, file = Made.make(tmp_path / "made"), tmp_path / "made" / broken
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    with pytest.raises(OSError, match=says) as found:
        Material.read(files_of(made))
    assert str(file) in str(found.value)
    assert "\n" not in str(found.value)


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    made, other = Made.make(tmp_path / "made"), Made.make(tmp_path / "other")
    with pytest.raises(OSError, match="the key is another certificate's"):
        Material.read(Files(made.certificate, other.key))


def test_a_host_that_reads_the_files_itself_is_notified_of_good_ones_only(tmp_path: Path) -> None:
    """Unchanged ones notify too: the server may have read them while they were half written."""
    made, told = Made.make(tmp_path / "made"), list[Material]()
    certificates = Certificates(files_of(made))
    certificates.on_good(lambda: told.append(certificates.current))
    first = certificates.current
    good = made.key.read_bytes()
    made.key.write_bytes(b"no PEM")
    certificates.reload()
    assert told == []
    assert certificates.current is first
    made.key.write_bytes(good)
    certificates.reload()
    assert told == [first]
    assert certificates.current is first


# --- kinds of keys --------------------------------------------------------------------------------------------------

DAY = timedelta(days=1)
P256 = ec.generate_private_key(ec.SECP256R1())


def put(
    place: Path,
    key: CertificateIssuerPrivateKeyTypes,
    *,
    starts: datetime | None = None,
    locked: KeySerializationEncryption = NoEncryption(),  # noqa: B008
) -> Files:
    """Write the key and a certificate that it signed for itself, valid for a day from `starts`."""
    name, begins = x509.Name([]), starts or datetime.now(UTC) - DAY / 2
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, begins, begins + DAY).sign(key, algorithm)
    files = Files(place / "tls.crt", place / "tls.key")
    files.certificate.write_bytes(made.public_bytes(Encoding.PEM))
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
    return files


@pytest.mark.parametrize(
    ("key", "is_served"),
    [
        (rsa.generate_private_key(65537, 2048), True),
        (P256, True),
        (ec.generate_private_key(ec.SECP384R1()), True),
        (ec.generate_private_key(ec.SECP521R1()), False),
        (ec.generate_private_key(ec.SECP256K1()), False),
        (rsa.generate_private_key(65537, 1024), False),
        (ed25519.Ed25519PrivateKey.generate(), False),
    ],
    ids=["RSA 2048", "P-256", "P-384", "P-521", "secp256k1", "RSA 1024", "Ed25519"],
)
def test_only_what_envoy_believes_is_served(
    key: CertificateIssuerPrivateKeyTypes, is_served: bool, tmp_path: Path
) -> None:
    files = put(tmp_path, key)
    if is_served:
        assert Material.read(files).certificate == files.certificate.read_bytes()
    else:
        with pytest.raises(OSError, match=KINDS):
            Material.read(files)


def test_a_key_with_a_password_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Password was not given") as found:
        Material.read(put(tmp_path, P256, locked=BestAvailableEncryption(b"secret")))
    assert "secret" not in str(found.value)


def spoilt(pem: bytes, good: bytes, bad: bytes) -> bytes:
    """Replace the first `good` in a certificate by `bad`."""
    made = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER).replace(good, bad, 1)
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(made) + b"-----END CERTIFICATE-----\n"


VERSION_3, P256_OID = bytes.fromhex("a003020102"), bytes.fromhex("06082a8648ce3d030107")


@pytest.mark.parametrize(
    ("good", "bad"),
    [(VERSION_3, bytes.fromhex("a003020109")), (P256_OID, bytes.fromhex("06082a8648ce3d030163"))],
    ids=["version", "curve"],
)
@pytest.mark.parametrize("name", ["tls.crt", "ca.crt"])
def test_an_unknown_key_type_is_a_broken_certificate(name: str, good: bytes, bad: bytes, tmp_path: Path) -> None:
    """The old ones stay in use. A CA's curve matters only once it has signed a certificate."""
    pair = put(tmp_path, P256)
    files = Files(pair.certificate, pair.key, tmp_path / "ca.crt")
    (tmp_path / "ca.crt").write_bytes(pair.certificate.read_bytes())
    certificates = Certificates(files)
    before = certificates.current
    (tmp_path / name).write_bytes(spoilt(before.certificate, good, bad))
    with capture_logs() as logs:
        certificates.reload()
    if (name, good) != ("ca.crt", P256_OID):
        assert certificates.current is before
        assert [one["event"] for one in logs] == ["certificates not reloaded"]


def test_one_that_is_not_valid_yet_is_served_with_a_word(tmp_path: Path) -> None:
    with capture_logs() as logs:
        Certificates(put(tmp_path, P256, starts=datetime.now(UTC) + DAY))
    assert [one["event"] for one in logs] == ["certificate is not valid yet"]
