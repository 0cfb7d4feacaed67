"""A template that cannot fork a worker."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import errno, os, socket
from authz.workers import template

me, fork = os.getpid(), os.fork

def fork_once():
    if os.getpid() != me:
        raise OSError(errno.EAGAIN, "no more processes")
    return fork()

os.fork = fork_once
ours, theirs = socket.socketpair()
template._fork_twice(me, theirs, lambda: None)
theirs.close()
print("told", ours.recv(100))
"""


def test_a_worker_that_cannot_be_forked_says_why() -> None:
    """The supervisor sees no more than a line that ends."""
    ended = subprocess.run((sys.executable, "-c", CODE), capture_output=True, text=True, timeout=60, check=False)
    assert "a worker could not be forked" in ended.stdout + ended.stderr
    assert "no more processes" in ended.stdout + ended.stderr
    assert "told b''" in ended.stdout
