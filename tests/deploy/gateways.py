"""What the gateways make of our examples in Envoy, as far as it concerns authz: read here, changed in ours.

None of them runs here. What each does is written down from its published sources; a field of an example that is not
known here is an error, for there is no package with these schemas.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import yaml

from tests.deploy.manifests import KUBERNETES, Manifest, built, named
from tests.e2e.stack import Patch, ext_authz, http_manager

PER_ROUTE: Final = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"
CODES: Final = {503: "ServiceUnavailable", 403: "Forbidden"}


def envoy_gateway(with_context: bool = True) -> Patch:
    """Envoy Gateway 1.8 by the example; before 1.7 without the context extensions, which it dropped."""
    manifests = built("examples/envoy-gateway")
    policy = named(manifests, "SecurityPolicy", "usage-plans")["spec"]
    route = named(manifests, "HTTPRoute", "pets")["spec"]
    client = named(manifests, "ClientTrafficPolicy", "usage-plans")["spec"]
    known(policy, "targetRefs", "extAuth")
    asked = known(
        policy["extAuth"], "grpc", "failOpen", "timeout", "statusOnError", "headersToExtAuth", "contextExtensions"
    )
    for backend in known(asked["grpc"], "backendRefs")["backendRefs"]:
        known(backend, "name", "namespace", "port")
    known(client, "targetRefs", "path", "headers")
    assert client["path"] == {"escapedSlashesAction": "UnescapeAndRedirect", "disableMergeSlashes": False}
    assert client["headers"] == {"withUnderscoresAction": "RejectRequest"}
    context = {one["name"]: one["value"] for one in asked["contextExtensions"] if one["type"] == "Value"}
    return program(
        hosts=route["hostnames"],
        context=context if with_context else {},
        failure_mode_allow=asked["failOpen"],
        status=asked["statusOnError"],
        timeout=asked["timeout"],
        allowed_headers=asked["headersToExtAuth"],
        underscores="REJECT_REQUEST",
    )


def istio() -> Patch:
    """An Istio ingress gateway by the example: it passes no context, and every header."""
    mesh = yaml.safe_load((KUBERNETES / "examples/istio/values.yaml").read_text())["meshConfig"]
    (provider,) = known(mesh, "extensionProviders", "pathNormalization")["extensionProviders"]
    policy = named(built("examples/istio"), "AuthorizationPolicy", "usage-plans")["spec"]
    assert (policy["action"], policy["provider"]["name"]) == ("CUSTOM", provider["name"])
    assert policy["rules"] == [{}]
    asked = known(provider["envoyExtAuthzGrpc"], "service", "port", "timeout", "statusOnError", "failOpen")
    name, namespace, *_ = asked["service"].split(".")
    service = named(built("examples/istio"), "Service", name)
    assert service["metadata"]["namespace"] == namespace
    assert asked["port"] in {port["port"] for port in service["spec"]["ports"]}
    assert mesh["pathNormalization"] == {"normalization": "DECODE_AND_MERGE_SLASHES"}
    return program(
        hosts=["*"],
        failure_mode_allow=asked["failOpen"],
        status=int(asked["statusOnError"]),
        timeout=asked["timeout"],
        escaped_slashes="UNESCAPE_AND_FORWARD",
        underscores="ALLOW",
    )


def contour() -> Patch:
    """Contour by the example: its own 403 for a lost answer, the route picked anew after the check, every header."""
    manifests = built("examples/contour")
    host = known(named(manifests, "HTTPProxy", "pets")["spec"], "virtualhost", "routes")["virtualhost"]
    asked = known(
        known(host, "fqdn", "tls", "authorization")["authorization"],
        *("extensionRef", "responseTimeout", "failOpen", "authPolicy"),
    )
    extension = named(manifests, "ExtensionService", asked["extensionRef"]["name"])
    assert asked["extensionRef"]["namespace"] == extension["metadata"]["namespace"]
    known(extension["spec"], "protocol", "services", "loadBalancerPolicy")
    assert extension["spec"]["protocol"] == "h2c"
    return program(
        hosts=[host["fqdn"]],
        context=asked["authPolicy"]["context"],
        failure_mode_allow=asked["failOpen"],
        status=403,
        timeout=asked["responseTimeout"],
        escaped_slashes="KEEP_UNCHANGED",
        underscores="ALLOW",
        more={"clear_route_cache": True, "include_peer_certificate": True},
    )


def known(given: Manifest, *fields: str) -> Manifest:
    """Return the manifest; fails if it has other fields than these, or lacks one."""
    assert given.keys() == set(fields), given.keys() ^ set(fields)
    return given


def program(
    *,
    hosts: list[str],
    failure_mode_allow: bool,
    status: int,
    timeout: str,
    context: Mapping[str, str] | None = None,
    allowed_headers: list[str] | None = None,
    escaped_slashes: str = "UNESCAPE_AND_REDIRECT",
    underscores: str,
    more: Mapping[str, Any] | None = None,
) -> Patch:
    """A change of our Envoy configuration into a gateway's: one virtual host, one route, and the given filter.

    The timeout is checked and then left as it is for tests, where a machine may be slow.
    """
    assert float(timeout.removesuffix("ms").removesuffix("s")) * (0.001 if timeout.endswith("ms") else 1) == 0.2

    def patch(config: Any) -> None:
        authz, manager = ext_authz(config), http_manager(config)
        service = {key: authz["grpc_service"][key] for key in ("envoy_grpc", "timeout")}
        authz.clear()
        authz |= {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
            "transport_api_version": "V3",
            "failure_mode_allow": failure_mode_allow,
            "status_on_error": {"code": CODES[status]},
            "grpc_service": service,
            **(more or {}),
        }
        if allowed_headers:
            authz["allowed_headers"] = {"patterns": [{"exact": header} for header in allowed_headers]}
        manager["path_with_escaped_slashes_action"] = escaped_slashes
        manager["common_http_protocol_options"] = {"headers_with_underscores_action": underscores}
        manager.pop("local_reply_config", None)
        manager["route_config"] = {"name": "gateway", "virtual_hosts": [virtual_host(hosts, context or {})]}

    return patch


def virtual_host(hosts: list[str], context: Mapping[str, str]) -> Manifest:
    own: Manifest = {
        "name": "gateway",
        "domains": [name for host in hosts for name in ([host] if host == "*" else [host, f"{host}:*"])],
        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}],
    }
    if context:
        settings = {"check_settings": {"context_extensions": dict(context)}}
        own["typed_per_filter_config"] = {"envoy.filters.http.ext_authz": {"@type": PER_ROUTE, **settings}}
    return own


GATEWAYS: Final[dict[str, Callable[[], Patch]]] = {
    "envoy-gateway": envoy_gateway,
    "envoy-gateway before 1.7": lambda: envoy_gateway(with_context=False),
    "istio": istio,
    "contour": contour,
}
PASSES_CONTEXT: Final = ("envoy-gateway", "contour")
