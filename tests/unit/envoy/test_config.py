"""Envoy's rendered configuration is right, and a real Envoy accepts it."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from authz.cli.main import cli
from authz.cli.up import envoy_binary
from authz.config.file import load
from authz.config.settings import Settings
from authz.core.address import Address
from authz.core.resources import (
    Api,
    AuthorizerSource,
    CostFrom,
    Deployment,
    GatewayResponse,
    GatewayResponseType,
    Host,
    KeySource,
    Method,
    Resources,
    Stage,
)
from authz.envoy.config import EnvoyOptions, Part, Tls, allowed_headers, render, virtual_hosts
from tests.support.builders import api, resources
from tests.support.topologies import Certificates

ROOT = Path(__file__).parents[3]
DEFAULTS = EnvoyOptions()
SAMPLE = load(ROOT / "authz/samples/plans.yaml").resources

EXT_AUTHZ = "envoy.filters.http.ext_authz"
CORS = "envoy.filters.http.cors"
RICH = Resources(
    apis=(
        api(
            "pets", hosts=(Host(host="pets.example.org", stage="prod"), Host(host="example.org", base_path="/pets/v2"))
        ),
        api(
            "shop",
            api_key_source="AUTHORIZER",
            authorizer=AuthorizerSource(namespace="com.example.login"),
            key_sources=(KeySource(cookie="key"), KeySource(header="Authorization", scheme="Bearer")),
            hosts=(Host(host="example.org", base_path="pets"), Host(host="[::1]")),
        ),
        api("bare"),
    )
)
RICH_OPTIONS = EnvoyOptions(
    listen="[::]:8443",
    admin=None,
    upstream="backend.example.org:80",
    authz=("unix:/run/authz/0.sock", "unix:/run/authz/1.sock", "127.0.0.1:50053"),
    cors_origins=("https://example.org", "http://localhost:3000", "capacitor://localhost"),
)


def quoting(**response: Any) -> Api:
    """An API with a gateway response that quotes the request."""
    custom = {GatewayResponseType.THROTTLED: GatewayResponse(**response)}
    return api(stages=(Stage(name="prod", gateway_responses=custom),))


def rendered(of: Resources, options: EnvoyOptions) -> Any:
    return yaml.safe_load(render(of, options))


ODD = resources(apis=(api(key_sources=(KeySource(header="X_Odd'Name"),)),))
UNDERSCORE = resources(apis=(api(key_sources=(KeySource(header="api_key"),)),))


def manager(of: Resources = SAMPLE, options: EnvoyOptions = DEFAULTS) -> Any:
    """The HTTP connection manager of a rendered configuration."""
    listener = rendered(of, options)["static_resources"]["listeners"][0]
    return listener["filter_chains"][0]["filters"][0]["typed_config"]


def ext_authz(of: Resources = SAMPLE, options: EnvoyOptions = DEFAULTS) -> Any:
    filters = {f["name"]: f["typed_config"] for f in manager(of, options)["http_filters"]}
    return filters[EXT_AUTHZ]


def cluster(options: EnvoyOptions) -> Any:
    return rendered(SAMPLE, options)["static_resources"]["clusters"][0]


def embedded(parts: str) -> str:
    """Put the filter and the cluster of `envoy/ext_authz.yaml` into another configuration."""
    whole = rendered(SAMPLE, DEFAULTS)
    filters, clusters = yaml.safe_load_all(parts)
    connection_manager = whole["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    connection_manager["http_filters"] = [*filters, connection_manager["http_filters"][-1]]
    whole["static_resources"]["clusters"] = [*clusters, whole["static_resources"]["clusters"][-1]]
    return yaml.safe_dump(whole)


def separate_parts() -> str:
    """Render the parts of `envoy/ext_authz.yaml`."""
    return "---\n".join(render(SAMPLE, EnvoyOptions(only=part)) for part in ("filter", "cluster"))


def assert_valid(config: str, directory: Path) -> None:
    file = directory / "envoy.yaml"
    file.write_text(config)
    command = [envoy_binary(), "--mode", "validate", "--config-path", str(file), "--log-level", "warning"]
    run = subprocess.run([*command, "--disable-hot-restart"], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    assert "[warning]" not in run.stderr, run.stderr


@pytest.mark.parametrize(
    ("file", "expected"),
    [("envoy.yaml", render(SAMPLE, DEFAULTS)), ("ext_authz.yaml", separate_parts())],
    ids=["whole", "parts"],
)
def test_the_reviewed_files_equal_the_printed_ones(file: str, expected: str) -> None:
    assert (ROOT / "envoy" / file).read_text() == expected


def test_who_answers_as_aws_does_leaves_retry_after_out() -> None:
    assert "retry-after" in render(SAMPLE, DEFAULTS)
    assert "retry-after" not in render(SAMPLE, replace(DEFAULTS, retry_after=False))


def test_envoy_accepts_the_reviewed_configuration(tmp_path: Path) -> None:
    assert_valid((ROOT / "envoy/envoy.yaml").read_text(), tmp_path)


def test_envoy_accepts_the_filter_and_cluster_in_another_configuration(tmp_path: Path) -> None:
    assert_valid(embedded((ROOT / "envoy/ext_authz.yaml").read_text()), tmp_path)


@pytest.mark.parametrize(
    ("of", "options"),
    [
        (SAMPLE, EnvoyOptions(authz=("one.example.org:50051", "127.0.0.1:50052"), cors_origins=("*",))),
        (RICH, DEFAULTS),
        (RICH, EnvoyOptions(authz=RICH_OPTIONS.authz, cors_origins=RICH_OPTIONS.cors_origins, timeout_ms=75)),
        (RICH, RICH_OPTIONS),
        (SAMPLE, EnvoyOptions(authz=("authz:50051", "authz:50052"), stats_listen="0.0.0.0:9902")),
        (Resources(), DEFAULTS),
        (ODD, DEFAULTS),
        (UNDERSCORE, DEFAULTS),
    ],
    ids=[
        "names",
        "many apis",
        "unix sockets and cors",
        "everything",
        "statistics",
        "nothing",
        "odd header",
        "underscore",
    ],
)
def test_envoy_accepts_whatever_is_rendered(of: Resources, options: EnvoyOptions, tmp_path: Path) -> None:
    assert_valid(render(of, options), tmp_path)


def test_nothing_is_let_through_by_failure() -> None:
    assert ext_authz()["failure_mode_allow"] is False
    assert ext_authz()["status_on_error"] == {"code": "ServiceUnavailable"}


def test_cors_comes_before_ext_authz_and_the_router_last() -> None:
    names = [http_filter["name"] for http_filter in manager()["http_filters"]]
    assert names == [CORS, EXT_AUTHZ, "envoy.filters.http.router"]


@pytest.mark.parametrize("host", manager(RICH)["route_config"]["virtual_hosts"], ids=lambda host: str(host["name"]))
def test_each_host_ends_in_a_route_for_everything(host: Any) -> None:
    """If no route matches, Envoy answers 404 without calling authz."""
    assert host["routes"][-1]["match"] == {"prefix": "/"}


def test_a_slow_check_is_not_cut_off_before_its_deadline() -> None:
    """Envoy uses the longest back-off as the timeout of each try."""
    service = ext_authz(options=EnvoyOptions(timeout_ms=75))["grpc_service"]
    assert service["timeout"] == service["retry_policy"]["retry_back_off"]["max_interval"] == "0.075s"


def test_a_leaving_worker_is_noticed_while_it_still_answers() -> None:
    """The health checks until Envoy notices fit into settings.drainSeconds."""
    check = cluster(DEFAULTS)["health_checks"][0]
    assert check["interval"] == check["no_traffic_interval"] == "2s"
    assert 2 * check["unhealthy_threshold"] < Settings().drain_seconds
    assert check["grpc_health_check"] == {"service_name": "envoy.service.auth.v3.Authorization"}


def test_each_worker_is_an_endpoint() -> None:
    found = cluster(EnvoyOptions(authz=("unix:/run/0.sock", "127.0.0.1:50052")))
    endpoints = [at["endpoint"]["address"] for at in found["load_assignment"]["endpoints"][0]["lb_endpoints"]]
    tcp = {"socket_address": {"address": "127.0.0.1", "port_value": 50052}}
    assert endpoints == [{"pipe": {"path": "/run/0.sock"}}, tcp]
    assert (found["type"], found["lb_policy"]) == ("STATIC", "LEAST_REQUEST")


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("127.0.0.1:50051", [("127.0.0.1", 50051), ("127.0.0.1", 50052), ("127.0.0.1", 50053)]),
        ("unix:/run/authz", ["/run/authz.0", "/run/authz.1", "/run/authz.2"]),
    ],
    ids=["ports", "sockets"],
)
def test_all_workers_of_the_settings_are_endpoints(listen: str, expected: list[object]) -> None:
    flags = ("--only", "cluster", "--workers", "3", "--grpc-listen", listen, "--max-in-flight", "20")
    printed = CliRunner().invoke(cli, ["envoy-config", "--config", str(ROOT / "authz/samples/plans.yaml"), *flags])
    [found] = yaml.safe_load(printed.output)
    addresses = [at["endpoint"]["address"] for at in found["load_assignment"]["endpoints"][0]["lb_endpoints"]]
    assert [
        (*at["socket_address"].values(),) if "socket_address" in at else at["pipe"]["path"] for at in addresses
    ] == expected
    assert found["circuit_breakers"]["thresholds"][0]["max_requests"] == 3 * 20


def test_envoy_sheds_calls_beyond_the_bound_of_all_workers() -> None:
    """Retries count as calls."""
    options = EnvoyOptions(authz=("127.0.0.1:50051", "127.0.0.1:50052"), max_in_flight=500)
    [bounds] = cluster(options)["circuit_breakers"]["thresholds"]
    assert bounds == {"max_requests": 1000, "max_pending_requests": 1000, "max_retries": 1000}
    assert DEFAULTS.max_requests == Settings().max_in_flight


def test_a_worker_that_leaves_is_left_at_once() -> None:
    """By default Envoy delays changes of health by up to a second."""
    assert cluster(DEFAULTS)["common_lb_config"] == {"update_merge_window": "0s"}


def test_a_check_is_tried_again_on_another_worker() -> None:
    retry = ext_authz()["grpc_service"]["retry_policy"]
    assert retry["num_retries"] == 1
    assert [one["name"] for one in retry["retry_host_predicate"]] == ["envoy.retry_host_predicates.previous_hosts"]


def test_host_names_are_resolved() -> None:
    assert cluster(EnvoyOptions(authz=("authz:50051",)))["type"] == "STRICT_DNS"


def test_authz_is_shown_only_what_it_reads() -> None:
    """The API has one key header."""
    shown = [pattern["exact"] for pattern in ext_authz()["allowed_headers"]["patterns"] if "exact" in pattern]
    common = ["accept", "access-control-request-headers", "access-control-request-method", "content-type", "origin"]
    assert shown == [*common, "x-api-key"]


@pytest.mark.parametrize(
    ("of", "header"),
    [
        (api(key_sources=(KeySource(header="Authorization", scheme="Bearer"),)), "authorization"),
        (api(key_sources=(KeySource(cookie="key"),)), "cookie"),
        (quoting(response_parameters={"gatewayresponse.header.Trace": "method.request.header.X-Trace"}), "x-trace"),
        (quoting(response_parameters={"gatewayresponse.header.V": "method.request.multivalueheader.Via"}), "via"),
        (quoting(response_templates={"text/plain": "$method.request.header.X-Trace."}), "x-trace"),
        (quoting(response_templates={"text/plain": "$context.identity.userAgent"}), "user-agent"),
    ],
    ids=["key header", "key cookie", "mapping", "multivalue mapping", "template", "context"],
)
def test_authz_is_shown_what_the_configuration_reads(of: Api, header: str) -> None:
    assert header in allowed_headers([of])


def test_metadata_travels_only_for_authorizers() -> None:
    assert "metadata_context_namespaces" not in ext_authz()
    assert ext_authz(RICH)["metadata_context_namespaces"] == ["com.example.login"]


def test_metadata_travels_for_every_cost() -> None:
    """That of the API, of a method, and of the versions that stages serve."""

    def cost(namespace: str) -> CostFrom:
        return CostFrom((namespace, "units"), max=10)

    served = Deployment(
        cost_from=cost("deployed"),
        api_key_source="AUTHORIZER",
        authorizer=AuthorizerSource(namespace="login"),
        resources={"/": {"GET": Method(cost_from=cost("deployed.method"))}},
    )
    priced = api(
        cost_from=cost("api"),
        resources={"/a": {"GET": Method(cost_from=cost("method"))}, "/b": {"GET": Method(cost_from=cost("api"))}},
        stages=(Stage("prod"), Stage("old", deployment=served)),
    )
    passed = ext_authz(resources(apis=(priced,)))["metadata_context_namespaces"]
    assert passed == ["api", "deployed", "deployed.method", "login", "method"]


def test_metadata_of_the_stores_apis_is_named_by_hand() -> None:
    passed = ext_authz(RICH, EnvoyOptions(namespaces=("cost", "com.example.login")))["metadata_context_namespaces"]
    assert passed == ["com.example.login", "cost"]


def test_behind_proxies_authz_gets_the_address_that_they_saw(tmp_path: Path) -> None:
    """It is written before the check, and after what a client may have sent under the same name."""
    options = replace(DEFAULTS, trusted_hops=2)
    assert_valid(render(SAMPLE, options), tmp_path)
    found = manager(options=options)
    assert (found["use_remote_address"], found["xff_num_trusted_hops"]) == (True, 2)
    names = [one["name"].removeprefix("envoy.filters.http.") for one in found["http_filters"]]
    assert names == ["cors", "header_mutation", "header_to_metadata", "ext_authz", "router"]
    assert ext_authz(options=options)["metadata_context_namespaces"] == ["authz.client"]
    assert ext_authz(RICH, options)["metadata_context_namespaces"] == ["com.example.login", "authz.client"]


def test_without_proxies_no_filter_reports_the_address() -> None:
    """Envoy's checks have the other end of the connection anyway, so that a plain set-up costs nothing more."""
    assert "authz.client" not in render(RICH, RICH_OPTIONS)
    assert "xff_num_trusted_hops:" not in render(RICH, RICH_OPTIONS)


