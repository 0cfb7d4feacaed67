"""The traps of sidecars and control planes, by what they say of themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from authz.doctor.facts import Facts, Json
from authz.doctor.finding import Rule, Seen, rule

SKEW_SECONDS: Final = 3.0  # reported times are whole seconds
DAY: Final = 86_400
LOST: Final = "authz_holds_lost_total"
FROM_HOLDS: Final = "authz_checks_held_total"
EXPIRY_DAYS: Final = 14
MIN_LOST: Final = 10  # holds: a slow answer of Redis now and then may cost some
CHECKS_OF_A_LOSS: Final = 100
# What has to be the same in all sidecars that share limits.
SHARED: Final = ("accountId", "chargeOnce", "failurePolicy", "redisTimeoutMs", "replicas", "responseProfile", "store")


@rule("error", why="The doctor did not look at it.", fix="start it, or correct its address")
def unreachable(facts: Facts) -> Iterator[Seen]:
    """A given address does not answer, or answers as another kind of server."""
    for address, reason in facts.silent.items():
        yield Seen(address, reason)


@rule("error", why="Envoy's checks get no answer from it.", fix="look at its log; if it drains, wait")
def grpc_not_serving(facts: Facts) -> Iterator[Seen]:
    """A gRPC address does not report that it serves."""
    for asked in facts.asked:
        if asked.answer != "SERVING":
            yield Seen(f"gRPC {asked.address}", asked.answer)


@rule(
    "error",
    why="It answers every check with 503, or none at all.",
    fix="look at its log; without a catalog it waits for the file or the store",
)
def sidecar_not_ready(facts: Facts) -> Iterator[Seen]:
    """A sidecar, or one of its workers, is not ready."""
    for sidecar in facts.sidecars:
        for worker in sidecar.workers:
            if not worker.get("ready"):
                yield Seen(f"{sidecar.where}{_slot(worker)}", f"{worker.get('status')}")


@rule("error", why="AWS's tools get errors from it.", fix="look at its log; it needs the Redis that holds the store")
def control_not_ready(facts: Facts) -> Iterator[Seen]:
    """A control plane is not ready."""
    for control in facts.controls:
        if not control.details.get("ready"):
            yield Seen(control.where, f"store {control.details.get('store')}")


@rule(
    "warning",
    why="Tokens and new keys cross the network over plain HTTP.",
    fix="give the control plane --tls-cert and --tls-key, or --console-url with the https URL of the proxy in front, "
    "or --no-console",
)
def console_in_clear(facts: Facts) -> Iterator[Seen]:
    """A control plane serves the console in clear text to other machines."""
    for control in facts.controls:
        console = control.details.get("console") or {}
        if console.get("inClear"):
            yield Seen(control.where, console.get("url") or "no --console-url")


@rule(
    "error",
    why="Calls are decided without Redis, each by its plan's failurePolicy: limits are not exact.",
    fix="bring Redis back; look at settings.redisUrl and redisTimeoutMs",
)
def redis_left_alone(facts: Facts) -> Iterator[Seen]:
    """A sidecar has stopped calling Redis for now."""
    for sidecar in facts.sidecars:
        for worker in sidecar.workers:
            if worker.get("redis") == "left alone":
                why = worker.get("redisProblem")
                yield Seen(f"{sidecar.where}{_slot(worker)}", f"redis: left alone{f': {why}' if why else ''}")


@rule(
    "error",
    why="The last good configuration stays in force, and later changes do not.",
    fix="run authz check-config: it lists every mistake of the file",
)
def catalog_refused(facts: Facts) -> Iterator[Seen]:
    """A sidecar has refused a configuration, or part of the store."""
    for sidecar in facts.sidecars:
        for worker in sidecar.workers:
            problem = worker.get("catalog", {}).get("problem")
            if problem:
                yield Seen(f"{sidecar.where}{_slot(worker)}", str(problem))


@rule(
    "error",
    why="The type is stored and not carried out: anyone may call these methods, or anyone with an API key if "
    "apiKeyRequired is set.",
    fix="let Envoy authenticate before ext_authz (jwt_authn, or another filter), and set the type to NONE; or set "
    "apiKeyRequired: true",
)
def authorization_not_carried_out(facts: Facts) -> Iterator[Seen]:
    """A sidecar serves methods of the store whose authorizationType is AWS_IAM, CUSTOM or COGNITO_USER_POOLS."""
    for sidecar in facts.sidecars:
        catalogs = (worker.get("catalog", {}) for worker in sidecar.workers)
        lacking = dict.fromkeys(one for catalog in catalogs for one in catalog.get("unauthorized", ()))
        if lacking:
            yield Seen(sidecar.where, ", ".join(lacking))


@rule(
    "warning",
    why="They may compile the same resources to different limits, or read each other's keys in Redis wrongly.",
    fix="run one version everywhere; the page on upgrading has the order",
)
def version_skew(facts: Facts) -> Iterator[Seen]:
    """Sidecars and control planes are of different versions."""
    versions = {one.where: one.version for one in (*facts.sidecars, *facts.controls) if one.version}
    if len(set(versions.values())) > 1:
        yield Seen("versions", ", ".join(f"{where}: {version}" for where, version in versions.items()))


@rule(
    "warning",
    why="A sidecar with another account counts on its own. With another of these settings its callers get other "
    "answers.",
    fix="give all sidecars of one account the same settings",
)
def settings_skew(facts: Facts) -> Iterator[Seen]:
    """Sidecars differ in a setting that must be the same."""
    for name in SHARED:
        told = {one.where: one.settings[name] for one in facts.sidecars if name in one.settings}
        if len(set(told.values())) > 1:
            yield Seen(f"settings.{name}", ", ".join(f"{where}: {value}" for where, value in told.items()))


@rule(
    "error",
    why="An older sidecar cannot read a value with holds: it logs `bad state in Redis`, and the failurePolicy decides.",
    fix="settings.holdMs: 0 until every sidecar runs the new release",
)
def holds_beside_older_sidecar(facts: Facts) -> Iterator[Seen]:
    """A sidecar holds units ahead (`holdMs`), and another is of a release that does not know holds."""
    older = [one.where for one in facts.sidecars if one.settings and "holdMs" not in one.settings]
    if facts.hold_ms and older:
        yield Seen("settings.holdMs", f"{facts.hold_ms}, and without it {', '.join(older)}")


@rule(
    "warning",
    why="A request that Envoy may repeat is never admitted from a hold. Each check goes to Redis as without holdMs.",
    fix="settings.chargeOnce: false or settings.holdMs: 0",
)
def charge_once_with_holds(facts: Facts) -> Iterator[Seen]:
    """A sidecar has both `chargeOnce` and `holdMs`."""
    for sidecar in facts.sidecars:
        if sidecar.settings.get("chargeOnce") and sidecar.settings.get("holdMs"):
            yield Seen(sidecar.where, f"chargeOnce true, holdMs {sidecar.settings['holdMs']}")


@rule(
    "warning",
    why="Redis charges such a hold whole: callers pay for calls that they did not make.",
    fix="look for a slow Redis (slow-answers) and for processes without a share of a core; or a longer settings.holdMs",
)
def holds_lost(facts: Facts) -> Iterator[Seen]:
    """A sidecar gave holds back too late: more than one for each 100 checks that it admitted from holds."""
    for sidecar in facts.sidecars:
        lost, admitted = (sum(sidecar.metrics.get(name, ())) for name in (LOST, FROM_HOLDS))
        if lost >= MIN_LOST and lost * CHECKS_OF_A_LOSS > admitted:
            yield Seen(sidecar.where, f"{lost:.0f} holds lost, {admitted:.0f} checks admitted from holds")


@rule(
    "warning",
    why="One caller gets different limits from different sidecars.",
    fix="give them the same file; with a store, wait a second and look again",
)
def catalog_skew(facts: Facts) -> Iterator[Seen]:
    """Sidecars serve different resources."""
    served: dict[str, set[str]] = {}
    for sidecar in facts.sidecars:
        versions = (str(worker.get("catalog", {}).get("version", "")) for worker in sidecar.workers)
        # Only the digest in `1-0123456789ab`: the number before it is of one process alone.
        served[sidecar.where] = {version.partition("-")[2] for version in versions} - {""}
    if len(set[str]().union(*served.values())) > 1:
        yield Seen("catalogs", ", ".join(f"{where}: {' '.join(sorted(found))}" for where, found in served.items()))


@rule(
    "warning",
    why="Logs and signatures have this clock's date, and a control plane refuses requests that were signed 5 minutes "
    "off.",
    fix="let NTP set the clocks",
)
def clock_skew(facts: Facts) -> Iterator[Seen]:
    """A sidecar's or control plane's clock is more than three seconds from this machine's."""
    for one in (*facts.sidecars, *facts.controls):
        if one.skew is not None and abs(one.skew) > SKEW_SECONDS:
            yield Seen(one.where, f"{one.skew:+.0f} s from this machine")


