"""A command writes files whole, readable by their owner alone, and replaces only regular files."""

from __future__ import annotations

import os
import socket
import stat
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from authz.transfer.files import written


def _write(path: Path, text: bytes = b"new") -> None:
    with written(path) as file:
        file.write(text)


@pytest.mark.parametrize("before", [None, b"old and longer"])
def test_a_file_is_written_for_its_owner(tmp_path: Path, before: bytes | None) -> None:
    path = tmp_path / "backup"
    if before:
        path.write_bytes(before)
        path.chmod(0o644)
    _write(path)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", 0o600)
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "backup"
    path.write_bytes(b"old")
    with suppress(ZeroDivisionError), written(path) as file:
        file.write(b"half")
        _ = 1 / 0
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_followed(tmp_path: Path, there: bool) -> None:
    """This holds for a chain of links, and for a link whose target does not exist yet."""
    (tmp_path / "else").mkdir()
    target, link, again = tmp_path / "else" / "target", tmp_path / "link", tmp_path / "again"
    if there:
        target.write_bytes(b"old")
    link.symlink_to(target)
    again.symlink_to(link)
    _write(again)
    assert (link.is_symlink(), again.is_symlink(), target.read_bytes()) == (True, True, b"new")


def test_a_device_is_written_to_and_stays_one() -> None:
    before = Path("/dev/null").stat()
    _write(Path("/dev/null"))
    after = Path("/dev/null").stat()
    assert (stat.S_ISCHR(after.st_mode), after.st_ino, after.st_mode) == (True, before.st_ino, before.st_mode)


@pytest.mark.parametrize("linked", [True, False])
def test_a_fifo_is_written_to_and_stays_one(tmp_path: Path, linked: bool) -> None:
    fifo, link = tmp_path / "fifo", tmp_path / "link"
    os.mkfifo(fifo)
    link.symlink_to(fifo)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(fifo.read_bytes()))
    reader.start()
    _write(link if linked else fifo)
    reader.join()
    assert (read, stat.S_ISFIFO(fifo.stat().st_mode)) == ([b"new"], True)


def test_what_the_shell_has_opened_is_written_to(tmp_path: Path) -> None:
    """In `authz backup /dev/stdout | gpg` the name stands for a pipe."""
    reading, writing = os.pipe()
    _write(Path(f"/dev/fd/{writing}"))
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read() == b"new"


def test_an_unwritable_file_is_named_with_the_reason(tmp_path: Path) -> None:
    at = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(at))
        with pytest.raises(OSError, match=r"socket cannot be written: it is a socket"):
            _write(at)
    with pytest.raises(OSError, match=r"cannot be written: it is a directory"):
        _write(tmp_path)
    with pytest.raises(OSError, match=r"nowhere/x cannot be written: No such file or directory"):
        _write(tmp_path / "nowhere" / "x")
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(OSError, match=r"a cannot be written: "):
        _write(tmp_path / "a")