@pytest.mark.parametrize("part", ["cluster", "sds-ca", "sds-certificate"])
def test_trusted_hops_are_for_a_part_with_filters(part: Part) -> None:
    with pytest.raises(ValueError, match=f"--only {part} prints no filters, so --trusted-hops would do nothing"):
        render(SAMPLE, replace(DEFAULTS, trusted_hops=1, only=part))


JSON_FILTER = """http_filters:
  - name: envoy.filters.http.json_to_metadata
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.http.json_to_metadata.v3.JsonToMetadata
      request_rules:
        rules:
          - selectors: [{ key: max_tokens }]
            on_present: { metadata_namespace: cost, key: tokens, type: NUMBER }
            on_missing: { metadata_namespace: cost, key: tokens, value: "on" }
"""


def with_filters(text: str, tmp_path: Path, *flags: str) -> Result:
    """Run `authz envoy-config` with a file of filters."""
    file = tmp_path / "filters.yaml"
    file.write_text(text)
    command = ["envoy-config", "--config", str(ROOT / "authz/samples/plans.yaml"), "--filters", str(file), *flags]
    return CliRunner().invoke(cli, command)


def test_the_filters_of_a_file_come_between_cors_and_the_check(tmp_path: Path) -> None:
    printed = with_filters(JSON_FILTER, tmp_path)
    assert_valid(printed.output, tmp_path)
    listener = yaml.safe_load(printed.output)["static_resources"]["listeners"][0]
    filters = listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
    [written] = yaml.safe_load(JSON_FILTER)["http_filters"]
    assert [one["name"] for one in filters][:3] == [CORS, written["name"], EXT_AUTHZ]
    assert filters[1] == written


