"""Writes a file for its owner's eyes: whole or not at all where it is a file, and never in the place of a device."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

OWNER_ONLY: Final = 0o600


@contextmanager
def written(path: Path) -> Iterator[BinaryIO]:
    """A file to write to. When the block ends well, `path` holds it; an error leaves `path` as it was.

    A symbolic link is followed. A device or a FIFO is written to, and stays what it is. Raises OSError for a directory
    or a socket, with the path and the reason.
    """
    try:
        target = path.resolve()
        mode = _mode(path)
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead to each other, before Python 3.13
        raise OSError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}") from None
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) or stat.S_ISFIFO(mode):
        with _opened(path, path, os.O_WRONLY) as file:
            yield file
    elif stat.S_ISREG(mode):
        with _replaced(path, target) as file:
            yield file
    else:
        raise OSError(f"{path} cannot be written: it is a {'directory' if stat.S_ISDIR(mode) else 'socket'}")


def _mode(path: Path) -> int:
    """The kind of file that `path` is or will be. Raises OSError for links that lead to each other."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return stat.S_IFREG


@contextmanager
def _replaced(path: Path, target: Path) -> Iterator[BinaryIO]:
    """Beside the target first, under a name that nobody else uses, and then in its place."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)
    try:
        with _opened(path, partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def _opened(path: Path, at: Path, flags: int) -> Iterator[BinaryIO]:
    try:
        descriptor = os.open(at, flags | os.O_CLOEXEC, OWNER_ONLY)
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror}") from None
    with os.fdopen(descriptor, "wb") as file:
        yield file
