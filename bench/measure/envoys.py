"""Front Envoys: the checks before a request passes, and the server behind."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from authz.cli.up import envoy_binary
from authz.config.file import load
from authz.envoy.config import EnvoyOptions, Part, render
from bench.measure.servers import HERE, Running, free_ports, is_ok, started

Json = dict[str, Any]

HTTP = "type.googleapis.com/envoy.extensions.filters.http"
MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{HTTP}.router.v3.Router"}}
BY_ITSELF = {"direct_response": {"status": 200, "body": {"inline_string": "ok"}}}
UPSTREAM = "upstream"


@dataclass(frozen=True, slots=True)
class Gate:
    """The HTTP filters before the router, the clusters they ask, and the rate limit actions of the route."""

    filters: Sequence[Json] = ()
    clusters: Sequence[Json] = ()
    rate_limits: Sequence[Json] = ()

    def then(self, other: Gate) -> Gate:
        """Both, one after the other."""
        return Gate(
            (*self.filters, *other.filters),
            (*self.clusters, *other.clusters),
            (*self.rate_limits, *other.rate_limits),
        )


OPEN = Gate()


def our_gate(config: Path, options: EnvoyOptions) -> Gate:
    """The filter and the cluster of our sidecars, as `authz envoy-config` prints them."""
    resources = load(config).resources

    def part(only: Part) -> list[Json]:
        found: list[Json] = yaml.safe_load(render(resources, replace(options, only=only)))
        return found

    return Gate(part("filter"), part("cluster"))


@contextmanager
def front(config: Path, authz: tuple[str, ...], cores: Collection[int]) -> Iterator[Running]:
    """An Envoy that asks these sidecars before it answers by itself; without any it just answers."""
    with envoy(our_gate(config, EnvoyOptions(authz=authz)) if authz else OPEN, cores) as running:
        yield running


@contextmanager
def envoy(gate: Gate, cores: Collection[int], upstream: str = "") -> Iterator[Running]:
    """An Envoy of one thread before this upstream (`host:port`); without one it answers by itself."""
    port, admin = free_ports(1), free_ports(1)
    bootstrap = front_config(gate, port, admin, upstream)
    flags = ("--concurrency", "1", "--log-level", "error", "--disable-hot-restart")
    command = (envoy_binary(), "--config-yaml", json.dumps(bootstrap), *flags)
    with started(command, lambda: is_ok(f"http://{HERE}:{admin}/ready"), cores) as (pid, seconds):
        yield Running(pid, seconds, (f"{HERE}:{port}",), f"http://{HERE}:{port}")


def front_config(gate: Gate, port: int, admin: int, upstream: str = "") -> Json:
    """The bootstrap of an Envoy: the gate, then a route to the upstream, or one that answers 200 by itself."""
    action: Json = {"route": {"cluster": UPSTREAM}} if upstream else BY_ITSELF
    host: Json = {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, **action}]}
    if gate.rate_limits:
        host["rate_limits"] = list(gate.rate_limits)
    manager = {
        "@type": MANAGER,
        "stat_prefix": "ingress",
        "http_filters": [*gate.filters, ROUTER],
        "route_config": {"name": "ingress", "virtual_hosts": [host]},
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    behind = [cluster(UPSTREAM, upstream)] if upstream else []
    return {
        "admin": {"address": _socket(HERE, admin)},
        "static_resources": {
            "listeners": [{"name": "ingress", "address": _socket(HERE, port), "filter_chains": [chain]}],
            "clusters": [*gate.clusters, *behind],
        },
    }


def cluster(name: str, address: str) -> Json:
    """A cluster of one server, `host:port`."""
    host, _, port = address.rpartition(":")
    endpoint = {"endpoint": {"address": _socket(host.strip("[]"), int(port))}}
    return {
        "name": name,
        "type": "STRICT_DNS",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _socket(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}