def test_the_filters_of_a_file_are_in_the_part_for_another_configuration(tmp_path: Path) -> None:
    printed = with_filters(JSON_FILTER, tmp_path, "--only", "filter")
    assert [one["name"] for one in yaml.safe_load(printed.output)][1] == "envoy.filters.http.json_to_metadata"


@pytest.mark.parametrize(
    ("text", "flags", "said"),
    [
        ("- name: a\n", (), "expected a mapping, got list"),
        ("http_filters: []\n", (), "expected a list `http_filters` and nothing beside it"),
        ("http_filters: [{ name: a }]\nlisteners: []\n", (), "expected a list `http_filters` and nothing beside it"),
        ("http_filters: [{ typed_config: {} }]\n", (), "$.http_filters[0]: expected a filter with a name"),
        ("http_filters: [a\n", (), "line 2, column 1"),
        (JSON_FILTER, ("--only", "cluster"), "--only cluster prints no filters, so --filters would do nothing"),
    ],
)
def test_a_file_without_filters_is_refused(text: str, flags: tuple[str, ...], said: str, tmp_path: Path) -> None:
    run = with_filters(text, tmp_path, *flags)
    shown = run.output + str(run.exception)
    assert run.exit_code != 0
    assert said in shown


def test_the_only_api_is_named_for_every_host() -> None:
    assert [(host.domains, host.api) for host in virtual_hosts(SAMPLE.apis)] == [(("*",), "pets")]


