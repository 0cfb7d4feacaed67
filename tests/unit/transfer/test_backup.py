"""A backup's file: its checksum decides whether anything is restored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path

import pytest

from authz.config.faults import ConfigError
from authz.store.ports import BackupEntry
from authz.transfer.transfer import backup, restore

ENTRIES = [BackupEntry("store:head", b"\x00head"), BackupEntry("ledger:p1:k1", b"\x00ledger", 1000)]
CHECKSUM_BYTES = 32


class DictArchive:
    """An `Archive` in memory: `held` are its entries, `restored` the entries that replaced them."""

    def __init__(self) -> None:
        self.held = ENTRIES
        self.restored: list[BackupEntry] | None = None

    async def dump(self) -> AsyncIterator[BackupEntry]:
        for entry in self.held:
            yield entry

    async def load(self, backup: AsyncIterable[BackupEntry]) -> int:
        self.restored = [entry async for entry in backup]
        return len(self.restored)


@pytest.fixture
def archive() -> DictArchive:
    return DictArchive()


@pytest.fixture
def path(archive: DictArchive, tmp_path: Path) -> Path:
    assert asyncio.run(backup(archive, tmp_path / "backup")) == len(ENTRIES)
    return tmp_path / "backup"


def test_every_byte_and_counter_is_reported(archive: DictArchive, path: Path) -> None:
    """So the bar of a restore, which is as long as the file, reaches its end."""
    for copy in (backup, restore):
        seen: list[tuple[int, bool]] = []
        asyncio.run(copy(archive, path, lambda *each, seen=seen: seen.append(each)))
        assert sum(size for size, _ in seen) == path.stat().st_size
        assert sum(is_counter for _, is_counter in seen) == 1


def test_a_whole_backup_is_restored(archive: DictArchive, path: Path) -> None:
    assert asyncio.run(restore(archive, path)) == len(ENTRIES)
    assert archive.restored == ENTRIES


@pytest.mark.parametrize(
    ("name", "checksum"), [("none", b""), ("half", bytes(16)), ("another", bytes(32)), ("more behind it", None)]
)
def test_a_backup_without_its_checksum_is_refused(
    archive: DictArchive, path: Path, name: str, checksum: bytes | None
) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole + b"x" if checksum is None else whole[:-CHECKSUM_BYTES] + checksum)
    with pytest.raises(ConfigError, match="a damaged backup, or a part of one; nothing was restored"):
        asyncio.run(restore(archive, path))
    assert archive.restored is None
