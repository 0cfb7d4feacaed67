"""Filters that stand before or after the check, and can undo it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from authz.doctor.facts import Check, Facts, Filter
from authz.doctor.finding import Rule, Seen, rule

CACHES: Final = ("CacheConfig", "CacheV2Config")
# Filters that run code of the operator's, by their type's last word or, where that is common, its package.
CODE: Final = ("DynamicModuleFilter", "ExternalProcessor", "Lua", "LuaPerRoute", "Wasm")
CODE_PACKAGES: Final = (".golang.",)


@rule(
    "error",
    why="A cached answer is served to every client, without a key and without a limit.",
    fix="put the cache after ext_authz in http_filters, or leave it out",
)
def cache_before_ext_authz(facts: Facts) -> Iterator[Seen]:
    """A response cache stands before ext_authz."""
    for check in facts.checks():
        for one in _before(check):
            if one.type in CACHES:
                yield Seen(check.where, f"{one.name} comes before it")


@rule(
    "info",
    why="The cache does not know the caller: an answer to one caller is served to every other caller that authz "
    "admits. Right only if all callers get the same answers.",
    fix="`Cache-Control: private` from the upstream if answers differ by caller, or no cache",
)
def cache_after_ext_authz(facts: Facts) -> Iterator[Seen]:
    """A response cache stands after ext_authz, and its cache key has no API key in it."""
    for check in facts.checks():
        for one in _after(check):
            if one.type in CACHES:
                yield Seen(check.where, f"{one.name} comes after it")


@rule(
    "info",
    why="Its code sees every key, and can answer by itself, without a check.",
    fix="read its code for answers of its own, or put it after ext_authz",
)
def code_before_ext_authz(facts: Facts) -> Iterator[Seen]:
    """A filter with code of its own (Lua, Wasm, Go, a dynamic module, ext_proc) stands before ext_authz."""
    for check in facts.checks():
        for one in _before(check):
            if _runs_code(one):
                yield Seen(check.where, f"{one.name} ({one.type}) comes before it")


@rule(
    "warning",
    why="Its code can change the path, the method, the route or x-api-key-id after the check: the forwarded request "
    "may differ from the checked one.",
    fix="put it before ext_authz, so that authz sees its changes, or read its code",
)
def code_after_ext_authz(facts: Facts) -> Iterator[Seen]:
    """A filter with code of its own (Lua, Wasm, Go, a dynamic module, ext_proc) stands after ext_authz."""
    for check in facts.checks():
        for one in _after(check):
            if _runs_code(one):
                yield Seen(check.where, f"{one.name} ({one.type}) comes after it")


def _before(check: Check) -> Iterator[Filter]:
    """The filters before the check that run on some route."""
    filters = check.manager.filters
    return (one for one in filters[: filters.index(check.filter)] if check.manager.ever_runs(one))


def _after(check: Check) -> Iterator[Filter]:
    """The filters after the check that run on some route."""
    filters = check.manager.filters
    return (one for one in filters[filters.index(check.filter) + 1 :] if check.manager.ever_runs(one))


def _runs_code(one: Filter) -> bool:
    kind = one.config.get("@type", "")
    return one.type in CODE or any(package in kind for package in CODE_PACKAGES)


RULES: Final[tuple[Rule, ...]] = (
    cache_before_ext_authz,
    cache_after_ext_authz,
    code_before_ext_authz,
    code_after_ext_authz,
)
