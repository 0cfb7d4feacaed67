"""The settings of a process: each from a flag, the environment, the file or its default, with its origin."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

import msgspec
from msgspec import Meta, Struct, ValidationError

from authz.config.faults import ConfigError, choices, not_known, rule_of
from authz.core.address import MAX_SOCKET_PATH, UNIX, Address
from authz.core.keyform import DEFAULT_PREFIX
from authz.core.problem import Problem, shortened
from authz.core.resources import DEFAULT_ACCOUNT, FailurePolicy
from authz.redisio.url import check_tls_files, mask_url, with_password

PREFIX: Final = "AUTHZ_"
# Not settings, and yet no misspelt ones: the file itself, secrets, which no flag or file of ours may hold, tests, and
# what Kubernetes sets for a Service named authz-*.
FOREIGN: Final = re.compile(
    r"AUTHZ_(CONFIG|PEPPER|SEALING_KEY|TEST_.*|(.+_)?(SERVICE_(HOST|PORT)(_.*)?|PORT(_\d+_[A-Z]+(_[A-Z]+)?)?)"
    # Options of the control plane.
    r"|DOMAIN_TARGET|CONSOLE_URL|PUBLIC_URL|GRAFANA_URL|ALLOW_PRIVATE_TARGETS"
    r"|OIDC_(ISSUER|CLIENT_ID|CLIENT_SECRET_FILE|ADMIN|READER))"
)

# Names of settings before they were renamed, by the new one. Accepted for one release, with a warning.
FORMER: Final = {"server": "host"}

ServerName = Literal["grpcio", "pyvoy"]
Text = Annotated[str, Meta(min_length=1)]
Milliseconds = Annotated[int, Meta(ge=1, le=60_000)]
MIN_HOLD_MS, MAX_HOLD_MS = 20, 500  # redisio/lua/prelude/holds.lua has the greater, too
Seconds = Annotated[float, Meta(ge=0, le=3600)]
Share = Annotated[float, Meta(ge=0, le=1)]


class Settings(Struct, frozen=True, rename="camel", forbid_unknown_fields=True, kw_only=True):
    """The settings of a process. A change needs a restart."""

    grpc_listen: Annotated[Text, Meta(description="Address of the gRPC server for Envoy: host:port or unix:/path.")] = (
        "127.0.0.1:50051"
    )
    server: Annotated[ServerName, Meta(description="What serves gRPC: grpcio, or pyvoy (Python inside an Envoy).")] = (
        "grpcio"
    )
    workers: Annotated[
        int,
        Meta(ge=1, le=256, description="Processes, each on an endpoint of its own: the next ports, or path.0, path.1."),
    ] = 1
    max_in_flight: Annotated[
        int,
        Meta(
            ge=1, le=100_000, description="Checks that a process works on at once; what comes beyond is shed with 503."
        ),
    ] = 100
    tls_cert_file: Annotated[
        Text | None, Meta(description="Certificate chain (PEM) of the gRPC server; without one it speaks plain HTTP/2.")
    ] = None
    tls_key_file: Annotated[Text | None, Meta(description="Private key (PEM) of that certificate.")] = None
    tls_client_ca_file: Annotated[
        Text | None, Meta(description="CA certificates (PEM): only clients with a certificate of theirs may ask.")
    ] = None
    http_listen: Annotated[
        Text, Meta(description="Address of /metrics, /healthz and /readyz: host:port or unix:/path.")
    ] = "127.0.0.1:9190"
    redis_url: Annotated[
        Text,
        Meta(
            description="Redis or Valkey: redis://user:password@host:port/db, rediss://, unix:///path?db=0, "
            "redis+sentinel://host:port,host:port/name/db or redis+cluster://host:port,host:port."
        ),
    ] = "redis://127.0.0.1:6379/0"
    redis_password_file: Annotated[
        Text | None, Meta(description="File with the password of Redis, for a redisUrl that has none.")
    ] = None
    redis_timeout_ms: Annotated[
        Milliseconds, Meta(description="Longest wait for Redis, in milliseconds; keep it below Envoy's timeout.")
    ] = 50
    account_id: Annotated[
        str,
        Meta(pattern=r"^[A-Za-z0-9_-]{1,128}\Z", description="Names the account in every Redis key; its hash tag."),
    ] = DEFAULT_ACCOUNT
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="Least severe event that is logged.")
    ] = "info"
    log_format: Annotated[Literal["json", "console"], Meta(description="One JSON object a line, or for people.")] = (
        "json"
    )
    refusal_log_sample: Annotated[
        Share, Meta(description="Share of refused requests that is logged at info, 0 to 1.")
    ] = 0.0
    response_profile: Annotated[
        Literal["standard", "aws"],
        Meta(description="standard adds Retry-After and RateLimit to refusals; aws answers as AWS does."),
    ] = "standard"
    rate_limit_headers_on_success: Annotated[
        bool, Meta(description="Add RateLimit headers to admitted requests too (standard profile).")
    ] = False
    dynamic_metadata: Annotated[
        bool, Meta(description="Send Envoy the caller and the remaining quota, for access logs and later filters.")
    ] = True
    charge_once: Annotated[
        bool, Meta(description="Charge a request that Envoy asks about again, after a failure, only once.")
    ] = False
    hold_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=MAX_HOLD_MS,
            description=f"Milliseconds, {MIN_HOLD_MS} to {MAX_HOLD_MS}, for which units of busy callers are held "
            "ahead, to admit their calls without Redis; 0 asks Redis about each call.",
        ),
    ] = 0
    failure_policy: Annotated[
        FailurePolicy, Meta(description="What happens to known keys' calls while Redis is away, unless the plan says.")
    ] = FailurePolicy.LOCAL
    replicas: Annotated[
        int, Meta(ge=1, le=100_000, description="Sidecars that share the limits; each takes its part without Redis.")
    ] = 1
    drain_seconds: Annotated[
        Seconds, Meta(description="Time from NOT_SERVING to the stop; longer than Envoy's health check interval.")
    ] = 6.0
    grace_seconds: Annotated[Seconds, Meta(description="Time that calls in flight get to finish after the drain.")] = (
        10.0
    )
    reflection: Annotated[bool, Meta(description="Serve gRPC reflection, for grpcurl.")] = False
    max_plan_labels: Annotated[
        int, Meta(ge=0, le=100_000, description="Plans with metrics of their own; the rest is labelled other.")
    ] = 1000
    usage_retention_days: Annotated[int, Meta(ge=1, le=3660, description="Days that daily usage is kept.")] = 400
    store: Annotated[bool, Meta(description="Take resources from Redis too, where the control plane keeps them.")] = (
        False
    )
    store_replicas: Annotated[
        Annotated[int, Meta(ge=0, le=100)] | None,
        Meta(
            description="Replicas that must have a write of the control plane; its answer warns if they don't. "
            "Unless set, 1 with redis+sentinel:// and redis+cluster://, else 0."
        ),
    ] = None
    key_cache_size: Annotated[
        int, Meta(ge=1, le=10_000_000, description="Keys of the store that a process keeps in memory.")
    ] = 100_000
    key_prefix: Annotated[
        str,
        Meta(
            pattern=r"^([a-z]([a-z0-9_]{0,28}[a-z0-9])?)?\Z",
            description="First letters of the keys that are made here, before `_`; empty for keys as AWS makes them.",
        ),
    ] = DEFAULT_PREFIX
    pepper_file: Annotated[
        Text | None, Meta(description="File with the pepper of the store's keys, instead of AUTHZ_PEPPER.")
    ] = None
    sealing_key_file: Annotated[
        Text | None, Meta(description="File with the keys that seal secrets, instead of AUTHZ_SEALING_KEY.")
    ] = None


@dataclass(frozen=True, slots=True)
class Option:
    """A setting with all its names: field, file, environment, flag."""

    field: str
    name: str
    kind: Any
    default: Any
    help: str

    @property
    def flag(self) -> str:
        return "--" + self.field.replace("_", "-")

    @property
    def variable(self) -> str:
        return PREFIX + self.field.upper()

    @property
    def former(self) -> Option | None:
        """The setting under its former name, if it has one."""
        name = FORMER.get(self.field)
        return replace(self, field=name, name=name) if name else None

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that the setting accepts; none if it accepts any."""
        return choices(self.kind)


