"""Reads what Envoy's administration interface prints. It is never free of secrets, so only parts of it go further."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from authz.doctor.facts import SILENT, AccessLog, Check, Envoy, EnvoyCluster, Filter, Forwarder, Json, Manager

DUMP = "type.googleapis.com/envoy.admin.v3."
MANAGER, EXT_AUTHZ, MATCHED = "HttpConnectionManager", "ExtAuthz", "ExtensionWithMatcher"
TAP, TRACING = "Tap", "Tracing"


def read(
    address: str,
    dump: Json,
    server: Json,
    clusters: Json,
    stats: Json,
    runtime: Json = SILENT,
    only: Collection[str] = (),
) -> Envoy:
    """An Envoy from `/config_dump`, `/server_info`, `/clusters?format=json`, `/stats?format=json` and `/runtime`.

    `only` names the clusters that are ours; without it, every ext_authz filter that asks by gRPC is. Raises
    ValueError, KeyError, TypeError or AttributeError for an answer that is not Envoy's.
    """
    parts = {part["@type"].removeprefix(DUMP): part for part in dump["configs"]}
    known = _clusters(parts.get("ClustersConfigDump", SILENT), clusters)
    managers = list(_managers(parts))
    return Envoy(
        address=address,
        version=server["version"].split("/")[1],
        admin=parts.get("BootstrapConfigDump", SILENT).get("bootstrap", SILENT).get("admin", SILENT),
        managers=managers,
        checks=[check for manager in managers for check in _checks(manager, known, only)],
        clusters=known,
        stats={one["name"]: one["value"] for one in stats["stats"] if isinstance(one.get("value"), int)},
        forwarders=list(_forwarders(parts.get("ListenersConfigDump", SILENT))),
        runtime={key: str(entry["final_value"]) for key, entry in runtime.get("entries", SILENT).items()},
        logs=list(_logs(parts.get("ListenersConfigDump", SILENT))),
    )


def _clusters(dump: Json, states: Json) -> Mapping[str, EnvoyCluster]:
    hosts = {one["name"]: dict(_hosts(one)) for one in states.get("cluster_statuses", ())}
    configs = (one["cluster"] for one in (*dump.get("static_clusters", ()), *dump.get("dynamic_active_clusters", ())))
    return {one["name"]: EnvoyCluster(one["name"], one, hosts.get(one["name"], {})) for one in configs}


def _hosts(state: Json) -> Iterator[tuple[str, bool]]:
    for host in state.get("host_statuses", ()):
        health = host.get("health_status", SILENT)
        yield address_of(host["address"]), not any(name.startswith("failed_") for name, on in health.items() if on)


def address_of(address: Json) -> str:
    """`host:port`, or a path."""
    if "pipe" in address:
        return str(address["pipe"]["path"])
    at = address.get("socket_address", SILENT)
    return f"{at.get('address', '')}:{at.get('port_value', 0)}"


def _managers(parts: Mapping[str, Json]) -> Iterator[Manager]:
    dump = parts.get("RoutesConfigDump", SILENT)
    tables = (*dump.get("static_route_configs", ()), *dump.get("dynamic_route_configs", ()))
    routes = {one["route_config"].get("name", ""): one["route_config"] for one in tables}
    # The configurations of filters that Envoy was given apart from the listener.
    apart = [one.get("ecds_filter", SILENT) for one in parts.get("EcdsConfigDump", SILENT).get("ecds_filters", ())]
    extensions = {one.get("name", ""): one.get("typed_config", SILENT) for one in apart}
    configs = (
        (where, config)
        for listener in _listeners(parts.get("ListenersConfigDump", SILENT))
        for where, chain in _chains(listener)
        for config in _network_filters(chain)
        if _type(config) == MANAGER
    )
    for where, config in configs:
        inline = config.get("route_config")
        name = config.get("rds", SILENT).get("route_config_name", "")
        known = inline or routes.get(name)
        yield Manager(where, config, _filters(config.get("http_filters", ()), extensions), known)
        for upgrade in config.get("upgrade_configs", ()):
            if upgrade.get("filters"):
                kind = upgrade.get("upgrade_type", "")
                filters = _filters(upgrade["filters"], extensions)
                yield Manager(f"{where}, upgrade to {kind}", config, filters, known, kind)


def _listeners(dump: Json) -> Iterator[Json]:
    for one in dump.get("static_listeners", ()):
        yield one["listener"]
    for one in dump.get("dynamic_listeners", ()):
        if "active_state" in one:
            yield one["active_state"]["listener"]


def _chains(listener: Json) -> Iterator[tuple[str, Json]]:
    """Each chain of filters of a listener, and its name."""
    named: list[tuple[Any, Json]] = [*enumerate(listener.get("filter_chains", ()))]
    if "default_filter_chain" in listener:
        named.append(("default", listener["default_filter_chain"]))
    for number, chain in named:
        label = chain.get("name") or number
        yield f"listener {listener.get('name', '')}" + (f", filter chain {label}" if len(named) > 1 else ""), chain


def _network_filters(chain: Json) -> Iterator[Json]:
    return (one.get("typed_config", SILENT) for one in chain.get("filters", ()))


def _forwarders(dump: Json) -> Iterator[Forwarder]:
    """Filters of TCP and UDP; those of HTTP are managers."""
    for listener in _listeners(dump):
        for one in listener.get("listener_filters", ()):
            yield Forwarder(f"listener {listener.get('name', '')}", one.get("typed_config", SILENT))
        for where, chain in _chains(listener):
            yield from (Forwarder(where, config) for config in _network_filters(chain) if _type(config) != MANAGER)


def _logs(dump: Json) -> Iterator[AccessLog]:
    """Access logs of listeners, connection managers, routers and TCP proxies; tracing; taps of sockets."""
    for listener in _listeners(dump):
        yield from _access_logs(f"listener {listener.get('name', '')}", listener.get("access_log", ()))
        for where, chain in _chains(listener):
            socket = chain.get("transport_socket", SILENT).get("typed_config", SILENT)
            if _type(socket) == TAP:
                yield AccessLog(where, TAP, socket)
            for config in _network_filters(chain):
                yield from _access_logs(where, config.get("access_log", ()))
                if "tracing" in config:
                    yield AccessLog(f"{where}, tracing", TRACING, config["tracing"])
                for one in config.get("http_filters", ()):
                    inner = one.get("typed_config", SILENT)
                    yield from _access_logs(f"{where}, filter {one['name']}", inner.get("upstream_log", ()))


def _access_logs(where: str, logs: Iterable[Json]) -> Iterator[AccessLog]:
    for one in logs:
        config = one.get("typed_config", SILENT)
        yield AccessLog(f"{where}, access log {one.get('name', '')}", _type(config), config)


def _filters(configured: Iterable[Json], extensions: Mapping[str, Json]) -> list[Filter]:
    return [_filter(one, extensions) for one in configured]


def _filter(one: Json, extensions: Mapping[str, Json]) -> Filter:
    config = one.get("typed_config") or extensions.get(one["name"], SILENT)
    off = one.get("disabled", False)
    if _type(config) == MATCHED:
        # A check inside a matcher counts as the check it is; any other filter counts as what wraps it.
        inner = next(_of_type(config, EXT_AUTHZ), None) or config["extension_config"].get("typed_config", SILENT)
        return Filter(one["name"], _type(inner), inner, off, matched=True)
    return Filter(one["name"], _type(config), config, off)


def _of_type(config: Any, kind: str) -> Iterator[Json]:
    """Each configuration of this type, at any depth."""
    if isinstance(config, list):
        for one in config:
            yield from _of_type(one, kind)
    elif isinstance(config, dict):
        if _type(config) == kind:
            yield config
        for one in config.values():
            yield from _of_type(one, kind)


def _type(config: Json) -> str:
    """The last word of its type's name."""
    return str(config.get("@type", "")).rpartition(".")[2]


def _checks(manager: Manager, clusters: Mapping[str, EnvoyCluster], only: Collection[str]) -> Iterator[Check]:
    for found in manager.filters:
        if found.type == EXT_AUTHZ and "grpc_service" in found.config:
            name = found.config["grpc_service"].get("envoy_grpc", SILENT).get("cluster_name", "")
            if not only or name in only:
                yield Check(manager, found, clusters.get(name))
