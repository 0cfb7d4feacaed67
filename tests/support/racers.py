"""Processes of a test that begin at the same moment."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def await_start() -> None:
    """In a racer: report that it is ready, and return when all may begin."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()


def start_together(module: str, arguments: Sequence[Sequence[str]]) -> list[subprocess.Popen[str]]:
    """Run a module once for each of these arguments, and let all begin when the last one is ready."""
    racers = [
        subprocess.Popen(
            (sys.executable, "-m", module, *given),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for given in arguments
    ]
    for racer in racers:
        assert racer.stdout
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin
        racer.stdin.write("go\n")
        racer.stdin.flush()
    return racers