@cache
def options() -> tuple[Option, ...]:
    """All settings, in the order of the file's reference."""
    found = []
    for field in msgspec.structs.fields(Settings):
        texts = [meta.description for meta in get_args(field.type) if isinstance(meta, Meta) and meta.description]
        found.append(Option(field.name, field.encode_name, field.type, field.default, texts[-1]))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, the origin of each field's value, and a warning for each former name that was used."""

    settings: Settings
    origins: Mapping[str, str]
    warnings: tuple[Problem, ...] = ()

    def shown(self) -> list[tuple[str, Any, str]]:
        """Name, value and origin of each setting, with secrets masked."""
        values = {option.field: getattr(self.settings, option.field) for option in options()}
        values["redis_url"] = mask_url(self.settings.redis_url)
        return [(option.name, values[option.field], self.origins[option.field]) for option in options()]


def load_settings(
    file_settings: Mapping[str, Any],
    environ: Mapping[str, str],
    flags: Mapping[str, object | None],
    name: str = "plans.yaml",
) -> Loaded:
    """Each setting from the first that gives it: flag, environment, file, default. Raises ConfigError.

    An unknown AUTHZ_* variable is refused: it is a misspelt setting, and would be missed in silence.
    """
    found: list[Problem] = _unknown(environ, file_settings, name)
    values, origins = {}, {}
    for option in options():
        value, origin, strict = _given(option, file_settings, environ, flags, name)
        origins[option.field] = origin
        rule, values[option.field] = _setting(option, value, strict)
        found += [Problem(origin, rule)] if rule else []
    if not found:
        found += _together(values, origins)
    if not found and values["redis_password_file"]:
        try:
            values["redis_url"] = with_password_of(values["redis_url"], values["redis_password_file"])
        except ValueError as rule:
            found.append(Problem(origins["redis_password_file"], str(rule)))
    if found:
        raise ConfigError(found)
    return Loaded(Settings(**values), origins, tuple(_former_names(file_settings, environ, flags, name)))


