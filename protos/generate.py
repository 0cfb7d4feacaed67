"""Compiles protos/ into authz/envoy/pb/; with --check, names the committed files that are stale."""

from __future__ import annotations

import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
PROTO = "authz/envoy/pb/ext_authz.proto"
KINDS = ("python", "pyi", "grpc_python")


def generate(into: Path) -> None:
    """Writes `authz/envoy/pb/ext_authz_pb2*` under `into`: the path is the import path, so no import is rewritten."""
    outputs = [f"--{kind}_out={into}" for kind in KINDS]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-Iprotos", *outputs, PROTO]
    subprocess.run(command, cwd=ROOT, check=True)


def generated(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / PROTO).parent.glob("*_pb2*.py*")}


def stale() -> list[str]:
    """The names of the files that are missing, superfluous or different."""
    with TemporaryDirectory() as fresh:
        generate(Path(fresh))
        return sorted({name for name, _ in generated(Path(fresh)).items() ^ generated(ROOT).items()})


def check() -> str | None:
    if names := ", ".join(stale()):
        return (
            f"authz/envoy/pb is stale ({names}): run protos/generate.py, with the grpcio-tools that pyproject.toml pins"
        )
    return None


def main() -> str | None:
    """Its answer goes to sys.exit: a text is the complaint of exit code 1."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if authz/envoy/pb is stale")
    if parser.parse_args().check:
        return check()
    generate(ROOT)
    return None


if __name__ == "__main__":
    sys.exit(main())
