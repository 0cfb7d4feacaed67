"""Whether Envoy writes keys down."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from authz.core.resources import Api
from authz.doctor.facts import SILENT, AccessLog, Envoy, Facts
from authz.doctor.finding import Rule, Seen, rule

OPERATOR: Final = re.compile(r"%(\w+)(?:\(([^()]*)\))?(?::\d+)?%")
HEADERS_OF: Final = ("REQ", "REQUEST_HEADER")
PATHS: Final = frozenset({":path", "x-envoy-original-path"})
CEL_HEADER: Final = re.compile(r"request\.headers\[\s*['\"]([^'\"]+)['\"]\s*\]")
STREAMS: Final = ("FileAccessLog", "StderrAccessLog", "StdoutAccessLog")  # have a format of Envoy's unless one is set
FORMATS: Final = ("format", "json_format", "log_format", "typed_json_format")
GRPC: Final = "HttpGrpcAccessLogConfig"  # always sends the path, with its query
USUAL: Final = Api(id="any")  # has the key sources of an API that names none


@rule(
    "warning",
    why="Readers of the log or the traces can call with these keys. authz removes the key from admitted calls only, "
    "so the log has the keys of refused calls, those with a 429 among them.",
    fix="leave the header out and log the key's id: %DYNAMIC_METADATA(envoy.filters.http.ext_authz)%; for a key in "
    "the query log %PATH(NQ:PATH)%",
)
def key_logged(facts: Facts) -> Iterator[Seen]:
    """An access log or a trace of a checked listener has the header, the cookie or the query that holds the key. Places
    other than `x-api-key` need --config."""
    sources = [source for api in facts.apis or (USUAL,) for source in api.key_sources]
    headers = {source.header.lower() for source in sources if source.header}
    cookies = {"cookie" for source in sources if source.cookie}
    paths = PATHS if any(source.query for source in sources) else ()
    places = {*headers, *cookies, *paths}
    for log in (log for envoy in facts.envoys for log in _checked_logs(envoy)):
        found = sorted(places.intersection(_written(log)))
        if found:
            yield Seen(log.where, f"writes {', '.join(found)}")


@rule(
    "warning",
    why="A tap shows whole requests, keys among them, to every client that reaches the administration interface or "
    "the files that it writes.",
    fix="leave the tap out of listeners that take keys",
)
def tapped(facts: Facts) -> Iterator[Seen]:
    """A checked listener has a tap, as a filter or as a transport socket."""
    for check in facts.checks():
        for one in check.manager.filters:
            if one.type == "Tap" and check.manager.ever_runs(one):
                yield Seen(check.manager.where, f"filter {one.name}")
    for envoy in facts.envoys:
        yield from (Seen(log.where, "transport socket Tap") for log in _checked_logs(envoy) if log.type == "Tap")


def _checked_logs(envoy: Envoy) -> Iterator[AccessLog]:
    """Those of listeners that check."""
    checked = {check.manager.where.partition(",")[0] for check in envoy.checks}
    return (log for log in envoy.logs if log.where.partition(",")[0] in checked)


def _written(log: AccessLog) -> Iterator[str]:
    """The headers, in lower case, that the log has; the path stands for the query too."""
    if (log.type in STREAMS and not any(name in log.config for name in FORMATS)) or log.type == GRPC:
        yield ":path"
    yield from _headers_in(log.config)


def _headers_in(config: Any) -> Iterator[str]:
    if isinstance(config, str):
        yield from _operands(config)
    elif isinstance(config, list):
        for one in config:
            yield from _headers_in(one)
    elif isinstance(config, dict):
        # Headers by name: those of a gRPC access log, and those of a tag of a trace.
        yield from (name.lower() for name in config.get("additional_request_headers_to_log", ()))
        tag = config.get("request_header", SILENT)
        if isinstance(tag, dict) and "name" in tag:
            yield tag["name"].lower()
        for one in config.values():
            yield from _headers_in(one)


def _operands(text: str) -> Iterator[str]:
    """`%REQ(A?B):10%` writes `a`, or `b`."""
    for operator, operand in OPERATOR.findall(text):
        if operator in HEADERS_OF:
            yield from operand.lower().split("?")
        elif operator in ("QUERY_PARAM", "QUERY_PARAMS") or (operator == "PATH" and "NQ" not in operand.split(":")):
            yield ":path"
    yield from (name.lower() for name in CEL_HEADER.findall(text))


RULES: Final[tuple[Rule, ...]] = (
    key_logged,
    tapped,
)
