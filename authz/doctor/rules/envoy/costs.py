"""Whether authz gets the cost of a call (`costFrom`), and who writes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from authz.doctor.facts import SILENT, Check, Facts, Filter, Json, Manager
from authz.doctor.finding import Rule, Seen, rule
from authz.envoy.config import cost_namespaces

# Filters that write no dynamic metadata of an operator's choice. Any other, unless it is read below, may write it.
SILENT_FILTERS: Final = frozenset(
    {
        *("Buffer", "Compressor", "Cors", "CsrfPolicy", "Decompressor", "FilterConfig", "GrpcWeb", "HTTPFault"),
        *("HeaderMutation", "HealthCheck", "LocalRateLimit", "RBAC", "Router"),
    }
)
JSON, HEADER, SET = "json_to_metadata", "header_to_metadata", "set_metadata"
ACTIONS: Final = ("on_present", "on_missing", "on_error", "on_header_present", "on_header_missing")


@rule(
    "error",
    why="authz finds no cost there: each call costs what its method costs.",
    fix="metadata_context_namespaces, as `authz envoy-config --only filter` prints them",
)
def cost_not_shown(facts: Facts) -> Iterator[Seen]:
    """A namespace that `costFrom` names is not passed on. Needs --config."""
    for check in facts.checks():
        for namespace in cost_namespaces(facts.apis):
            if namespace not in check.config.get("metadata_context_namespaces", ()):
                fix = f"metadata_context_namespaces: [{namespace}]"
                yield Seen(check.where, f"{namespace} is not passed on", fix)


@rule(
    "error",
    why="authz finds no cost there: each call costs what its method costs.",
    fix="put the filter that writes it before ext_authz in http_filters, as `authz envoy-config --filters` does",
)
def cost_not_written(facts: Facts) -> Iterator[Seen]:
    """No filter before ext_authz can write a namespace that `costFrom` names. Needs --config."""
    for check in facts.checks():
        before, after = _around(check)
        for namespace in cost_namespaces(facts.apis):
            written = (_written(check.manager, one) for one in before if check.manager.ever_runs(one))
            if not any(names is None or namespace in names for names in written):
                late = [one.name for one in after if namespace in (_written(check.manager, one) or ())]
                what = f"{', '.join(late)} comes after it" if late else "no filter before it does"
                yield Seen(check.where, f"writes {namespace}: {what}")


@rule(
    "info",
    why="A client that sends this header sets the cost of its own call.",
    fix="let only your gateway reach this listener, or refuse the header from others with an RBAC filter before it",
)
def cost_from_header(facts: Facts) -> Iterator[Seen]:
    """A `header_to_metadata` filter before ext_authz writes a cost from a request header or a cookie. Needs
    --config."""
    for check in facts.checks():
        for one in _around(check)[0]:
            for config in _configs(check.manager, one):
                if _kind(config) == HEADER and {*_named(config)} & {*cost_namespaces(facts.apis)}:
                    read = [each.get("header") or f"the cookie {each.get('cookie', '')}" for each in _rules(config)]
                    yield Seen(f"{check.manager.where}, filter {one.name}", f"reads {', '.join(read)}")


def _around(check: Check) -> tuple[list[Filter], list[Filter]]:
    """The filters before the check, and those after it."""
    filters = list(check.manager.filters)
    at = filters.index(check.filter)
    return filters[:at], filters[at + 1 :]


def _written(manager: Manager, one: Filter) -> set[str] | None:
    """The namespaces that a filter writes for requests; None if it may write any."""
    configs = list(_configs(manager, one))
    if any(_kind(config) not in (JSON, HEADER, SET) for config in configs):
        return set() if one.type in SILENT_FILTERS else None
    return {namespace for config in configs for namespace in _named(config)}


def _named(config: Json) -> Iterator[str]:
    """The namespaces in the configuration of one of these three kinds."""
    kind = _kind(config)
    if kind == SET:
        yield config.get("metadata_namespace", "")
        yield from (each.get("metadata_namespace", "") for each in config.get("metadata", ()))
        return
    for read in _rules(config):
        for action in ACTIONS:
            if action in read:
                yield read[action].get("metadata_namespace") or f"envoy.filters.http.{kind}"


def _rules(config: Json) -> Sequence[Json]:
    """What the configuration of one of these two kinds reads from requests."""
    found: Any = config.get("request_rules", ())
    read: Sequence[Json] = found.get("rules", ()) if isinstance(found, Mapping) else found
    return read


def _configs(manager: Manager, one: Filter) -> Iterator[Json]:
    """A filter's configuration, and those that virtual hosts and routes have for it."""
    yield one.config
    for _, level in manager.levels:
        said = level.get("typed_per_filter_config", SILENT).get(one.name)
        if said:
            yield said.get("config", said)


def _kind(config: Json) -> str:
    """The last word of the package of its type, which is the filter's name: `json_to_metadata`."""
    return str(config.get("@type", "")).rpartition(".v3.")[0].rpartition(".")[2]


RULES: Final[tuple[Rule, ...]] = (
    cost_not_shown,
    cost_not_written,
    cost_from_header,
)