def test_of_several_apis_each_is_named_on_its_own_hosts() -> None:
    assert [(host.domains, host.api) for host in virtual_hosts(RICH.apis)] == [
        (("[::1]",), "shop"),
        (("example.org",), None),
        (("pets.example.org",), "pets"),
        (("*",), None),
    ]


def test_the_longest_base_path_is_matched_first() -> None:
    shared = virtual_hosts(RICH.apis)[1]
    assert [(route.base_path, route.api) for route in shared.routes] == [("pets/v2", "pets"), ("pets", "shop")]


def test_base_paths_of_one_length_can_share_a_host() -> None:
    hosts = (Host(host="example.org", base_path="v2"), Host(host="example.org", base_path="v1"))
    [shared, _] = virtual_hosts((api(hosts=hosts), api("a2")))
    assert [route.base_path for route in shared.routes] == ["v1", "v2"]


def drops_underscores(of: Resources) -> bool:
    return "headers_with_underscores_action" in manager(of).get("common_http_protocol_options", {})


def test_headers_with_underscores_are_dropped_unless_one_is_read() -> None:
    quoted = resources(apis=(quoting(response_templates={"text/plain": "$method.request.header.trace_id"}),))
    assert [drops_underscores(of) for of in (SAMPLE, UNDERSCORE, quoted)] == [True, False, False]


