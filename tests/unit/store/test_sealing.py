"""Secrets are indexed under the pepper, open for their owner alone, and outlive a change of the sealing key."""

from __future__ import annotations

import base64
import hmac
from pathlib import Path

import pytest

from authz.config.faults import ConfigError
from authz.core.resources import digest
from authz.store.sealing import Sealer, SealError, load_sealer, new_key

OLD, NEW = b"o" * 32, b"n" * 32
PEPPER = "a pepper of some length"


def test_a_sealed_text_opens_for_its_owner_and_shows_nothing() -> None:
    sealer = Sealer([OLD])
    sealed = sealer.seal("very secret", "id1")
    assert sealer.open(sealed, "id1") == "very secret"
    assert "secret" not in sealed
    assert sealed != sealer.seal("very secret", "id1")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda sealed: sealed[:-8] + "AAAAAAA=",
        lambda sealed: sealed.replace("v1.", "v2."),
        lambda sealed: sealed[:12],
        lambda sealed: "",
        lambda sealed: sealed + "é",
    ],
)
def test_a_damaged_text_does_not_open(spoil) -> None:  # type: ignore[no-untyped-def]
    sealer = Sealer([OLD])
    with pytest.raises(SealError):
        sealer.open(spoil(sealer.seal("secret", "id1")), "id1")


def test_a_sealed_text_does_not_open_for_another_owner() -> None:
    sealer = Sealer([OLD])
    with pytest.raises(SealError, match="another owner"):
        sealer.open(sealer.seal("secret", "id1"), "id2")


def test_a_new_key_before_the_old_one_opens_both() -> None:
    old = Sealer([OLD]).seal("secret", "id1")
    both = Sealer([NEW, OLD])
    assert both.open(old, "id1") == "secret"
    assert Sealer([NEW]).open(both.seal("secret", "id1"), "id1") == "secret"
    with pytest.raises(SealError, match="not given"):
        Sealer([NEW]).open(old, "id1")


def test_without_a_key_nothing_is_sealed() -> None:
    sealer = Sealer()
    assert not sealer.can_seal
    with pytest.raises(SealError, match="no sealing key"):
        sealer.seal("secret", "id1")


@pytest.mark.parametrize("length", [16, 63, 64, 65, 200])
def test_an_index_is_the_hmac_of_the_digest(length: int) -> None:
    pepper, sha256 = bytes(range(length)), digest("value")
    indexes = [Sealer(pepper=pepper).index(sha256) for _ in range(2)]
    assert indexes == [hmac.digest(pepper, sha256, "sha256").hex()] * 2


def test_an_index_depends_on_the_pepper_and_without_one_is_the_digest() -> None:
    sha256 = digest("value")
    assert Sealer().index(sha256) == sha256.hex()
    indexes = {Sealer(pepper=pepper).index(sha256) for pepper in (b"", b"a", b"b")}
    assert len(indexes) == 3


def test_secrets_come_from_files_before_the_environment(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"{base64.b64encode(NEW).decode()}\n{OLD.hex()}\n")
    (tmp_path / "pepper").write_text(PEPPER + "\n")
    environ = {"AUTHZ_PEPPER": "another pepper, a longer one", "AUTHZ_SEALING_KEY": new_key()}
    loaded = load_sealer(environ, tmp_path / "pepper", tmp_path / "keys")
    same = Sealer([NEW, OLD], PEPPER.encode())
    assert loaded.index(digest("x")) == same.index(digest("x"))
    assert same.open(loaded.seal("secret", "id"), "id") == "secret"
    assert load_sealer(environ).can_seal
    assert not load_sealer({}).can_seal


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"AUTHZ_PEPPER": "short"}, "at least 16 characters"),
        ({"AUTHZ_SEALING_KEY": "not a key"}, "keys of 32 bytes"),
        ({"AUTHZ_SEALING_KEY": "QUJD"}, "keys of 32 bytes"),
    ],
)
def test_a_bad_secret_is_refused_without_being_repeated(environ: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        load_sealer(environ)
    assert not any(value in str(raised.value) for value in environ.values())


def test_a_file_that_is_missing_or_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name in ("missing", "empty"):
        with pytest.raises(ConfigError, match=name):
            load_sealer({}, pepper_file=tmp_path / name)
