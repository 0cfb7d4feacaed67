"""What authz is shown of a request, and what the upstream believes of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from authz.core.credentials import IDENTITY, OVERAGE, lookalikes
from authz.core.resources import Api
from authz.doctor.facts import SILENT, Check, Facts, Json, Manager
from authz.doctor.finding import Rule, Seen, rule
from authz.envoy.config import allowed_headers, key_namespaces

BODY_BYTES: Final = (1 << 20) - (1 << 16)  # the bound of a message, and room for all else that it says
CORS: Final = "envoy.filters.http.cors"
FAILURE_HEADER: Final = "x-envoy-auth-failure-mode-allowed"
NORMALISED: Final = {
    "normalize_path": "normalize_path: true",
    "merge_slashes": "merge_slashes: true",
    "path_with_escaped_slashes_action": "path_with_escaped_slashes_action: UNESCAPE_AND_REDIRECT",
}
UNTOUCHED: Final = (None, False, "IMPLEMENTATION_SPECIFIC_DEFAULT", "KEEP_UNCHANGED")
OURS: Final = (*IDENTITY, OVERAGE)  # headers that authz alone may set
USUAL: Final = Api(id="any")  # has the key sources of an API that names none
# Samples of the spellings that an upstream may take for ours.
SPELLINGS: Final = [name.replace("-", mark) for mark in "_.~" for name in OURS]


@rule(
    "error",
    why="authz and the upstream each read `/open/../pets//7` and `%2Fpets` in their own way: a path of one method "
    "passes for another's.",
    fix=", ".join(NORMALISED.values()),
)
def path_not_normalised(facts: Facts) -> Iterator[Seen]:
    """`normalize_path`, `merge_slashes` or `path_with_escaped_slashes_action` is missing."""
    for manager in _guarding(facts):
        missing = [name for name in NORMALISED if manager.config.get(name) in UNTOUCHED]
        if missing:
            yield Seen(manager.where, f"without {', '.join(missing)}", "\n".join(NORMALISED[name] for name in missing))


@rule(
    "error",
    why="A preflight request carries no key: it is refused, and no browser can call the API.",
    fix="put envoy.filters.http.cors before ext_authz in http_filters",
)
def cors_after_ext_authz(facts: Facts) -> Iterator[Seen]:
    """The CORS filter stands after ext_authz."""
    for check in facts.checks():
        names = [one.name if one.type != "Cors" else CORS for one in check.manager.filters]
        if CORS in names[check.manager.filters.index(check.filter) :]:
            yield Seen(check.where, f"{CORS} comes after it")


@rule(
    "warning",
    why="Envoy sends all headers to authz on every call, cookies and tokens among them. That is slower, and authz "
    "does not need them.",
    fix="the allowed_headers that `authz envoy-config --only filter` prints",
)
def headers_not_restricted(facts: Facts) -> Iterator[Seen]:
    """The filter has no `allowed_headers`."""
    for check in facts.checks():
        if not check.config.get("allowed_headers", SILENT).get("patterns"):
            yield Seen(check.where, "no allowed_headers")


@rule(
    "error",
    why="authz never gets the header: a key in it does not count, or a refusal cannot be worded as configured.",
    fix="print the allowed_headers again: authz envoy-config --only filter",
)
def header_not_shown(facts: Facts) -> Iterator[Seen]:
    """`allowed_headers` or `disallowed_headers` withholds a header that authz reads; those of key sources and gateway
    responses need --config."""
    for check in facts.checks():
        for name in allowed_headers(facts.apis):
            if not _is_shown(check.config, name):
                yield Seen(check.where, f"{name} is kept back", f"allowed_headers.patterns: - exact: {name}")


@rule(
    "error",
    why="authz reads the key there, finds none and refuses every call of these APIs.",
    fix="metadata_context_namespaces, as `authz envoy-config --only filter` prints them",
)
def metadata_not_shown(facts: Facts) -> Iterator[Seen]:
    """A namespace that holds the key of an API with `apiKeySource: AUTHORIZER` is not passed on. Needs --config."""
    for check in facts.checks():
        for namespace in key_namespaces(facts.apis):
            if namespace not in check.config.get("metadata_context_namespaces", ()):
                fix = f"metadata_context_namespaces: [{namespace}]"
                yield Seen(check.where, f"{namespace} is not passed on", fix)


def _is_shown(ext_authz: Json, name: str) -> bool:
    """Whether the filter passes a header of this name on to authz."""
    shown = ext_authz.get("allowed_headers", SILENT).get("patterns", ())
    hidden = ext_authz.get("disallowed_headers", SILENT).get("patterns", ())
    return (not shown or _any_match(shown, name)) and not _any_match(hidden, name)


def _any_match(patterns: Sequence[Json], name: str) -> bool:
    return any(_matches(pattern, name) for pattern in patterns)


def _matches(pattern: Json, name: str) -> bool:
    """Envoy's StringMatcher."""
    known = {kind: str(value) for kind, value in pattern.items() if isinstance(value, str)}
    if pattern.get("ignore_case"):
        known = {kind: value.lower() for kind, value in known.items()}
    return (
        known.get("exact") == name
        or ("prefix" in known and name.startswith(known["prefix"]))
        or ("suffix" in known and name.endswith(known["suffix"]))
        or ("contains" in known and known["contains"] in name)
        or ("safe_regex" in pattern and _regex_matches(pattern["safe_regex"].get("regex", ""), name))
    )


