"""The doctor's rules, its page, its table of versions, and its matching of headers."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from authz.cli.main import cli
from authz.doctor.cves import CVES, MINIMUM, holes
from authz.doctor.examine import RULES, examine
from authz.doctor.facts import (
    Check,
    ControlFacts,
    Envoy,
    EnvoyCluster,
    Facts,
    Filter,
    Manager,
    Redis,
    SidecarFacts,
    is_loopback,
    seconds,
    version_of,
)
from authz.doctor.fetchredis import lasts
from authz.doctor.finding import Finding
from authz.doctor.report import reference, show
from authz.doctor.rules.envoy.cluster import (
    breaker_below_workers,
    drain_shorter_than_health_check,
    one_endpoint_for_many_workers,
)
from authz.doctor.rules.envoy.headers import (
    header_not_shown,
    identity_overwritten,
    lookalikes_not_shown,
    mutation_refused,
)
from authz.doctor.rules.envoy.tls import tls_mismatch, tls_not_verified
from authz.doctor.rules.processes import console_in_clear
from authz.doctor.rules.redis import eviction_policy, keys_evicted, memory_near
from tests.support.builders import api

PAGE = Path(__file__).parents[3] / "docs/reference/doctor.md"


def test_the_page_is_what_the_doctor_prints() -> None:
    """`authz doctor --list > docs/reference/doctor.md` refreshes the page."""
    printed = CliRunner().invoke(cli, ["doctor", "--list"])
    assert (printed.exit_code, printed.output) == (0, PAGE.read_text("utf-8"))


def test_each_rule_is_on_the_page_once() -> None:
    assert re.findall("^### `(.*)`$", reference(), re.MULTILINE) == [rule.id for rule in RULES]


def test_rules_have_names_of_their_own_and_say_all() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", rule.id)
        assert rule.severity in ("error", "warning", "info")
        assert rule.when.endswith("."), rule.id
        assert rule.why.endswith("."), rule.id
        assert rule.fix, rule.id


def test_nothing_is_found_where_nothing_was_looked_at() -> None:
    assert examine(Facts()) == []


@pytest.mark.parametrize(
    ("version", "known"),
    [
        ("1.15.9", len(CVES)),
        ("1.16.4", len(CVES)),
        ("1.16.5", len(CVES) - 2),
        ("1.19.1", len(CVES) - 2),
        ("1.20.0", len(CVES) - 2),
        ("1.25.3", len(CVES) - 2),
        ("1.25.4", len(CVES) - 3),
        ("1.29.1", 5),
        ("1.31.2", 3),
        ("1.36.10", 0),
        ("1.38.3", 3),
        ("1.38.4", 0),
        ("1.39.0", 3),
        ("1.39.1-dev", 0),
        (MINIMUM, 0),
        ("1.40.0", 0),
    ],
)
def test_each_branch_was_mended_at_a_version_of_its_own(version: str, known: int) -> None:
    assert len(list(holes(version))) == known


def check(**config: Any) -> Facts:
    """An Envoy whose ext_authz filter has this configuration."""
    found = Filter("ext_authz", "ExtAuthz", {"grpc_service": {}, **config})
    manager = Manager("listener one", {}, [found], None)
    dump = Envoy("here", MINIMUM, {}, [manager], [Check(manager, found, None)], {}, {})
    return Facts(envoys=[dump], apis=[api()])


def test_the_mark_of_overage_is_a_header_of_ours() -> None:
    """No filter may forbid it, no other spelling of it may pass, and no route may remove it after the check."""
    mark = "x-usage-overage"
    forbidding = check(decoder_header_mutation_rules={"disallow_expression": {"regex": mark}})
    assert [seen.what for seen in mutation_refused.look(forbidding)] == [
        f"decoder_header_mutation_rules forbids {mark}"
    ]
    identity = [{"safe_regex": {"regex": f"x[^a-z]({name})"}} for name in ("api[^a-z]key[^a-z]id", "customer[^a-z]id")]
    plans = [{"safe_regex": {"regex": "x[^a-z]usage[^a-z]plan[^a-z](id|name)"}}]
    passing = check(allowed_headers={"patterns": [*identity, *plans]})
    assert [seen.what for seen in lookalikes_not_shown.look(passing)] == [
        "a client's x_usage_overage reaches the upstream"
    ]
    [envoy] = check().envoys
    [one] = envoy.checks
    manager = replace(one.manager, routes={"request_headers_to_remove": ["X-Usage-Overage"], "virtual_hosts": []})
    removing = Facts(envoys=[replace(envoy, managers=[manager], checks=[replace(one, manager=manager)])])
    assert [seen.what for seen in identity_overwritten.look(removing)] == [f"changes {mark} after the check"]


EVERY = [{"safe_regex": {"regex": "(accept|access-control-.*|content-type|origin)"}}]


@pytest.mark.parametrize(
    ("pattern", "is_shown"),
    [
        ({"exact": "x-api-key"}, True),
        ({"exact": "X-Api-Key"}, False),
        ({"exact": "X-Api-Key", "ignore_case": True}, True),
        ({"prefix": "x-api"}, True),
        ({"prefix": "api"}, False),
        ({"suffix": "-key"}, True),
        ({"contains": "api"}, True),
        ({"safe_regex": {"regex": "x-.*"}}, True),
        ({"safe_regex": {"regex": "api"}}, False),
        ({"safe_regex": {"regex": r"\pL("}}, True),
    ],
)
def test_headers_are_matched_as_envoy_does(pattern: dict[str, Any], is_shown: bool) -> None:
    """A pattern that only RE2 can read gives no finding."""
    shown = check(allowed_headers={"patterns": [*EVERY, pattern]})
    hidden = check(disallowed_headers={"patterns": [pattern]})
    assert [one.what for one in header_not_shown.look(shown)] == ([] if is_shown else ["x-api-key is kept back"])
    assert ("x-api-key is kept back" in [one.what for one in header_not_shown.look(hidden)]) == is_shown


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("", True), ("0.0.0.0", False), ("redis", False)],
)
def test_only_this_machine_can_mean_a_loopback_address(host: str, local: bool) -> None:
    assert is_loopback(host) is local


def test_small_readings() -> None:
    assert (seconds("0.200s", 1), seconds(None, 1)) == (0.2, 1)
    assert (version_of("1.39.3"), version_of("7.2.4-rc1")) == ((1, 39, 3), (7, 2, 4))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"http2_protocol_options": {}}, True),
        ({}, False),
        ({"typed_extension_protocol_options": {"o": {"@type": "a.HttpProtocolOptions", "auto_config": {}}}}, True),
        (
            {"typed_extension_protocol_options": {"o": {"@type": "a.HttpProtocolOptions", "explicit_http_config": {}}}},
            False,
        ),
    ],
)
def test_http2_is_said_in_several_ways(config: dict[str, Any], expected: bool) -> None:
    assert EnvoyCluster("one", config).is_http2 is expected


VALIDATION = "validation_context"
CA = {"trusted_ca": {"filename": "ca.crt"}}
NAMED = {**CA, "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": "authz"}}]}
SECRET = {"validation_context_sds_secret_config": {"name": "ca"}}
COMBINED = "combined_validation_context"


@pytest.mark.parametrize(
    ("context", "missing"),
    [
        ({}, "no validation_context"),
        ({VALIDATION: {}}, "a validation_context without trusted_ca"),
        ({VALIDATION: CA}, "no match_typed_subject_alt_names: any name will do"),
        ({VALIDATION: {**NAMED, "trust_chain_verification": "ACCEPT_UNTRUSTED"}}, "ACCEPT_UNTRUSTED"),
        ({VALIDATION: NAMED}, None),
        ({VALIDATION: {"verify_certificate_hash": ["ab"]}}, None),
        (SECRET, None),
        ({COMBINED: {"default_validation_context": NAMED, **SECRET}}, None),
        ({COMBINED: {"default_validation_context": CA}}, "no match_typed_subject_alt_names"),
    ],
)
def test_who_is_believed_over_tls(context: dict[str, Any], missing: str | None) -> None:
    facts = asking(EnvoyCluster("authz", {"transport_socket": tls(context)}))
    told = [one.what for one in tls_not_verified.look(facts)]
    assert len(told) == (missing is not None)
    assert (missing or "") in "".join(told)


def tls(context: dict[str, Any]) -> dict[str, Any]:
    return {"name": "tls", "typed_config": {"@type": "x.UpstreamTlsContext", "common_tls_context": context}}


def asking(cluster: EnvoyCluster, *sidecars: SidecarFacts) -> Facts:
    """An Envoy whose filter calls this cluster."""
    [envoy] = check().envoys
    [one] = envoy.checks
    asks = replace(one, cluster=cluster)
    return Facts(envoys=[replace(envoy, checks=[asks], clusters={cluster.name: cluster})], sidecars=sidecars)


def sidecar(*ports: int, host: str = "127.0.0.1", **settings: Any) -> SidecarFacts:
    """A sidecar with one worker for each port."""
    told = {"grpcListen": [f"{host}:{port}" for port in ports], "maxInFlight": 100, **settings}
    workers = [{"slot": slot} for slot, _ in enumerate(ports)]
    return SidecarFacts(f"http://{host}:9190", {"ready": True, "workers": workers, "settings": told}, {})


TWO = {"127.0.0.1:50051": True, "127.0.0.1:50052": True}
PODS = {f"10.0.0.{pod}:{port}": True for pod in (1, 2) for port in (50051, 50052)}


@pytest.mark.parametrize(
    ("hosts", "sidecars", "seen"),
    [
        (TWO, [sidecar(50051, 50052)], []),
        (TWO, [sidecar(50051, 50052)] * 3, []),  # each in a pod of its own
        (TWO, [sidecar(50051, 50052), sidecar(50061, 50062)], []),  # the second belongs to another Envoy
        ({"127.0.0.1:50051": True}, [sidecar(50051, 50052)], ["1 endpoint for 2 workers"]),
        ({"/run/a": True}, [sidecar(1, 2, grpcListen=["unix:/run/a", "unix:/run/b"])], ["1 endpoint for 2 workers"]),
        (PODS, [sidecar(50051, 50052, host="0.0.0.0")] * 2, []),
        (PODS, [sidecar(50051, 50052, host="0.0.0.0")] * 3, ["4 endpoints for 6 workers"]),
        ({"10.9.9.9:443": True}, [sidecar(50051, 50052, host="0.0.0.0")], ["1 endpoint for 2 workers"]),
    ],
)
def test_an_endpoint_is_wanted_for_each_worker_behind_it(
    hosts: dict[str, bool], sidecars: list[SidecarFacts], seen: list[str]
) -> None:
    facts = asking(EnvoyCluster("authz", {}, hosts), *sidecars)
    assert [one.what for one in one_endpoint_for_many_workers.look(facts)] == seen


@pytest.mark.parametrize(
    ("hosts", "drain", "is_told"),
    [(TWO, 0, False), (PODS, 0, True), (TWO, 1, True), (TWO, 6, False)],
)
def test_a_sidecar_beside_its_only_envoy_needs_no_drain(hosts: dict[str, bool], drain: float, is_told: bool) -> None:
    config = {"health_checks": [{"interval": "2s", "unhealthy_threshold": 2, "grpc_health_check": {}}]}
    facts = asking(EnvoyCluster("authz", config, hosts), sidecar(50051, 50052, drainSeconds=drain))
    assert bool([*drain_shorter_than_health_check.look(facts)]) is is_told


@pytest.mark.parametrize(("kind", "is_told"), [("STRICT_DNS", False), ("STATIC", True)])
def test_one_envoy_need_not_fill_all_the_pods_of_a_name(kind: str, is_told: bool) -> None:
    """As in deploy/kubernetes/shared: one name with two ports and two pods."""
    config = {
        "type": kind,
        "load_assignment": {"endpoints": [{"lb_endpoints": [{}, {}]}]},
        "circuit_breakers": {"thresholds": [{"max_requests": 200}]},
    }
    facts = asking(EnvoyCluster("authz", config, PODS), sidecar(50051, 50052, host="0.0.0.0"))
    assert bool([*breaker_below_workers.look(facts)]) is is_told


def test_hosts_that_are_spoken_to_each_in_its_way_are_no_mismatch() -> None:
    """Istio and Envoy Gateway write such clusters."""
    ways = {"transport_socket_matches": [{"name": "tls", "transport_socket": tls(SECRET)}]}
    for config, told in ((ways, 0), ({"transport_socket": tls(SECRET)}, 1)):
        facts = asking(EnvoyCluster("authz", config, TWO), sidecar(50051, tls=False))
        assert len([*tls_mismatch.look(facts)]) == told


@pytest.mark.parametrize(
    ("policy", "is_a_trap"),
    [
        ("noeviction", False),
        ("allkeys-lru", True),
        ("volatile-lru", True),
        ("volatile-ttl", True),
        ("allkeys-random", True),
    ],
)
def test_a_redis_must_refuse_writes_rather_than_drop_counters(policy: str, is_a_trap: bool) -> None:
    found = [*eviction_policy.look(redis_says(maxmemory_policy=policy, maxmemory=1000))]
    assert [one.what for one in found] == ([f"maxmemory-policy {policy}, maxmemory 1000 bytes"] if is_a_trap else [])


@pytest.mark.parametrize(("evicted", "seen"), [(0, []), (1, ["evicted_keys 1"])])
def test_dropped_keys_are_reported(evicted: int, seen: list[str]) -> None:
    assert [one.what for one in keys_evicted.look(redis_says(evicted_keys=evicted))] == seen


@pytest.mark.parametrize(
    ("info", "is_near"),
    [
        ({"used_memory": 800, "maxmemory": 1000}, True),
        ({"used_memory": 799, "maxmemory": 1000}, False),
        ({"used_memory": 800, "maxmemory": 0, "total_system_memory": 1000}, True),
        ({"used_memory": 800, "maxmemory": 0, "total_system_memory": 8000}, False),
    ],
)
def test_four_fifths_of_the_memory_are_near_its_end(info: dict[str, int], is_near: bool) -> None:
    assert bool([*memory_near.look(redis_says(**info))]) is is_near


@pytest.mark.parametrize(
    ("name", "is_lasting"),
    [
        ("store:item", True),
        ("alerts", True),
        ("quota:p1:k1:TOTAL:UNITS", True),
        ("customer-quota:p1:acme:TOTAL:REQUESTS", True),
        ("quota:p1:TOTAL:HOUR:UNITS", False),
        ("customer-quota:p1:acme:DAY:UNITS", False),
        ("ledger:p1:TOTAL", False),
    ],
)
def test_a_quota_in_total_and_the_alerts_need_no_expiry(name: str, is_lasting: bool) -> None:
    assert lasts(name) is is_lasting


def redis_says(**info: Any) -> Facts:
    """A Redis whose INFO has these fields."""
    return Facts(
        redis=Redis(
            url="redis://127.0.0.1:6379/0",
            kind="Redis",
            hosts=("127.0.0.1",),
            is_tls=False,
            has_login=False,
            info=info,
            config={},
            skew=None,
            answers=(),
            default_user_is_open=None,
            endless=(),
            looked_at=0,
            workers=None,
        )
    )


def test_a_rule_that_meets_what_it_does_not_know_hides_no_other() -> None:
    """The message does not repeat the unknown value."""
    facts = check(failure_mode_allow=True, grpc_service={"timeout": {"secret": 1}})
    found = {finding.id: finding for finding in examine(facts)}
    assert "fail-open" in found
    assert found["not-understood"].severity == "warning"
    assert "secret" not in str(found)


def test_what_looks_like_markup_is_shown_as_it_is() -> None:
    """Names of virtual hosts and files may hold any character."""
    odd = Finding("one", "error", "virtual host [bold]x[/]", "[red]", "why.", "a: [1]")
    out = io.StringIO()
    show([odd], ["here"], out)
    for text in ("[bold]x[/]", "[red]", "a: [1]"):
        assert text in out.getvalue()


def test_lines_that_are_no_terminals_are_plain() -> None:
    """The first line has severity, id, place and value; no line is padded or cut."""
    place = "listener " + "long-" * 40
    two = [
        Finding("one", "error", place, "a: 1\nb: 2", "Because.", "c: 3\nd: 4"),
        Finding("two", "info", "there", "x", "So.", "y"),
    ]
    out = io.StringIO()
    show(two, ["here"], out)
    assert out.getvalue().splitlines() == [
        f"error: one: {place}: a: 1",
        "  b: 2",
        "  Because.",
        "  fix: c: 3",
        "       d: 4",
        "",
        "info: two: there: x",
        "  So.",
        "  fix: y",
        "",
        "Looked at here: 1 error, 1 info.",
    ]


def test_nothing_found_is_one_plain_line() -> None:
    out = io.StringIO()
    show([], ["here", "there"], out)
    assert out.getvalue() == "Looked at here, there: nothing found.\n"


@pytest.mark.parametrize(
    ("details", "places"),
    [
        ({"console": {"served": True, "url": None, "inClear": True}}, ["no --console-url"]),
        (
            {"console": {"served": True, "url": "http://plans.example.com", "inClear": True}},
            ["http://plans.example.com"],
        ),
        ({"console": {"served": True, "url": None, "inClear": False}}, []),
        ({}, []),
    ],
)
def test_a_console_in_clear_text_is_found(details: dict[str, Any], places: list[str]) -> None:
    facts = Facts(controls=[ControlFacts("control:9191", details, {})])
    assert [seen.what for seen in console_in_clear.look(facts)] == places
