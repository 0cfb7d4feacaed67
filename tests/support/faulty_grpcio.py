"""A sidecar on grpcio without its shield: a path can end its server.

Run as `python -m tests.support.faulty_grpcio serve …`.
"""

from __future__ import annotations

from typing import Any

from authz.cli import main as cli
from authz.hosts import grpcio as host_grpcio


def unshielded(*arguments: Any) -> None:
    """As with a grpcio whose insides are not those that we know."""
    raise TypeError


host_grpcio._Shielded = unshielded  # type: ignore[assignment,misc]

if __name__ == "__main__":
    cli.main()