def _together(values: Mapping[str, Any], origins: Mapping[str, str]) -> Iterator[Problem]:
    """Yield mistakes between settings that are right one by one."""
    endpoints = endpoints_of(values["grpc_listen"], values["workers"])
    if values["http_listen"] in endpoints and not Address.parse(values["http_listen"]).is_any_port:
        yield Problem(origins["http_listen"], "expected another address than grpcListen")
    if values["workers"] > 1 and any(_listen(endpoint) for endpoint in endpoints):
        yield Problem(origins["workers"], "expected an address for each worker: a lower port, or a shorter path")
    if values["workers"] > 1 and Address.parse(values["grpc_listen"]).is_any_port:
        yield Problem(origins["grpc_listen"], "expected a port to count workers from; with 0 their ports are unknown")
    if bool(values["tls_cert_file"]) != bool(values["tls_key_file"]):
        given, missing = ("cert", "Key") if values["tls_cert_file"] else ("key", "Cert")
        yield Problem(origins[f"tls_{given}_file"], f"expected tls{missing}File beside it: a certificate and its key")
    if values["tls_client_ca_file"] and not values["tls_cert_file"]:
        yield Problem(origins["tls_client_ca_file"], "expected tlsCertFile beside it: without TLS no client shows one")


def with_password_of(url: str, file: str) -> str:
    """The URL with the password that the file holds. Raises ValueError, with the rule that is broken."""
    try:
        password = Path(file).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read: {getattr(error, 'strerror', 'not text')}") from None
    if not password:
        raise ValueError(f"expected a password in {file}, and it is empty")
    if password.startswith("\ufeff"):
        raise ValueError(f"expected a password in {file}, and it begins with a byte-order mark: save it without one")
    if len(password.splitlines()) > 1:
        raise ValueError(f"expected one line in {file}, the password, and it has {len(password.splitlines())}")
    return with_password(url, password)