def _regex_matches(pattern: str, name: str) -> bool:
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error:  # RE2 knows some that Python does not
        return True


@rule(
    "info",
    why="Envoy sets this header on requests that it admits unchecked. authz removes a client's own copy from "
    "admitted requests. On routes that are not checked the copy reaches the upstream.",
    fix=f"request_headers_to_remove: [{FAILURE_HEADER}] in the route_config",
)
def failure_header_kept(facts: Facts) -> Iterator[Seen]:
    """The routes do not remove `x-envoy-auth-failure-mode-allowed`."""
    for manager in _guarding(facts):
        if manager.routes is None:
            continue
        whole = set(manager.routes.get("request_headers_to_remove", ()))
        each = [set(host.get("request_headers_to_remove", ())) for host in manager.virtual_hosts]
        by_every_host = set.intersection(*each) if each else set()
        if FAILURE_HEADER not in {name.lower() for name in whole | by_every_host}:
            yield Seen(manager.where, f"{FAILURE_HEADER} of a client's is kept")


@rule(
    "warning",
    why="Envoy trusts a client's own x-forwarded-for, x-request-id and x-envoy headers. Right only behind a proxy of "
    "yours that replaces them.",
    fix="use_remote_address: true (and xff_num_trusted_hops behind proxies of yours)",
)
def remote_address_not_used(facts: Facts) -> Iterator[Seen]:
    """The HTTP connection manager has no `use_remote_address: true`."""
    for manager in _guarding(facts):
        if not manager.config.get("use_remote_address"):
            yield Seen(manager.where, "use_remote_address is false unless set")


@rule(
    "warning",
    why="CGI, WSGI and PHP read `x_api_key_id` and `x.api.key.id` as `x-api-key-id`, which only authz may set: a "
    "client can pass for another. authz removes such headers if Envoy sends them to it.",
    fix="the safe_regex of allowed_headers that `authz envoy-config --only filter` prints",
)
def lookalikes_not_shown(facts: Facts) -> Iterator[Seen]:
    """`allowed_headers` or `disallowed_headers` withholds other spellings of the headers that only authz may set."""
    for check in facts.checks():
        passing = [name for name in SPELLINGS if not _is_shown(check.config, name)]
        if passing:
            yield Seen(check.where, f"a client's {passing[0]} reaches the upstream")


@rule(
    "warning",
    why="Envoy picks the route again after the check: it may differ from the one that was checked.",
    fix="leave clear_route_cache out",
)
def clear_route_cache(facts: Facts) -> Iterator[Seen]:
    """The filter has `clear_route_cache: true`."""
    for check in facts.checks():
        if check.config.get("clear_route_cache"):
            yield Seen(check.where, "clear_route_cache: true")


@rule(
    "info",
    why="Envoy sends bodies to authz, which never reads them. A body above the buffer's size is refused with 413.",
    fix="leave with_request_body out",
)
def body_sent(facts: Facts) -> Iterator[Seen]:
    """The filter has `with_request_body`."""
    for check in facts.checks():
        if "with_request_body" in check.config:
            yield Seen(check.where, "with_request_body")


@rule(
    "error",
    why="authz refuses messages above 1 MiB, and the body is a part of the message: every request with such a body "
    "gets 503.",
    fix="leave with_request_body out",
)
def body_too_large(facts: Facts) -> Iterator[Seen]:
    """`with_request_body`, of the filter or a route, sends bodies that may be too large for authz."""
    for check in facts.checks():
        levels = [(check.where, check.config)]
        for at, level in check.manager.levels:
            said = level.get("typed_per_filter_config", SILENT).get(check.filter.name, SILENT)
            levels.append((at, said.get("config", said).get("check_settings", SILENT)))
        for at, settings in levels:
            most = int(settings.get("with_request_body", SILENT).get("max_request_bytes", 0))
            if most > BODY_BYTES:
                yield Seen(at, f"with_request_body: max_request_bytes: {most}")