@pytest.mark.parametrize("name", ["x.api.key.id", "x_usage_plan-id", "x~usage~plan~name", "x-customer_id"])
def test_authz_is_shown_spellings_that_an_upstream_may_take_for_ours(name: str) -> None:
    """authz removes them; a test with a real Envoy shows that."""
    shown = ext_authz()["allowed_headers"]["patterns"]
    patterns = [one["safe_regex"]["regex"] for one in shown if "safe_regex" in one]
    assert [re.fullmatch(pattern, name) is not None for pattern in patterns].count(True) == 1
    assert not any(re.fullmatch(pattern, "x-api-key") for pattern in patterns)


def test_a_virtual_host_tells_authz_its_api() -> None:
    host = manager()["route_config"]["virtual_hosts"][0]
    assert host["typed_per_filter_config"][EXT_AUTHZ]["check_settings"] == {"context_extensions": {"api": "pets"}}


def cors_policy(of: Resources, *origins: str) -> Any:
    hosts = manager(of, EnvoyOptions(cors_origins=origins))["route_config"]["virtual_hosts"]
    return hosts[-1]["typed_per_filter_config"][CORS]


def test_browsers_of_the_given_origins_may_send_a_key_and_read_a_refusal() -> None:
    policy = cors_policy(SAMPLE, "https://example.org")
    assert policy["allow_origin_string_match"] == [{"exact": "https://example.org"}]
    assert {"x-api-key", "x-grpc-web", "x-user-agent", "grpc-timeout"} <= {*policy["allow_headers"].split(",")}
    assert {"retry-after", "grpc-status", "grpc-message"} <= {*policy["expose_headers"].split(",")}


def test_no_cors_policy_without_origins() -> None:
    assert all(
        CORS not in host.get("typed_per_filter_config", {}) for host in manager()["route_config"]["virtual_hosts"]
    )


