"""Reads what Envoy's administration interface prints. It is never free of secrets, so only parts of it go further."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from authz.doctor.facts import SILENT, Check, Cluster, Envoy, Filter, Json, Manager

DUMP = "type.googleapis.com/envoy.admin.v3."
MANAGER, EXT_AUTHZ = "HttpConnectionManager", "ExtAuthz"


def read(address: str, dump: Json, server: Json, clusters: Json, stats: Json, only: Collection[str] = ()) -> Envoy:
    """An Envoy from `/config_dump`, `/server_info`, `/clusters?format=json` and `/stats?format=json`.

    `only` names the clusters that are ours; without it, every ext_authz filter that asks by gRPC is. Raises
    ValueError, KeyError, TypeError or AttributeError for what is no answer of Envoy's.
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
    )


def _clusters(dump: Json, states: Json) -> Mapping[str, Cluster]:
    hosts = {one["name"]: dict(_hosts(one)) for one in states.get("cluster_statuses", ())}
    configs = (one["cluster"] for one in (*dump.get("static_clusters", ()), *dump.get("dynamic_active_clusters", ())))
    return {one["name"]: Cluster(one["name"], one, hosts.get(one["name"], {})) for one in configs}


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
    routes = dict(_routes(parts.get("RoutesConfigDump", SILENT)))
    extensions = dict(_extensions(parts.get("EcdsConfigDump", SILENT)))
    for listener in _listeners(parts.get("ListenersConfigDump", SILENT)):
        for where, config in _manager_configs(listener):
            inline = config.get("route_config")
            name = config.get("rds", SILENT).get("route_config_name", "")
            filters = [_filter(one, extensions) for one in config.get("http_filters", ())]
            yield Manager(where, config, filters, inline or routes.get(name))


def _routes(dump: Json) -> Iterator[tuple[str, Json]]:
    for one in (*dump.get("static_route_configs", ()), *dump.get("dynamic_route_configs", ())):
        yield one["route_config"].get("name", ""), one["route_config"]


def _extensions(dump: Json) -> Iterator[tuple[str, Json]]:
    """The configurations of filters that Envoy was given apart from the listener."""
    for one in dump.get("ecds_filters", ()):
        found = one.get("ecds_filter", SILENT)
        yield found.get("name", ""), found.get("typed_config", SILENT)


def _listeners(dump: Json) -> Iterator[Json]:
    for one in dump.get("static_listeners", ()):
        yield one["listener"]
    for one in dump.get("dynamic_listeners", ()):
        if "active_state" in one:
            yield one["active_state"]["listener"]


def _manager_configs(listener: Json) -> Iterator[tuple[str, Json]]:
    named: list[tuple[Any, Json]] = [*enumerate(listener.get("filter_chains", ()))]
    if "default_filter_chain" in listener:
        named.append(("default", listener["default_filter_chain"]))
    for number, chain in named:
        label = chain.get("name") or number
        where = f"listener {listener.get('name', '')}" + (f", filter chain {label}" if len(named) > 1 else "")
        for one in chain.get("filters", ()):
            config = one.get("typed_config", SILENT)
            if _type(config) == MANAGER:
                yield where, config


def _filter(one: Json, extensions: Mapping[str, Json]) -> Filter:
    config = one.get("typed_config") or extensions.get(one["name"], SILENT)
    return Filter(one["name"], _type(config), config, one.get("disabled", False))


def _type(config: Json) -> str:
    """The last word of its type's name."""
    return str(config.get("@type", "")).rpartition(".")[2]


def _checks(manager: Manager, clusters: Mapping[str, Cluster], only: Collection[str]) -> Iterator[Check]:
    for found in manager.filters:
        if found.type == EXT_AUTHZ and "grpc_service" in found.config:
            name = found.config["grpc_service"].get("envoy_grpc", SILENT).get("cluster_name", "")
            if not only or name in only:
                yield Check(manager, found, clusters.get(name))
