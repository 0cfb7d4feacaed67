"""`python -m tests.fuzz api`: random calls of the whole API of a control plane that runs as its users run it."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory

import click
import psutil
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from authz.control.operations.unsupported import UNSUPPORTED
from tests.e2e.stack import ControlServer, control_plane
from tests.fuzz.calls import OPERATIONS, VERBS_WITH_BODIES, address, assert_no_fault, furnish, shaped_body
from tests.support.control import Reply
from tests.support.servers import HOST, redis_server

ROUND = 1_000  # calls that one run of Hypothesis makes: it remembers each
SLOWEST_SECONDS = 1.0
GROWTH_BYTES = 64_000_000  # of the process, from the first tenth to the end
CALLS_A_GET = 5  # one call in five is a GET


@dataclass
class Caller:
    """A client with one connection, which is opened again where the control plane closes it."""

    port: int
    token: str
    statuses: Counter[int] = field(default_factory=Counter)
    slowest: float = 0.0
    connection: http.client.HTTPConnection | None = None

    def __call__(self, verb: str, path: str, body: bytes = b"") -> Reply:
        started = time.perf_counter()
        try:
            reply = self._send(verb, path, body)
        except (http.client.HTTPException, OSError):  # closed after a refusal before: once more, anew
            self.connection = None
            reply = self._send(verb, path, body)
        self.slowest = max(self.slowest, time.perf_counter() - started)
        self.statuses[reply.status] += 1
        return reply

    def _send(self, verb: str, path: str, body: bytes) -> Reply:
        self.connection = self.connection or http.client.HTTPConnection(HOST, self.port, timeout=30)
        self.connection.request(verb, path, body, {"authorization": f"Bearer {self.token}"})
        answer = self.connection.getresponse()
        return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())


@contextmanager
def running() -> Iterator[tuple[ControlServer, Caller]]:
    """A control plane of its own, and a caller who may do everything."""
    with TemporaryDirectory(prefix="authz-fuzz-") as scratch, redis_server() as redis:
        place = ("--redis-url", redis.url)
        secrets = []
        for name in ("pepper", "sealing-key"):
            Path(scratch, name).write_text(token_hex(32))
            secrets += [f"--{name}-file", str(Path(scratch, name))]
        config = Path(scratch, "plans.yaml")
        config.write_text("apis: []\n")
        with control_plane(Path(scratch), config, *place, *secrets) as server:
            command = (sys.executable, "-m", "authz", "credentials", "create", "fuzz", "--token", *place, *secrets)
            made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            token = max(made.split(), key=len).rpartition("=")[2]
            yield server, Caller(int(server.url.rpartition(":")[2]), token)


def call_at_random(caller: Caller, ids: dict[str, str], data: st.DataObject) -> None:
    """One call, which must end in an answer of AWS's."""
    bodied = data.draw(st.integers(0, CALLS_A_GET - 1)) > 0
    kept = [one for one in OPERATIONS if one.verb != "DELETE" and one not in UNSUPPORTED]
    table = [one for one in kept if (one.verb in VERBS_WITH_BODIES) == bodied]
    operation = data.draw(st.sampled_from(table))
    body = json.dumps(data.draw(shaped_body(operation))).encode() if bodied else b""
    assert_no_fault(caller(operation.verb, address(operation, ids, "a"), body), f"{operation.name} {body.decode()}")


@click.command("api")
@click.option("--count", default=100_000, show_default=True, help="Calls to make, rounded up to thousands.")
@click.option("--seed", "first", default=0, show_default=True, help="What the randomness begins with.")
def command(count: int, first: int) -> None:
    """Call the whole API at random; exit 1 after a fault, a traceback, an answer over a second or growing memory."""
    with running() as (server, caller):
        process, resident = psutil.Process(server.pid), list[int]()
        rounds = -(-count // ROUND)
        for number in range(rounds):
            ids = furnish(caller, f"round{number}.example.org")  # anew: the earlier objects may be changed beyond use
            _round(caller, ids, first + number)
            resident.append(process.memory_info().rss)
            click.echo(f"{(number + 1) * ROUND} calls, {resident[-1] / 1e6:.0f} MB, slowest {caller.slowest:.2f} s")
        growth = resident[-1] - resident[rounds // 10]
        click.echo(f"statuses: {dict(sorted(caller.statuses.items()))}; memory grew by {growth / 1e6:.1f} MB")
        faults = [line for line in server.log_text.splitlines() if "Traceback" in line or "a call failed" in line]
        if faults or growth > GROWTH_BYTES or caller.slowest > SLOWEST_SECONDS:
            raise click.ClickException("\n".join([*faults[:5], "a fault, memory that grows, or an answer too late"]))


def _round(caller: Caller, ids: dict[str, str], number: int) -> None:
    @seed(number)
    @settings(
        max_examples=ROUND,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def calls(data: st.DataObject) -> None:
        call_at_random(caller, ids, data)

    calls()
