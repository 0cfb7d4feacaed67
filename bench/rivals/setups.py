"""Everything that is compared, running: an Envoy before each decider, and one Envoy behind them all."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Final

from authz.envoy.config import EnvoyOptions
from bench.load.inputs import PATH, document, value_of, written
from bench.measure.envoys import OPEN, Gate, envoy, our_gate
from bench.measure.rows import Bench, Target
from bench.measure.servers import Host
from bench.rivals.gates import PATIENCE_MS, Rivals
from bench.sections.common import KEYS, complete, no_op

NO_CHECK: Final = "no check"
READY_SECONDS: Final = 10.0
POLL_SECONDS: Final = 0.05


class WrongAnswer(Exception):  # noqa: N818  (named for the event)
    """A server lets calls through that it should refuse, or the other way round."""


def our_rows(servers: Sequence[Host], hold_ms: int) -> dict[str, tuple[Host, int]]:
    """The server and `holdMs` of each of our rows: 0, and `hold_ms` if it is another."""
    holds = (0, hold_ms) if hold_ms else (0,)
    return {
        f"ours, {host}, holdMs {hold}" if hold else f"ours, {host}": (host, hold) for host in servers for hold in holds
    }


@contextmanager
def setups(bench: Bench, rivals: Rivals, hold_ms: int = 0) -> Iterator[dict[str, Target]]:
    """Targets by the names of their rows. Raises WrongAnswer."""
    config = written(document(keys=KEYS), bench.scratch)
    with ExitStack() as stack:
        upstream = stack.enter_context(envoy(OPEN, bench.cores.load)).address

        def behind(gate: Gate, target: Target) -> Target:
            return replace(target, envoy=stack.enter_context(envoy(gate, bench.cores.load, upstream)))

        def before_ours(target: Target) -> Target:
            options = EnvoyOptions(authz=target.server[0].addresses, timeout_ms=PATIENCE_MS)
            return behind(our_gate(config, options), target)

        found = {NO_CHECK: behind(OPEN, Target())}
        for name, gate in rivals.gates().items():
            found[name] = behind(gate, rivals.target)
        for host in bench.hosts:
            idle = stack.enter_context(no_op(bench, config, host, "parse"))
            found[f"our no-op, {host}"] = before_ours(idle)
        whole = our_rows(bench.hosts, hold_ms)
        for name, (host, hold) in whole.items():
            found[name] = before_ours(stack.enter_context(complete(bench, config, host, "--hold-ms", str(hold))))
        for name, target in found.items():
            _verify(name, target, checks_keys=name in {*rivals.checking, *whole})
        yield found


def _verify(name: str, target: Target, *, checks_keys: bool) -> None:
    """Ask once with a key that is known and, where keys are checked, once with one that is not."""
    assert target.envoy
    url = f"{target.envoy.http}{PATH}"
    if not _within(READY_SECONDS, lambda: status(url, value_of(0)) == 200):
        raise WrongAnswer(f"{name}: a call that it should admit got {status(url, value_of(0))}")
    if checks_keys and (found := status(url, "unknown")) not in {401, 403}:
        raise WrongAnswer(f"{name}: a call with an unknown key got {found}")


def _within(seconds: float, holds: Callable[[], bool]) -> bool:
    ends = time.monotonic() + seconds
    while not (found := holds()) and time.monotonic() < ends:
        time.sleep(POLL_SECONDS)
    return found


def status(url: str, key: str) -> int:
    """The HTTP status of a call with this key."""
    asked = urllib.request.Request(url, headers={"x-api-key": key, "host": "a1.bench"})
    try:
        with urllib.request.urlopen(asked, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
