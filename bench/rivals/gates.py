"""Servers that the reader has started, and Envoy's filters for a check, for rate limits, or for both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench.measure.envoys import HTTP, Gate, Json, cluster
from bench.measure.rows import Target
from bench.measure.servers import Running
from bench.rivals.files import BY_API, BY_CALLER, DOMAIN

PATIENCE_MS: Final = 500  # of Envoy, before each decider: long, so that a busy machine is measured, not its timeouts
PATIENCE: Final = f"{PATIENCE_MS / 1000}s"
HTTP2: Final = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
}
CALLER: Final = "x-api-key"
CHECK_FILTER: Final = "envoy.filters.http.ext_authz"


def check_gate(address: str) -> Gate:
    """An ext_authz filter that shows this service the caller's key, and refuses without an answer."""
    service = {"envoy_grpc": {"cluster_name": "rival-check"}, "timeout": PATIENCE}
    config: Json = {
        "grpc_service": service,
        "transport_api_version": "V3",
        "allowed_headers": {"patterns": [{"exact": CALLER}]},
    }
    return Gate([_filter("ext_authz", "ExtAuthz", config)], [_asked("rival-check", address)])


def limits_gate(address: str) -> Gate:
    """A rate limit filter of four descriptors a call, as our limits in Redis; it refuses without an answer."""
    config: Json = {
        "domain": DOMAIN,
        "timeout": PATIENCE,
        "failure_mode_deny": True,
        "rate_limit_service": {
            "grpc_service": {"envoy_grpc": {"cluster_name": "rival-limits"}},
            "transport_api_version": "V3",
        },
    }
    of_caller = [{"request_headers": {"header_name": CALLER, "descriptor_key": key}} for key in BY_CALLER]
    of_all = [{"generic_key": {"descriptor_key": key, "descriptor_value": "all"}} for key in BY_API]
    descriptors: list[Json] = [{"actions": [action]} for action in (*of_caller, *of_all)]
    return Gate([_filter("ratelimit", "RateLimit", config)], [_asked("rival-limits", address)], descriptors)


def _filter(name: str, message: str, config: Json) -> Json:
    return {
        "name": f"envoy.filters.http.{name}",
        "typed_config": {"@type": f"{HTTP}.{name}.v3.{message}", **config},
    }


def _asked(name: str, address: str) -> Json:
    return {**cluster(name, address), "typed_extension_protocol_options": HTTP2}


@dataclass(frozen=True, slots=True)
class Rival:
    """A server that the reader has started."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class Rivals:
    """What to compare with. `pids` are the deciders' processes, `redis_pid` their Redis, if they have one."""

    rls: Rival | None
    ext_authz: Rival | None
    pids: Sequence[int]
    redis_pid: int | None = None

    @property
    def target(self) -> Target:
        # All of them in each row: an idle one adds next to nothing.
        store = Running(self.redis_pid, 0.0) if self.redis_pid else None
        return Target([Running(pid, 0.0) for pid in self.pids], store)

    def gates(self) -> dict[str, Gate]:
        """By the name of the row. Ours are compared with the last: both together, where there are two."""
        checks = {self.ext_authz.name: check_gate(self.ext_authz.address)} if self.ext_authz else {}
        counts = {self.rls.name: limits_gate(self.rls.address)} if self.rls else {}
        both = {f"{a}, then {b}": check.then(count) for a, check in checks.items() for b, count in counts.items()}
        return counts | checks | both

    @property
    def checking(self) -> list[str]:
        """The rows in which keys are checked."""
        return [name for name, gate in self.gates().items() if gate.filters[0]["name"] == CHECK_FILTER]

    @property
    def base(self) -> str:
        return list(self.gates())[-1]
