"""A running system as plain values: all that a rule may know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import ip_address
from typing import Any, ClassVar

from authz.config.settings import Settings
from authz.core.resources import Api

Json = Mapping[str, Any]
Version = tuple[int, ...]

SILENT: Json = {}


# --- Envoy --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EnvoyCluster:
    """A cluster as it is configured, and the hosts that Envoy knows in it: `host:port` or a path, and its health."""

    name: str
    config: Json
    hosts: Mapping[str, bool] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return f"cluster {self.name}"

    @property
    def is_http2(self) -> bool:
        """Whether Envoy speaks HTTP/2 to it, which gRPC needs."""
        options = self.http_options
        explicit = options.get("explicit_http_config", SILENT)
        return (
            "http2_protocol_options" in explicit
            or "http2_protocol_options" in self.config
            or "http2_protocol_options" in options.get("use_downstream_protocol_config", SILENT)
            or "auto_config" in options
        )

    @property
    def http_options(self) -> Json:
        found: Json = next(
            (
                value
                for value in self.config.get("typed_extension_protocol_options", SILENT).values()
                if value.get("@type", "").endswith(".HttpProtocolOptions")
            ),
            SILENT,
        )
        return found

    @property
    def tls(self) -> Json | None:
        """The TLS context towards it; None where Envoy speaks in the clear. Of several, one for each kind of host, the
        first."""
        sockets = (self.config, *self.config.get("transport_socket_matches", ()))
        contexts = (one.get("transport_socket", SILENT).get("typed_config", SILENT) for one in sockets)
        return next((one for one in contexts if one.get("@type", "").endswith(".UpstreamTlsContext")), None)

    @property
    def speaks_by_host(self) -> bool:
        """Whether some hosts may be spoken to over TLS, and others in the clear."""
        return bool(self.config.get("transport_socket_matches"))

    @property
    def named(self) -> int:
        """The number of names that Envoy resolves; 0 if the hosts are given as addresses."""
        found = self.config.get("load_assignment", SILENT).get("endpoints", ())
        by_name = self.config.get("type") in ("STRICT_DNS", "LOGICAL_DNS")
        return sum(len(one.get("lb_endpoints", ())) for one in found) if by_name else 0

    @property
    def is_local(self) -> bool:
        """Whether all its hosts are on Envoy's machine, or in its pod."""
        return all(is_loopback(host_of(host)) for host in self.hosts)

    def threshold(self, name: str, default: int) -> int:
        """A circuit breaker's, of the priority that checks have."""
        found = self.config.get("circuit_breakers", SILENT).get("thresholds", ())
        usual: Json = next((one for one in found if one.get("priority", "DEFAULT") == "DEFAULT"), SILENT)
        return int(usual.get(name, default))


@dataclass(frozen=True)
class Filter:
    """An HTTP filter in its place: its name there, its type's last word, and its configuration."""

    name: str
    type: str
    config: Json
    disabled: bool = False
    matched: bool = False  # a matcher decides whether it runs


@dataclass(frozen=True)
class RoutePlace:
    """Where a request may be sent: a virtual host, its route, and the weighted cluster that the route picks, if any."""

    host: Json
    route: Json
    part: Json = field(default_factory=lambda: SILENT)

    @property
    def levels(self) -> Sequence[Json]:
        """The places that may configure a filter, the most specific last."""
        return self.host, self.route, self.part


@dataclass(frozen=True)
class Manager:
    """An HTTP connection manager. `routes` is None where Envoy does not show them.

    `upgrade` names the protocol (such as `websocket`) of a chain of filters that holds for requests to upgrade only.
    """

    where: str
    config: Json
    filters: Sequence[Filter]
    routes: Json | None
    upgrade: str = ""

    @property
    def virtual_hosts(self) -> Sequence[Json]:
        found: Sequence[Json] = (self.routes or SILENT).get("virtual_hosts", ())
        return found

    @property
    def levels(self) -> Iterator[tuple[str, Json]]:
        """Each place that may change headers or name clusters, and its name: the routes as a whole, and the parts."""
        yield f"{self.where}, routes", self.routes or SILENT
        for host in self.virtual_hosts:
            at = f"{self.where}, virtual host {host['name']}"
            yield at, host
            for route in host.get("routes", ()):
                yield at, route
                for part in _parts(route):
                    yield at, part

    def places(self) -> Iterator[RoutePlace]:
        """Each route, once for each of its weighted clusters."""
        for host in self.virtual_hosts:
            for route in host.get("routes", ()):
                yield from (RoutePlace(host, route, part) for part in _parts(route) or (SILENT,))

    def runs(self, one: Filter, place: RoutePlace) -> bool:
        """True if the filter runs for a request that is sent there: the most specific setting wins."""
        on = not one.disabled
        for level in (self.routes or SILENT, *place.levels):
            said = level.get("typed_per_filter_config", SILENT).get(one.name)
            if said is not None:  # in the filter's own words, or in Envoy's words around them
                on = not (said.get("disabled") or said.get("config", SILENT).get("disabled"))
        return on

    def ever_runs(self, one: Filter) -> bool:
        """True if the filter runs on some route, or if Envoy does not show the routes."""
        places = list(self.places())
        return any(self.runs(one, place) for place in places) if places else not one.disabled

    @property
    def forwards_to(self) -> frozenset[str]:
        """The clusters that its routes lead to, and those that get copies of requests."""
        return frozenset(
            name for host in self.virtual_hosts for route in host.get("routes", ()) for name in _targets(route)
        )

    @property
    def picked_by(self) -> frozenset[str]:
        """The headers that let a client pick the cluster."""
        actions = [route.get("route", SILENT) for host in self.virtual_hosts for route in host.get("routes", ())]
        parts = (part for action in actions for part in (action, *_parts({"route": action})))
        return frozenset(part["cluster_header"] for part in parts if part.get("cluster_header"))