@pytest.mark.parametrize(
    ("source", "origin", "credentials"),
    [
        (KeySource(cookie="key"), "https://example.org", True),
        (KeySource(cookie="key"), "*", None),
        (KeySource(header="x-api-key"), "https://example.org", None),
    ],
)
def test_cookies_cross_origins_only_where_they_are_keys_and_the_origin_is_named(
    source: KeySource, origin: str, credentials: bool | None
) -> None:
    of = resources(apis=(api(key_sources=(source,)),))
    assert cors_policy(of, origin).get("allow_credentials") == credentials


def test_the_access_log_has_no_query_and_no_key() -> None:
    """A key may be in the query."""
    [log] = manager()["access_log"]
    fields = log["typed_config"]["log_format"]["json_format"]
    assert fields["path"] == "%PATH(NQ:PATH)%"
    assert not any("API-KEY" in value.upper() for value in fields.values())


def test_the_administration_interface_is_optional() -> None:
    assert "admin" not in rendered(SAMPLE, EnvoyOptions(admin=None))


def test_statistics_are_all_of_the_administration_interface_that_others_reach() -> None:
    options = replace(DEFAULTS, stats_listen="0.0.0.0:9902")
    _, stats = rendered(SAMPLE, options)["static_resources"]["listeners"]
    (chain,) = stats["filter_chains"]
    (host,) = chain["filters"][0]["typed_config"]["route_config"]["virtual_hosts"]
    assert [route["match"] for route in host["routes"]] == [{"path": "/stats/prometheus"}, {"path": "/ready"}]
    assert "stats" not in render(SAMPLE, DEFAULTS).replace("charge_cluster_response_stats", "")


def test_without_an_administration_interface_there_are_no_statistics() -> None:
    with pytest.raises(ValueError, match="administration interface"):
        render(SAMPLE, replace(DEFAULTS, admin=None, stats_listen="0.0.0.0:9902"))


@pytest.mark.parametrize("text", ["", "localhost", ":80", "host:", "host:http", "host:65536"])
def test_a_bad_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected host:port or unix:/path"):
        Address.parse(text)