def endpoints_of(grpc_listen: str, workers: int) -> list[str]:
    """The address of each worker: the given one if it is alone, else the next ports, or the path with `.0`, `.1` …"""
    if workers == 1:
        return [grpc_listen]
    return [str(Address.parse(grpc_listen).of_worker(slot)) for slot in range(workers)]


def _unknown(environ: Mapping[str, str], file_settings: Mapping[str, Any], name: str) -> list[Problem]:
    variables = [option.variable for option in options()]
    names = [option.name for option in options()]
    former = [option.former for option in options() if option.former]
    former_variables, former_names = {old.variable for old in former}, {old.name for old in former}
    return [
        Problem(f"environment {variable}", not_known("setting", variable, variables))
        for variable in environ
        if variable.startswith(PREFIX)
        and variable not in {*variables, *former_variables}
        and not FOREIGN.fullmatch(variable)
    ] + [
        Problem(f"{name}: $.settings.{shortened(given)}", not_known("field", given, names))
        for given in file_settings
        if given not in {*names, *former_names}
    ]


def _former_names(
    file_settings: Mapping[str, Any], environ: Mapping[str, str], flags: Mapping[str, object | None], name: str
) -> Iterator[Problem]:
    """A warning for each use of a former name."""
    for option in options():
        if not (old := option.former):
            continue
        if flags.get(old.field) is not None:
            yield renamed(f"flag {old.flag}", option.flag)
        if old.variable in environ:
            yield renamed(f"environment {old.variable}", option.variable)
        if old.name in file_settings:
            yield renamed(f"{name}: $.settings.{old.name}", option.name)


def renamed(place: str, new: str) -> Problem:
    """The warning for a former name at `place`."""
    return Problem(place, f"renamed; use {new}. The next release refuses the old name")


def _given(
    option: Option,
    file_settings: Mapping[str, Any],
    environ: Mapping[str, str],
    flags: Mapping[str, object | None],
    name: str,
) -> tuple[Any, str, bool]:
    """The value that counts, its origin, and whether it has a type already (a variable is always text)."""
    spellings = (option, option.former) if option.former else (option,)
    for spelling in spellings:
        if flags.get(spelling.field) is not None:
            return flags[spelling.field], f"flag {spelling.flag}", False
    for spelling in spellings:
        if spelling.variable in environ:
            return environ[spelling.variable], f"environment {spelling.variable}", False
    for spelling in spellings:
        if spelling.name in file_settings:
            return file_settings[spelling.name], f"{name}: $.settings.{spelling.name}", True
    return option.default, "default", True


def _setting(option: Option, value: Any, strict: bool) -> tuple[str | None, Any]:
    """The rule that the value breaks, or None, and the value converted."""
    try:
        converted = msgspec.convert(value, option.kind, strict=strict)
    except ValidationError as fault:
        return rule_of(str(fault), option.kind, quotable=strict), None
    match option.field:
        case "grpc_listen" | "http_listen":
            return _listen(converted), converted
        case "redis_url":
            try:
                check_tls_files(converted)
            except ValueError as broken:
                return str(broken), converted
        case "hold_ms" if 0 < converted < MIN_HOLD_MS:
            return f"expected 0 or {MIN_HOLD_MS} to {MAX_HOLD_MS}", converted
    return None, converted


def _listen(text: str) -> str | None:
    """The rule that the address breaks."""
    if text.startswith(UNIX):
        path = text.removeprefix(UNIX)
        fits = path.startswith("/") and len(path.encode()) <= MAX_SOCKET_PATH
        return None if fits else f"expected unix: and an absolute path of at most {MAX_SOCKET_PATH} bytes"
    try:
        address = Address.parse(text)
    except ValueError:
        return "expected host:port or unix:/path"
    # An IPv6 address without brackets is ambiguous to most readers of the setting.
    return "expected host:port or unix:/path" if ":" in address.host and not text.startswith("[") else None