@dataclass(frozen=True)
class Forwarder:
    """A filter below HTTP (TCP, UDP or another protocol) with a configuration that names clusters."""

    where: str
    config: Json


@dataclass(frozen=True)
class AccessLog:
    """An access log, or another place that writes parts of requests down: its place, and its configuration."""

    where: str
    type: str
    config: Json


@dataclass(frozen=True)
class Check:
    """An ext_authz filter that asks a cluster by gRPC, in its connection manager."""

    manager: Manager
    filter: Filter
    cluster: EnvoyCluster | None

    @property
    def where(self) -> str:
        return f"{self.manager.where}, filter {self.filter.name}"

    @property
    def config(self) -> Json:
        return self.filter.config

    @property
    def service(self) -> Json:
        found: Json = self.config["grpc_service"]
        return found

    @property
    def timeout(self) -> float:
        """Envoy's patience for a check, in seconds; 0 is without end."""
        return seconds(self.service.get("timeout"), 0.2)

    def is_asked_on(self, place: RoutePlace) -> bool:
        """True if a request that is sent there is checked."""
        return self.manager.runs(self.filter, place)


@dataclass(frozen=True)
class Envoy:
    """An Envoy, by what its administration interface shows."""

    address: str
    version: str
    admin: Json
    managers: Sequence[Manager]
    checks: Sequence[Check]
    clusters: Mapping[str, EnvoyCluster]
    stats: Mapping[str, int]
    forwarders: Sequence[Forwarder] = ()
    runtime: Mapping[str, str] = field(default_factory=dict)  # values that are set, by key
    logs: Sequence[AccessLog] = ()

    @property
    def where(self) -> str:
        return f"Envoy at {self.address}"

    @property
    def asked(self) -> Sequence[EnvoyCluster]:
        """The clusters that checks go to, each once."""
        return list({check.cluster.name: check.cluster for check in self.checks if check.cluster}.values())

    def checks_of(self, cluster: EnvoyCluster) -> Sequence[Check]:
        return [check for check in self.checks if check.cluster == cluster]

    def counted(self, what: str) -> Iterator[tuple[str, int]]:
        """What our filters have counted, where it is not 0; those of others have statistics of their own."""
        for check in self.checks:
            prefixes = (check.manager.config.get("stat_prefix", ""), "ext_authz", check.config.get("stat_prefix", ""))
            name = ".".join(("http", *filter(None, prefixes), what)).replace(":", "_")
            if count := self.stats.get(name, 0):
                yield name, count


def _parts(route: Json) -> Sequence[Json]:
    """The weighted clusters of a route."""
    found: Sequence[Json] = route.get("route", SILENT).get("weighted_clusters", SILENT).get("clusters", ())
    return found


def _targets(route: Json) -> Iterator[str]:
    action = route.get("route", SILENT)
    mirrors = action.get("request_mirror_policies", ())
    yield from filter(None, (one.get("cluster") for one in (action, *mirrors)))
    yield from filter(None, (part.get("name") for part in _parts(route)))


def seconds(duration: str | None, default: float) -> float:
    """A duration in protobuf's JSON form, such as `0.200s`."""
    return default if duration is None else float(duration.removesuffix("s"))


