"""Which certificates are taken over, and who is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509

from authz.metrics import Metrics
from authz.settings import Settings
from authz.tls import Certificates, Files, Material
from tests.topologies import Certificates as Made


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
    """Where a symlink leads is what changes."""
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
def test_what_cannot_be_served_is_named(broken: str, content: bytes | None, says: str, tmp_path: Path) -> None:
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


def test_who_reads_for_himself_is_told_of_good_ones_alone(tmp_path: Path) -> None:
    """Of the same ones too: he may have read while they were half written."""
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