@pytest.mark.parametrize("addresses", [(), ("unix:/run/0.sock", "authz:50051")], ids=["none", "names and sockets"])
def test_what_no_cluster_can_hold_is_refused(addresses: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected at least|not both"):
        render(SAMPLE, EnvoyOptions(authz=addresses))


# --- TLS to authz -------------------------------------------------------------------------------------------------

TLS = Tls("/etc/tls/ca.crt", "authz.example.org", "/etc/tls/tls.crt", "/etc/tls/tls.key")


def validation(tls: Tls) -> Any:
    """Return Envoy's checks of authz's certificate, and the server name that it sends."""
    context = cluster(replace(DEFAULTS, tls=tls))["transport_socket"]["typed_config"]
    return context["common_tls_context"]["combined_validation_context"], context.get("sni")


@pytest.mark.parametrize(
    ("name", "kind", "sni"),
    [
        ("authz.example.org", "DNS", "authz.example.org"),
        ("10.0.0.7", "IP_ADDRESS", None),
        ("fd00::7", "IP_ADDRESS", None),
        ("spiffe://example.org/authz", "URI", None),
    ],
)
def test_authz_is_known_by_its_ca_and_by_its_name(name: str, kind: str, sni: str | None) -> None:
    """With the CA alone any holder of a certificate of that CA could pose as authz."""
    context, sent = validation(replace(TLS, name=name))
    expected = [{"san_type": kind, "matcher": {"exact": name}}]
    assert context["default_validation_context"]["match_typed_subject_alt_names"] == expected
    assert context["validation_context_sds_secret_config"]["name"] == "authz_ca"
    assert sent == sni


def test_envoy_shows_a_certificate_only_if_it_has_one() -> None:
    shown = "tls_certificate_sds_secret_configs"
    common = cluster(replace(DEFAULTS, tls=TLS))["transport_socket"]["typed_config"]["common_tls_context"]
    assert common[shown][0]["sds_config"]["path_config_source"] == {"path": "/etc/envoy/authz-certificate.yaml"}
    alone = replace(TLS, certificate=None, key=None)
    common = cluster(replace(DEFAULTS, tls=alone))["transport_socket"]["typed_config"]["common_tls_context"]
    assert shown not in common
    assert common["alpn_protocols"] == ["h2"]
    assert "transport_socket" not in cluster(DEFAULTS)


def test_certificates_are_read_again_when_their_directory_changes() -> None:
    for part, field in (("sds-ca", "validation_context"), ("sds-certificate", "tls_certificate")):
        [secret] = rendered(SAMPLE, replace(DEFAULTS, tls=TLS, only=part))["resources"]  # type: ignore[arg-type]
        assert secret[field]["watched_directory"] == {"path": "/etc/tls"}


@pytest.mark.parametrize("pair", [True, False], ids=["mutual", "one way"])
def test_envoy_accepts_tls_to_authz(pair: bool, tmp_path: Path) -> None:
    made = Certificates.make(tmp_path / "made")
    own = {"certificate": str(made.certificate), "key": str(made.key)} if pair else {}
    options = replace(DEFAULTS, tls=Tls(str(made.ca), "authz.example.org", sds=str(tmp_path), **own))
    parts: tuple[Part, ...] = ("sds-ca", "sds-certificate") if pair else ("sds-ca",)
    for part in parts:
        (tmp_path / f"authz-{part.removeprefix('sds-')}.yaml").write_text(render(SAMPLE, replace(options, only=part)))
    assert_valid(render(SAMPLE, options), tmp_path)


@pytest.mark.parametrize(
    ("flags", "settings", "says"),
    [
        ("--tls", "", "--tls needs --tls-ca"),
        ("--tls-ca ca.crt", "", "are for --tls"),
        ("--tls --tls-ca ca.crt --authz a:1 --authz b:1", "", "--tls needs --tls-name"),
        ("--tls --tls-ca ca.crt --authz unix:/run/a.sock", "", "--tls needs --tls-name"),
        ("--tls --tls-ca ca.crt --tls-cert tls.crt", "", "--tls-cert and --tls-key together"),
        ("--tls --tls-ca ca.crt --tls-cert a/tls.crt --tls-key b/tls.key", "", "in one directory"),
        ("--only sds-ca", "", "nothing without --tls"),
        ("--only sds-certificate --tls --tls-ca ca.crt", "", "nothing without --tls-cert"),
        ("", "{tlsCertFile: a, tlsKeyFile: b}", "authz speaks TLS alone"),
        (
            "--tls --tls-ca ca.crt",
            "{tlsCertFile: a, tlsKeyFile: b, tlsClientCaFile: c}",
            "authz asks who calls",
        ),
    ],
)
def test_what_envoy_and_authz_would_not_understand_is_refused(
    flags: str, settings: str, says: str, tmp_path: Path
) -> None:
    """Each would answer 503 to every call."""
    file = tmp_path / "plans.yaml"
    file.write_text(f"settings: {settings}\n" if settings else "{}\n")
    run = CliRunner().invoke(cli, ["envoy-config", "--config", str(file), *flags.split()])
    assert run.exit_code == 2
    assert says in " ".join(run.output.split())


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ("", "127.0.0.1"),
        ("--authz authz:50051 --authz authz:50052", "authz"),
        ("--authz a:1 --authz b:1 --tls-name authz.example.org", "authz.example.org"),
        ("--authz unix:/run/a.sock --tls-name authz.example.org", "authz.example.org"),
    ],
)
def test_the_name_is_the_host_of_all_endpoints_unless_it_is_given(flags: str, name: str) -> None:
    common = ["envoy-config", "--config", str(ROOT / "authz/samples/plans.yaml"), "--only", "cluster"]
    printed = CliRunner().invoke(cli, [*common, "--tls", "--tls-ca", "/etc/tls/ca.crt", *flags.split()])
    [found] = yaml.safe_load(printed.output)
    context = found["transport_socket"]["typed_config"]["common_tls_context"]["combined_validation_context"]
    [asked] = context["default_validation_context"]["match_typed_subject_alt_names"]
    assert asked["matcher"] == {"exact": name}


