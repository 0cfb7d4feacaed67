"""A sidecar on grpcio without its shield: `python -m tests.faulty_grpcio serve …`. A path can end its server."""

from __future__ import annotations

from typing import Any

from authz import cli, host_grpcio


def unshielded(*arguments: Any) -> None:
    """As with a grpcio whose insides are not those that we know."""
    raise TypeError


host_grpcio._Shielded = unshielded  # type: ignore[assignment,misc]

if __name__ == "__main__":
    cli.main()