# --- our own processes --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProcessFacts:
    """A sidecar or a control plane, by its status pages. `skew` is its clock less ours, in seconds, if known."""

    address: str
    details: Json
    metrics: Mapping[str, Sequence[float]]
    version: str | None = None
    skew: float | None = None
    kind: ClassVar[str]

    @property
    def where(self) -> str:
        return f"{self.kind} {self.address}"

    @property
    def settings(self) -> Json:
        """Those that it tells, which an older one does not."""
        found: Json = self.details.get("settings", SILENT)
        return found

    @property
    def workers(self) -> Sequence[Json]:
        """The details of each process of it; its own if there is one."""
        found: Sequence[Json] = self.details.get("workers", (self.details,))
        return found


class SidecarFacts(ProcessFacts):
    """Envoy asks it."""

    kind = "sidecar"


class ControlFacts(ProcessFacts):
    """AWS's tools call it."""

    kind = "control plane"


@dataclass(frozen=True)
class GrpcHealth:
    """A gRPC address and its health: SERVING, NOT_SERVING, or the reason for no answer."""

    address: str
    answer: str


# --- Redis --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AlertFacts:
    """The alerts of an account: plans with alerts, enabled targets, and deliveries. Times are Unix seconds.

    `failing` has the time of the first failed attempt of each target that is failing. `oldest` is when the oldest
    pending delivery was made. `given_up` counts those that have failed within a day.
    """

    plans: int = 0
    targets: int = 0
    failing: Mapping[str, float] = field(default_factory=dict)
    pending: int = 0
    oldest: float | None = None
    given_up: int = 0


@dataclass(frozen=True)
class Redis:
    """A Redis or Valkey. `config` has what it lets us see; `skew` and `answers` are seconds."""

    url: str  # without passwords
    kind: str
    hosts: Sequence[str]
    is_tls: bool
    has_login: bool
    info: Json
    config: Mapping[str, str]
    skew: float | None
    answers: Sequence[float]
    default_user_is_open: bool | None
    endless: Sequence[str]
    looked_at: int
    workers: int | None  # sidecar workers that the store lists; None without a store
    unvalidated: Sequence[str] = ()  # APIs of the store with request validators or models of their own
    alerts: AlertFacts = AlertFacts()
    refused: Sequence[str] = ()  # commands that our user may not say, or that are unknown

    @property
    def where(self) -> str:
        return f"Redis {self.url}"

    @property
    def is_local(self) -> bool:
        return all(is_loopback(host) for host in self.hosts)

    @cached_property
    def version(self) -> Version:
        return version_of(str(self.info.get("redis_version", "0")))


def host_of(address: str) -> str:
    """Of `host:port`; "" of a path, with or without `unix:` before it."""
    return "" if address.startswith(("/", "unix:")) else address.rpartition(":")[0].strip("[]")


def version_of(text: str) -> Version:
    """`1.39.3-dev` is (1, 39, 3)."""
    return tuple(int(part) for part in text.partition("-")[0].split(".") if part.isdigit())


def is_loopback(host: str) -> bool:
    """Whether only this machine can mean it; "" stands for a Unix socket."""
    try:
        return not host or host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


# --- all of it ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """All that was looked at. `silent` has the addresses that did not answer, and why. `now` is Unix time, seconds.

    `published` are the ids of keys of the plans file that are off, because a published sample has their values.
    """

    envoys: Sequence[Envoy] = ()
    sidecars: Sequence[SidecarFacts] = ()
    controls: Sequence[ControlFacts] = ()
    asked: Sequence[GrpcHealth] = ()
    redis: Redis | None = None
    apis: Sequence[Api] = ()
    published: Sequence[str] = ()
    silent: Mapping[str, str] = field(default_factory=dict)
    now: float = 0.0

    def checks(self) -> Iterator[Check]:
        """Each ext_authz filter of ours, of each Envoy."""
        for envoy in self.envoys:
            yield from envoy.checks

    def beside(self, check: Check) -> Iterator[Check]:
        """All of ours in its connection manager, itself too."""
        return (one for one in self.checks() if one.manager == check.manager)

    def clusters(self) -> Iterator[tuple[Envoy, EnvoyCluster]]:
        """Each cluster that checks go to, of each Envoy."""
        for envoy in self.envoys:
            for cluster in envoy.asked:
                yield envoy, cluster

    def told(self, name: str) -> Sequence[Any]:
        """What the sidecars say of a setting, each value once."""
        return sorted({one.settings[name] for one in self.sidecars if name in one.settings})

    @property
    def max_in_flight(self) -> int:
        """Of one worker, by what the sidecars say; the default where none says."""
        return min(self.told("maxInFlight"), default=Settings().max_in_flight)

    @property
    def hold_ms(self) -> int:
        """The longest of the sidecars' `holdMs`; 0 if none holds units ahead."""
        return max(self.told("holdMs"), default=0)

    @property
    def redis_timeout(self) -> float | None:
        """The longest of the sidecars', in seconds."""
        return max((ms / 1000 for ms in self.told("redisTimeoutMs")), default=None)
