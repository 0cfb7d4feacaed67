"""What a check costs when all calls carry one key."""

from __future__ import annotations

from contextlib import ExitStack

from bench.load.inputs import always, check_request, document, value_of, written
from bench.measure.inprocess import compiled, grants
from bench.measure.rows import (
    Bench,
    Goal,
    Section,
    goal,
    interleaved,
    table,
)
from bench.measure.servers import redis
from bench.measure.stats import Spread
from bench.sections.common import (
    ALONE,
    COSTS,
    KEYS,
    MANY,
    alone_row,
    complete,
    h2load_row,
    label,
    loop_row,
    no_op,
    now_us,
)


def one_key_section(bench: Bench) -> Section:
    """One key, by h2load; and a flood of calls that are refused."""
    content, spent = document(keys=KEYS), document(keys=KEYS, quota=1)
    config, over = written(content, bench.scratch), written(spent, bench.scratch, "spent.yaml")
    found = grants(compiled(content), [0], now_us())
    with ExitStack() as stack:
        rows, refused = [], []
        for host in bench.hosts:
            noop = stack.enter_context(no_op(bench, config, host, "parse"))
            whole = stack.enter_context(complete(bench, config, host))
            for n in (MANY, 1):
                rows.append(h2load_row(bench, label(host, "parse", n), noop, n))
                rows.append(h2load_row(bench, label(host, "", n), whole, n))
            empty = stack.enter_context(complete(bench, over, host))
            refused.append(f"{host}, quota over, {MANY} in flight")
            rows.append(loop_row(bench, refused[-1], empty, always(check_request(value_of(0))), MANY))
        store = stack.enter_context(redis(bench.cores.server))
        samples = interleaved(bench, [*rows, alone_row(bench, store, found)])
    goals = [
        goal(
            f"{host}, 64 in flight, one key: CPU of Redis over one EVALSHA",
            0.3,
            samples,
            label(host),
            ALONE,
            "redis_us",
        )
        for host in bench.hosts
    ]
    for name in refused:
        spread = Spread.of([sample["commands"] for sample in samples[name]])
        goals.append(Goal(f"{name}: Redis commands a call", 0.01, spread))
    return Section(
        "One key",
        "`h2load` posts one constant body. It does not see who was refused, so each sidecar has to admit a call first. "
        "In the rows with the quota over every call is refused, and `wrong` is 1.",
        [table(samples, COSTS)],
        [],
        goals,
    )