@rule(
    "warning",
    why="Usage and remaining quotas look better than they are.",
    fix="look at its log: it says why counting fails",
)
def unsettled(facts: Facts) -> Iterator[Seen]:
    """A sidecar has not yet counted calls in Redis that it admitted without it, while Redis answers."""
    for sidecar in facts.sidecars:
        owed = sum(sidecar.metrics.get("authz_fallback_unsettled_requests", ()))
        if owed and all(worker.get("redis") != "left alone" for worker in sidecar.workers):
            yield Seen(sidecar.where, f"{owed:.0f} requests")


@rule(
    "warning",
    why="While Redis is away each admits 1/(replicas x workers) of every limit: more sidecars than that admit too "
    "much together.",
    fix="set settings.replicas to the number of sidecars that run at once",
)
def replicas_too_low(facts: Facts) -> Iterator[Seen]:
    """More sidecars run than `replicas` says, by the addresses given here or by the sidecars that the store lists."""
    told = min(facts.told("replicas"), default=None)
    workers = max(facts.told("workers"), default=1)
    if told is not None:
        running = len(facts.sidecars)
        announced = facts.redis.workers if facts.redis and facts.redis.workers else 0
        if running > told:
            yield Seen("settings.replicas", f"{told}, and {running} sidecars answer", f"settings.replicas: {running}")
        elif announced > told * workers:
            needed = -(-announced // workers)
            what = f"{told} x {workers} workers, and {announced} workers announce themselves in Redis"
            yield Seen("settings.replicas", what, f"settings.replicas: {needed}")


@rule(
    "warning",
    why="After that Envoy makes no connection to it, and every request gets 503.",
    fix="put the new certificate in the file's place; it takes effect without a restart",
)
def certificate_expires(facts: Facts) -> Iterator[Seen]:
    """A certificate of a sidecar has expired, or will within two weeks."""
    for sidecar in facts.sidecars:
        told = [one for one in sidecar.metrics.get("authz_tls_certificate_expiry_timestamp_seconds", ()) if one > 0]
        left = min(told, default=float("inf")) - facts.now
        if left < EXPIRY_DAYS * DAY:
            yield Seen(sidecar.where, f"in {left / DAY:.1f} days" if left > 0 else "expired")


def _slot(worker: Json) -> str:
    return f", worker {worker['slot']}" if "slot" in worker else ""


@rule(
    "info",
    why="Requests reach the upstream unchecked: request validators and models are stored and not carried out.",
    fix="validate in the upstream or in a filter of Envoy's",
)
def validation_not_carried_out(facts: Facts) -> Iterator[Seen]:
    """APIs of the store have request validators or models of their own. Needs --redis and a --sidecar with a store."""
    if facts.redis and facts.redis.unvalidated:
        yield Seen(facts.redis.where, f"APIs {', '.join(facts.redis.unvalidated)}")


@rule(
    "info",
    why="The values of the sample's keys are public, so these keys are refused outside `authz up`.",
    fix="authz new-key --into plans.yaml, and delete the keys of the sample",
)
def sample_keys_disabled(facts: Facts) -> Iterator[Seen]:
    """The file that --config names has keys with the values of a published sample."""
    if facts.published:
        yield Seen("--config", f"API keys {', '.join(facts.published)}")


PROCESS_RULES: Final[tuple[Rule, ...]] = (
    unreachable,
    grpc_not_serving,
    sidecar_not_ready,
    control_not_ready,
    console_in_clear,
    redis_left_alone,
    catalog_refused,
    authorization_not_carried_out,
    validation_not_carried_out,
    sample_keys_disabled,
    version_skew,
    settings_skew,
    holds_beside_older_sidecar,
    charge_once_with_holds,
    holds_lost,
    catalog_skew,
    clock_skew,
    unsettled,
    replicas_too_low,
    certificate_expires,
)
