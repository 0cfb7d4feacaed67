"""A sidecar under pyvoy that fails on demand: AUTHZ_TEST_FAULT says how.

Run as `python -m tests.support.faulty_pyvoy serve …`.

Beside the checks it serves methods of its own, which show what comes of each way to fail within a call.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

from authz.cli import main as cli
from authz.hosts import pyvoy as host_pyvoy
from authz.hosts import pyvoy_launch
from authz.hosts.asgi_grpc import Bad, GrpcApp, Health, Unary
from authz.sidecar.sidecar import GrpcServer, Sidecar

FAULT = "AUTHZ_TEST_FAULT"
app = host_pyvoy.app
met = 0  # calls of `/t/Meet`


async def echo(message: bytes, seconds_left: float | None) -> bytes:
    return message


async def left(message: bytes, seconds_left: float | None) -> bytes:
    return json.dumps(seconds_left).encode()


async def fail(message: bytes, seconds_left: float | None) -> bytes:
    """With the exception of that name, which holds a word for the log alone."""
    raise {"RuntimeError": RuntimeError, "SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt}[
        message.decode()
    ]("for the log alone")


async def cancel(message: bytes, seconds_left: float | None) -> bytes:
    raise asyncio.CancelledError


async def mistype(message: bytes, seconds_left: float | None) -> bytes:
    return "text"  # type: ignore[return-value]


async def say_nothing(message: bytes, seconds_left: float | None) -> bytes:
    return b""


async def hang(message: bytes, seconds_left: float | None) -> bytes:
    await asyncio.Event().wait()
    return b"never"


async def block(message: bytes, seconds_left: float | None) -> bytes:
    """Holds up the loop from when it has made a file of that name until a test removes it."""
    wait_at(Path(message.decode()))
    return b"over"


def wait_at(flag: Path) -> None:
    flag.touch()
    while flag.exists():
        time.sleep(0.01)


async def meet(message: bytes, seconds_left: float | None) -> bytes:
    global met
    met += 1
    return b"met"


async def count_met(message: bytes, seconds_left: float | None) -> bytes:
    return str(met).encode()


async def surroundings(message: bytes, seconds_left: float | None) -> bytes:
    """What a process that is started here would inherit, and what this one would import from."""
    found = {"executable": sys.executable, "environ": dict(os.environ), "path": sys.path, "cwd": str(Path.cwd())}
    return json.dumps(found).encode()


OWN: dict[str, Unary] = {
    "/t/Echo": echo,
    "/t/Left": left,
    "/t/Fail": fail,
    "/t/Cancel": cancel,
    "/t/Mistype": mistype,
    "/t/SayNothing": say_nothing,
    "/t/Hang": hang,
    "/t/Block": block,
    "/t/Meet": meet,
    "/t/CountMet": count_met,
    "/t/Surroundings": surroundings,
}


class Calls(GrpcApp):
    def __init__(self, methods: dict[str, Unary], health: Health, bad: Bad) -> None:
        super().__init__({**methods, **OWN}, health, bad)


class Faulty(Sidecar):
    """Fails when it starts, when it has started, when it stops, or in a task that is not awaited."""

    async def run(self, server: GrpcServer, stop: asyncio.Event, hup: asyncio.Event) -> None:
        match os.environ.get(FAULT):
            case "at the start":
                raise RuntimeError("no way to start")
            case "at the start, in words":
                raise OSError("the cellar is full of water")
            case "later":
                await asyncio.gather(super().run(server, stop, hup), self._when_ready(RuntimeError("no way to go on")))
            case "the loop":
                await asyncio.gather(super().run(server, stop, hup), self._when_ready(SystemExit(0)))
            case "at the end":
                await super().run(server, stop, hup)
                await asyncio.Event().wait()
            case _:
                await super().run(server, stop, hup)

    async def _when_ready(self, fault: BaseException) -> None:
        while not self.serving:  # noqa: ASYNC110  (there is no event for it)
            await asyncio.sleep(0.01)
        raise fault


if __name__ == "__main__":
    pyvoy_launch.APP = "tests.support.faulty_pyvoy:app"  # type: ignore[misc]
    cli.main()
else:
    vars(host_pyvoy).update(GrpcApp=Calls, Sidecar=Faulty)
