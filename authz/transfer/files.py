"""Writes files that only their owner may read. A regular file is replaced as a whole; a device is written in place."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

OWNER_ONLY: Final = 0o600


@contextmanager
def written(path: Path, mode: int = OWNER_ONLY) -> Iterator[BinaryIO]:
    """Yield a file to write to. After the block it stands at `path`; an error in the block leaves `path` unchanged.

    Follows a symbolic link. Writes to a device or a FIFO directly and never replaces it. Raises OSError, with the path
    and the reason, for a directory or a socket.
    """
    try:
        target = path.resolve()
        kind = _mode(path)
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead to each other, before Python 3.13
        raise OSError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}") from None
    if stat.S_ISCHR(kind) or stat.S_ISBLK(kind) or stat.S_ISFIFO(kind):
        with _opened(path, path, os.O_WRONLY) as file:
            yield file
    elif stat.S_ISREG(kind):
        with _replaced(path, target, mode) as file:
            yield file
    else:
        raise OSError(f"{path} cannot be written: it is a {'directory' if stat.S_ISDIR(kind) else 'socket'}")


def _mode(path: Path) -> int:
    """Return the kind of file that `path` is or will be. Raises OSError for links that lead to each other."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return stat.S_IFREG


@contextmanager
def _replaced(path: Path, target: Path, mode: int) -> Iterator[BinaryIO]:
    """Yield a temporary file beside the target, then rename it to the target."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)
    try:
        with _opened(path, partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), mode)
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