@rule(
    "error",
    why="authz names the caller in these headers and removes the key, and Envoy ignores changes that its rules "
    "forbid: the key reaches the upstream, and a client's own x-api-key-id is believed.",
    fix="leave decoder_header_mutation_rules out",
)
def mutation_refused(facts: Facts) -> Iterator[Seen]:
    """`decoder_header_mutation_rules` forbids a change that authz makes to the request."""
    for check in facts.checks():
        rules = check.config.get("decoder_header_mutation_rules")
        if rules is not None:
            refused = [name for name in _changed(facts.apis) if not _may_change(rules, name)]
            if refused:
                yield Seen(check.where, f"decoder_header_mutation_rules forbids {', '.join(refused)}")


def _changed(apis: Sequence[Api]) -> Iterator[str]:
    """The headers that authz sets or removes: the caller's identity, the mark of overage, and every place of a key."""
    sources = [source for api in apis or (USUAL,) for source in api.key_sources]
    yield from OURS
    yield from dict.fromkeys(source.header.lower() for source in sources if source.header)
    if any(source.cookie for source in sources):
        yield "cookie"
    if any(source.query for source in sources):
        yield ":path"


def _may_change(rules: Json, name: str) -> bool:
    """Envoy's HeaderMutationRules, in the order that Envoy applies them."""

    def says(field: str) -> bool:
        return field in rules and _regex_matches(rules[field].get("regex", ""), name)

    if rules.get("disallow_all") or says("disallow_expression"):
        return False
    return says("allow_expression") or not (rules.get("disallow_system") and name.startswith(":"))


@rule(
    "error",
    why="The upstream trusts these headers, and after the change they no longer name the caller.",
    fix="leave these headers out, or choose another name for the header",
)
def identity_overwritten(facts: Facts) -> Iterator[Seen]:
    """A route, or a filter after ext_authz, changes `x-api-key-id` or another header that only authz may set."""
    for check in facts.checks():
        for where, name in _changed_later(check):
            if name in OURS or lookalikes([name]):
                yield Seen(where, f"changes {name} after the check")


def _changed_later(check: Check) -> Iterator[tuple[str, str]]:
    """The request headers that are changed after the check, and where."""
    manager = check.manager
    later = [one for one in manager.filters[manager.filters.index(check.filter) :] if one.type == "HeaderMutation"]
    for one in later:
        if manager.ever_runs(one):
            yield from ((f"{manager.where}, filter {one.name}", name) for name in _mutated(one.config))
    for at, level in manager.levels:
        for added in level.get("request_headers_to_add", ()):
            yield at, added.get("header", SILENT).get("key", "").lower()
        for one in later:
            said = level.get("typed_per_filter_config", SILENT).get(one.name, SILENT)
            yield from ((f"{at}, filter {one.name}", name) for name in _mutated(said.get("config", said)))
        # A route removes headers after the check, but other spellings name no caller.
        for removed in level.get("request_headers_to_remove", ()):
            if removed.lower() in OURS:
                yield at, removed.lower()


def _mutated(config: Json) -> Iterator[str]:
    for one in config.get("mutations", SILENT).get("request_mutations", ()):
        name = one.get("append", SILENT).get("header", SILENT).get("key") or one.get("remove")
        if name:
            yield name.lower()


@rule(
    "warning",
    why="Envoy sends a check for the new address too, and the key was removed the first time: the caller is charged "
    "once, then gets 403.",
    fix="leave internal_redirect_policy out: the client follows the redirect, with its key",
)
def redirect_followed(facts: Facts) -> Iterator[Seen]:
    """A checked route follows the upstream's redirects itself (`internal_redirect_policy`)."""
    for check in facts.checks():
        for place in check.manager.places():
            action = place.route.get("route", SILENT)
            follows = "internal_redirect_policy" in action or (
                action.get("internal_redirect_action") == "HANDLE_INTERNAL_REDIRECT"
            )
            if follows and check.is_asked_on(place):
                yield Seen(f"{check.manager.where}, virtual host {place.host['name']}", "internal_redirect_policy")


def _guarding(facts: Facts) -> list[Manager]:
    """Each connection manager that asks, once; the chain of an upgrade has the options of its connection manager."""
    found: list[Manager] = []
    for check in facts.checks():
        if check.manager not in found and not check.manager.upgrade:
            found.append(check.manager)
    return found


RULES: Final[tuple[Rule, ...]] = (
    path_not_normalised,
    cors_after_ext_authz,
    headers_not_restricted,
    header_not_shown,
    metadata_not_shown,
    failure_header_kept,
    remote_address_not_used,
    lookalikes_not_shown,
    clear_route_cache,
    body_sent,
    body_too_large,
    mutation_refused,
    identity_overwritten,
    redirect_followed,
)