ORIGIN = "expected an origin as browsers send it, scheme://host in lower case"
SOCKET = "expected host:port or unix:/path, got"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--cors-origin https://a.example/", f"--cors-origin: {ORIGIN}"),
        ("--cors-origin https://a.example/", "got 'https://a.example/'; say https://a.example"),
        ("--cors-origin HTTPS://A.example", "; say https://a.example"),
        ("--cors-origin https://a.example:443", "; say https://a.example"),
        ("--cors-origin http://a.example:80", "; say http://a.example"),
        ("--cors-origin a.example", "; say https://a.example"),
        ("--cors-origin https://a.example/app?x", "; say https://a.example"),
        ("--cors-origin https://*.a.example", "got 'https://*.a.example'"),
        ("--cors-origin https://münchen.example", "got 'https://münchen.example'"),
        ("--cors-origin https://a.example,https://b.example", "got 'https://a.example,https://b.example'"),
        (
            "--listen localhost:10000",
            "--listen: expected an IP address, such as 127.0.0.1:10000, got 'localhost:10000'",
        ),
        ("--listen envoy:443", "--listen: expected an IP address, such as 0.0.0.0:443"),
        ("--admin localhost:9901", "--admin: expected an IP address, such as 127.0.0.1:9901"),
        ("--stats-listen localhost:9902", "--stats-listen: expected an IP address"),
        ("--listen :10000", f"--listen: {SOCKET} ':10000'"),
        ("--listen *:10000", f"--listen: {SOCKET}"),
        ("--listen 127.0.0.1", f"--listen: {SOCKET}"),
        ("--listen 127.0.0.1:65536", f"--listen: {SOCKET}"),
        ("--listen unix:", f"--listen: {SOCKET}"),
        ("--listen 127.0.0.1:9901", "--admin: expected another address than --listen, which is 127.0.0.1:9901"),
        ("--upstream http://127.0.0.1:8080", "--upstream: expected host:port, without http:// and a path"),
        ("--upstream https://api.example.org/v1", "--upstream: expected host:port, without https:// and a path"),
        ("--upstream me@api.example.org:80", f"--upstream: {SOCKET}"),
        ("--upstream 127.0.0.256:80", f"--upstream: {SOCKET}"),
        ("--upstream api.example.org", f"--upstream: {SOCKET}"),
        ("--upstream api.example.org:0", "--upstream: expected a port other than 0"),
        (
            "--upstream 127.0.0.1:10000",
            "--upstream: expected the address of your API, got Envoy's own, 127.0.0.1:10000",
        ),
        ("--authz http://127.0.0.1:50051", "--authz: expected host:port, without http:// and a path"),
        ("--authz 127.0.0.1:0", "--authz: expected a port other than 0"),
        ("--timeout-ms 0", "Invalid value for '--timeout-ms'"),
    ],
)
def test_a_value_with_which_nothing_would_ever_work_is_refused(flags: str, says: str, tmp_path: Path) -> None:
    """The message has the flag, the value and, if it can be guessed, the intended value."""
    file = tmp_path / "plans.yaml"
    file.write_text("{}\n")
    run = CliRunner().invoke(cli, ["envoy-config", "--config", str(file), *flags.split()])
    assert run.exit_code == 2
    assert says in " ".join(run.output.split())


@pytest.mark.parametrize(
    "flags",
    [
        "--cors-origin *",
        "--cors-origin https://a.example --cors-origin http://localhost:3000 --cors-origin chrome-extension://abcdef",
        "--listen [::]:10000 --upstream my_service:8080 --authz unix:/run/authz.sock",
        "--listen 127.0.0.1:0 --admin 127.0.0.1:0 --upstream [::1]:8080",
        "--upstream unix:/run/api.sock",
    ],
)
def test_a_value_that_works_is_taken(flags: str, tmp_path: Path) -> None:
    file = tmp_path / "plans.yaml"
    file.write_text("{}\n")
    run = CliRunner().invoke(cli, ["envoy-config", "--config", str(file), *flags.split()])
    assert run.exit_code == 0, run.output
    assert_valid(run.output, tmp_path)


def test_the_filter_has_nothing_to_do_with_tls(tmp_path: Path) -> None:
    file = tmp_path / "plans.yaml"
    file.write_text("settings: {tlsCertFile: a, tlsKeyFile: b}\n")
    assert CliRunner().invoke(cli, ["envoy-config", "--config", str(file), "--only", "filter"]).exit_code == 0
