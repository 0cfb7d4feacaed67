"""The configuration file, the environment and flags, read into Settings and Resources; what is wrong has an address.

Run as `python -m authz.config FILE` it loads the file and writes MessagePack: reading 100,000 keys takes seconds of
CPU, which a process that serves requests leaves to a child.
"""

from __future__ import annotations

import asyncio
import difflib
import enum
import gc
import hashlib
import os
import re
import secrets
import string
import sys
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
import yaml
from msgspec import Meta, Struct, ValidationError

from authz.core.resources import FailurePolicy, Resources
from authz.core.rules import Problem, hexdigest, problems

try:
    from yaml import CSafeLoader as SafeLoader
except ImportError:  # PyYAML built without libyaml: the same, ten times slower
    from yaml import SafeLoader  # type: ignore[assignment]

REFUSED: Final = 3  # exit status of the child: the file is at fault, and stdout holds its problems
CHILD_SECONDS: Final = 120.0
KEY_LENGTH: Final = 40
SHORTEST_KEY: Final = 20
SOCKET_PATH_BYTES: Final = 107  # what Linux leaves for the path of a Unix socket

PREFIX: Final = "AUTHZ_"
# Not settings, and yet no misspelt ones: the file itself, tests, and what Kubernetes sets for a Service named authz-*.
FOREIGN: Final = re.compile(r"AUTHZ_(CONFIG|TEST_.*|(.+_)?(SERVICE_(HOST|PORT)(_.*)?|PORT(_\d+_[A-Z]+(_[A-Z]+)?)?))")
LISTEN: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})")
REDIS_OPTIONS: Final = frozenset({"db", "username", "password"})
TLS_OPTIONS: Final = frozenset(
    {"ssl_ca_certs", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile"}
)


class ConfigError(Exception):
    """What the operator has to mend: all that was found, each with where it stands."""

    def __init__(self, found: Iterable[Problem]) -> None:
        self.problems = tuple(found)
        super().__init__("\n".join(map(str, self.problems)))


class LoaderError(ConfigError):
    """The child that reads the file did not finish. The file may be fine; another try may succeed."""


# --- settings -----------------------------------------------------------------------------------------------------

Text = Annotated[str, Meta(min_length=1)]
Milliseconds = Annotated[int, Meta(ge=1, le=60_000)]
Seconds = Annotated[float, Meta(ge=0, le=3600)]
Share = Annotated[float, Meta(ge=0, le=1)]


class Settings(Struct, frozen=True, rename="camel", forbid_unknown_fields=True, kw_only=True):
    """What a process is started with; a change needs a restart."""

    grpc_listen: Annotated[
        Text, Meta(description="Address of the gRPC server that Envoy asks: host:port or unix:/path.")
    ] = "127.0.0.1:50051"
    http_listen: Annotated[
        Text, Meta(description="Address of /metrics, /healthz and /readyz: host:port or unix:/path.")
    ] = "127.0.0.1:9190"
    redis_url: Annotated[
        Text, Meta(description="Redis or Valkey: redis://user:password@host:port/db, rediss:// or unix:///path?db=0.")
    ] = "redis://127.0.0.1:6379/0"
    redis_timeout_ms: Annotated[
        Milliseconds, Meta(description="Longest wait for Redis, in milliseconds; keep it below Envoy's timeout.")
    ] = 50
    account_id: Annotated[
        str,
        Meta(pattern=r"^[A-Za-z0-9_-]{1,128}\Z", description="Names the account in every Redis key; its hash tag."),
    ] = "000000000000"
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
    usage_retention_days: Annotated[int, Meta(ge=1, le=3660, description="Days for which daily usage is kept.")] = 400


@dataclass(frozen=True, slots=True)
class Option:
    """A setting as its users meet it: field, file, environment, flag."""

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
    def choices(self) -> tuple[str, ...]:
        """The words that the setting accepts, if it does not take just any."""
        return _choices(self.kind)


@cache
def options() -> tuple[Option, ...]:
    """All settings, in the order of the file's reference."""
    return tuple(
        Option(field.name, field.encode_name, field.type, field.default, _description(field.type))
        for field in msgspec.structs.fields(Settings)
    )


def _description(kind: Any) -> str:
    return next(meta.description for meta in reversed(get_args(kind)) if isinstance(meta, Meta) and meta.description)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and for each field where its value comes from."""

    settings: Settings
    origins: Mapping[str, str]

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
    if not found and values["grpc_listen"] == values["http_listen"] and not values["http_listen"].endswith(":0"):
        found.append(Problem(origins["http_listen"], "expected another address than grpcListen"))
    if found:
        raise ConfigError(found)
    return Loaded(Settings(**values), origins)


def _unknown(environ: Mapping[str, str], file_settings: Mapping[str, Any], name: str) -> list[Problem]:
    variables = [option.variable for option in options()]
    names = [option.name for option in options()]
    return [
        Problem(f"environment {variable}", _not_known("setting", variable, variables))
        for variable in environ
        if variable.startswith(PREFIX) and variable not in variables and not FOREIGN.fullmatch(variable)
    ] + [
        Problem(f"{name}: $.settings.{given}", _not_known("field", given, names))
        for given in file_settings
        if given not in names
    ]


def _given(
    option: Option,
    file_settings: Mapping[str, Any],
    environ: Mapping[str, str],
    flags: Mapping[str, object | None],
    name: str,
) -> tuple[Any, str, bool]:
    """The value that counts, its origin, and whether it has a type already (a variable is always text)."""
    if flags.get(option.field) is not None:
        return flags[option.field], f"flag {option.flag}", False
    if option.variable in environ:
        return environ[option.variable], f"environment {option.variable}", False
    if option.name in file_settings:
        return file_settings[option.name], f"{name}: $.settings.{option.name}", True
    return option.default, "default", True


def _setting(option: Option, value: Any, strict: bool) -> tuple[str | None, Any]:
    """The rule that the value breaks, or None, and the value converted."""
    try:
        converted = msgspec.convert(value, option.kind, strict=strict)
    except ValidationError as fault:
        return _rule(str(fault), option.kind, quotable=strict), None
    match option.field:
        case "grpc_listen" | "http_listen":
            return _listen(converted), converted
        case "redis_url":
            return _redis(converted), converted
    return None, converted


def _listen(address: str) -> str | None:
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        fits = path.startswith("/") and len(path.encode()) <= SOCKET_PATH_BYTES
        return None if fits else f"expected unix: and an absolute path of at most {SOCKET_PATH_BYTES} bytes"
    found = LISTEN.fullmatch(address)
    return None if found and int(found[1]) <= 65535 else "expected host:port or unix:/path"


def _redis(url: str) -> str | None:
    """The rule that the URL breaks. It does not repeat the URL, which may hold a password."""
    try:
        parts = urlsplit(url)
        port_fits = parts.port is None or parts.port > 0
    except ValueError:
        return "expected a URL with a host and a port number; percent-encode special characters of the password"
    if parts.scheme not in ("redis", "rediss", "unix"):
        return "expected a URL that begins with redis://, rediss:// or unix://"
    if parts.scheme == "unix" and not parts.path.strip("/"):
        return "expected the path of a socket: unix:///path?db=0"
    if parts.scheme != "unix" and not (parts.hostname and port_fits):
        return "expected a host: redis://host:port/db"
    if parts.fragment or (parts.scheme != "unix" and not re.fullmatch(r"(/\d*)?", parts.path)):
        return "expected the number of a database after the slash; percent-encode special characters of the password"
    known = REDIS_OPTIONS | (TLS_OPTIONS if parts.scheme == "rediss" else frozenset())
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    if given.keys() - known:
        return f"expected no options but {', '.join(sorted(known))} after the question mark"
    return None if given.get("db", "0").isdigit() else "expected a number for the option db"


def mask_url(url: str) -> str:
    """The URL with every password replaced, however it is spelt; for URLs that settings have accepted."""
    parts = urlsplit(url)
    userinfo, at, host = parts.netloc.rpartition("@")
    user, colon, _ = userinfo.partition(":")
    netloc = f"{user}{colon and ':***'}{at}{host}"
    query = "&".join(_masked(pair) for pair in parts.query.split("&"))
    return f"{parts.scheme}://{netloc}{parts.path}{query and '?'}{query}"


def _masked(pair: str) -> str:
    name = pair.partition("=")[0]
    return f"{name}=***" if unquote(name) == "password" else pair


# --- the file -----------------------------------------------------------------------------------------------------


# The whole file: what reloads, and settings.
_Document: Final = msgspec.defstruct(
    "_Document",
    [("settings", dict[str, Any] | None, None)],
    bases=(Resources,),
    frozen=True,
    forbid_unknown_fields=True,
)

Stamp = tuple[str, int, int, int, int]


class Config(Struct, frozen=True):
    """A file, read: its settings as written, its resources without clear key values, and a digest of the latter.

    `stamp` is the file's before it was read, so that a later change can be told.
    """

    settings: dict[str, Any]
    resources: Resources
    content: str
    stamp: Stamp | None = None


def stamp(path: Path) -> Stamp | None:
    """What differs when the file does: where symlinks lead, which file is there, its times and length; None without."""
    target = os.path.realpath(path)
    try:
        found = Path(target).stat()
    except OSError:
        return None
    return target, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


def load(path: Path) -> Config:
    """Read and check a file. Raises ConfigError with all that is wrong with it."""
    before = stamp(path)
    return msgspec.structs.replace(parse(_read(path), str(path)), stamp=before)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as fault:
        rule = f"expected UTF-8 text; byte {fault.start} is none"
    except FileNotFoundError:
        rule = "no such file"
    except IsADirectoryError:
        rule = "a directory, not a file"
    except OSError as fault:
        rule = f"cannot be read: {fault.strerror}"
    raise ConfigError([Problem(str(path), rule)])


def parse(text: str, name: str) -> Config:
    """Read and check a file's text; `name` stands in front of each address."""
    document = _yaml(text, name)
    settings = document.get("settings") or {}
    found = [*_file_settings(settings, name), *(_named(fault, name) for fault in _faults(document, _Document, "$"))]
    if found:
        raise ConfigError(found)
    document.pop("settings", None)
    resources = msgspec.convert(document, Resources)
    broken = problems(resources)
    if broken:
        raise ConfigError(_named(problem, name) for problem in broken)
    sealed = _sealed(resources)
    return Config(settings, sealed, hashlib.sha256(msgspec.msgpack.encode(sealed)).hexdigest()[:12])


def _named(problem: Problem, name: str) -> Problem:
    return Problem(f"{name}: {problem.address}", problem.rule)


def _file_settings(settings: Any, name: str) -> Iterable[Problem]:
    if not isinstance(settings, dict):
        return ()  # said already: the document's shape is at fault
    try:
        load_settings(settings, {}, {}, name)
    except ConfigError as refused:
        return refused.problems
    return ()


def _sealed(resources: Resources) -> Resources:
    """The resources with each key's value replaced by its digest: the clear value goes no further than this."""
    keys = tuple(
        msgspec.structs.replace(key, value=None, value_sha256=hexdigest(key)) if key.value else key
        for key in resources.api_keys
    )
    return msgspec.structs.replace(resources, api_keys=keys)


# --- YAML ---------------------------------------------------------------------------------------------------------


class _Loader(SafeLoader):
    """YAML as JSON knows it: times stay text, and a mapping has each key once."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.repeated: list[yaml.Node] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) != len(keys):
            self.repeated += [key for n, (key, _) in enumerate(node.value) if (key.tag, key.value) in keys[:n]]
        return super().construct_mapping(node, deep)


def _yaml(text: str, name: str) -> dict[Any, Any]:
    loader = _Loader(text)
    try:
        document = loader.get_single_data()
    except (yaml.YAMLError, RecursionError) as fault:
        raise ConfigError([_yaml_problem(fault, text, name)]) from None
    finally:
        loader.dispose()
    if loader.repeated:
        raise ConfigError(_repeated(node, name) for node in loader.repeated)
    if not isinstance(document, dict):
        rule = "the file is empty" if document is None else "expected a mapping with apis, usagePlans and apiKeys"
        raise ConfigError([Problem(name, rule)])
    return document


def _yaml_problem(fault: Exception, text: str, name: str) -> Problem:
    """YAML's own words without its quotations, which may hold a key's value."""
    if isinstance(fault, RecursionError):
        return Problem(name, "nested too deeply")
    if isinstance(fault, yaml.MarkedYAMLError) and fault.problem_mark:
        place, words = _place(fault.problem_mark), fault.problem or "cannot be read"
    else:
        place, words = f"line {_line(text, getattr(fault, 'position', 0))}", getattr(fault, "reason", "cannot be read")
    return Problem(f"{name}: {place}", "not valid YAML: " + re.sub(r"'[^']{4,}'|\"[^\"]{4,}\"", "…", words))


def _line(text: str, position: int) -> int:
    """The line of a character that YAML does not allow; libyaml counts bytes."""
    return text.encode()[:position].count(b"\n") + 1


def _repeated(node: yaml.Node, name: str) -> Problem:
    return Problem(f"{name}: {_place(node.start_mark)}", f"the key {_shortened(node.value)} is given twice")


def _place(mark: yaml.Mark) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"


def _shortened(name: object) -> str:
    """A name from the file, unless it is so long that it might be a key's value in the wrong place."""
    return str(name) if len(str(name)) < SHORTEST_KEY else f"({len(str(name))} characters)"


# --- what is wrong with a value, in words -------------------------------------------------------------------------


def _faults(value: Any, kind: Any, at: str) -> Iterator[Problem]:
    """All that keeps a value from being of a kind. msgspec names the first fault; so each part is tried by itself."""
    try:
        msgspec.convert(value, kind)
    except ValidationError as fault:
        bare = _bare(kind)
        found = [*_misfits(value, bare, at), *(one for part in _parts(value, bare, at) for one in _faults(*part))]
        yield from found or [Problem(at, _rule(str(fault), kind))]


def _bare(kind: Any) -> Any:
    """The kind without `| None`."""
    if get_origin(kind) not in (Union, UnionType):
        return kind
    return next(one for one in get_args(kind) if one is not NoneType)


def _parts(value: Any, kind: Any, at: str) -> Iterator[tuple[Any, Any, str]]:
    """The parts of a value: each with its kind and address."""
    if _is_struct(kind) and isinstance(value, dict):
        fields = _fields(kind)
        yield from ((part, fields[name].type, f"{at}.{name}") for name, part in value.items() if name in fields)
    elif get_origin(kind) is tuple and isinstance(value, list):
        yield from ((part, get_args(kind)[0], f"{at}[{n}]") for n, part in enumerate(value))
    elif get_origin(kind) is dict and isinstance(value, dict):
        key_kind, part_kind = get_args(kind)
        for key, part in value.items():
            yield key, key_kind, f"{at}['{key}']"
            yield part, part_kind, f"{at}['{key}']"


def _misfits(value: Any, kind: Any, at: str) -> Iterator[Problem]:
    """Fields that are unknown or missing."""
    if not (_is_struct(kind) and isinstance(value, dict)):
        return
    fields = _fields(kind)
    for name in value:
        if name not in fields:
            yield Problem(f"{at}.{_shortened(name)}", _not_known("field", name, fields))
    for name, field in fields.items():
        if field.required and name not in value:
            yield Problem(f"{at}.{name}", "required")


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


@cache
def _fields(kind: type[Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    return {field.encode_name: field for field in msgspec.structs.fields(kind)}


def _not_known(what: str, name: object, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"unknown {what}" + (f"; did you mean {close[0]}?" if close else "")


WORDS: Final = {
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "object": "a mapping",
    "array": "a list",
    "null": "nothing",
    "datetime": "a time such as 2030-01-31T23:59:59Z",
}
PATTERNS: Final = {
    "^[A-Za-z0-9_-]": "expected 1 to 128 letters, digits, - or _",
    "^[0-9a-f]": "expected 64 hexadecimal digits in lower case",
    "^[1-5]": "expected a status of three digits, such as '429'",
}


def _rule(message: str, kind: Any, quotable: bool = True) -> str:
    """msgspec's message as a rule that an operator understands, without the value."""
    if message.startswith("Invalid enum value"):
        return f"expected one of {', '.join(_choices(kind))}"
    if message.startswith("Invalid RFC3339"):
        return f"expected {WORDS['datetime']}"
    if found := re.search(r"matching regex ['\"](.*)['\"]", message):
        return next(rule for start, rule in PATTERNS.items() if found[1].startswith(start))
    if found := re.match(r"Expected `(\w+)` of length >= (\d+)", message):
        return f"expected at least {found[2]} character{'s' if int(found[2]) > 1 else ''}"
    if found := re.match(r"Expected `(\w+)` ([<>])= ([\d.-]+)", message):
        return f"expected {WORDS[found[1]]} {'≤' if found[2] == '<' else '≥'} {found[3].removesuffix('.0')}"
    if found := re.match(r"Expected `(\w+)(?: \| null)?`, got `(\w+)`", message):
        return f"expected {WORDS[found[1]]}" + _instead(found[1], found[2], quotable)
    return message[:1].lower() + message[1:]


def _instead(expected: str, got: str, quotable: bool) -> str:
    if not quotable:
        return ""
    if expected == "str" and got in ("int", "float", "bool"):
        return f", not {WORDS[got]}: put it in quotes"
    return f", not {WORDS.get(got, got)}"


def _choices(kind: Any) -> tuple[str, ...]:
    bare = _bare(kind)
    bare = get_args(bare)[0] if get_origin(bare) is Annotated else bare
    if isinstance(bare, type) and issubclass(bare, enum.Enum):
        return tuple(member.value for member in bare)
    return get_args(bare) if get_origin(bare) is Literal else ()


# --- keys ---------------------------------------------------------------------------------------------------------


def new_key() -> str:
    """A random key value: 40 letters and digits, some 238 bits."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(KEY_LENGTH))


# --- the child ----------------------------------------------------------------------------------------------------


async def load_in_child(path: Path, seconds: float = CHILD_SECONDS) -> Config:
    """`load` in a process of its own, which is killed when the caller is cancelled or the time is up.

    Raises ConfigError, and LoaderError if the process did not get as far as to judge the file.
    """
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "authz.config", str(path), stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe
    )
    try:
        async with asyncio.timeout(seconds):
            output, errors = await process.communicate()
    except TimeoutError:
        raise LoaderError([Problem(str(path), f"not read within {seconds:g} s")]) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == 0:
        return msgspec.msgpack.decode(output, type=Config)
    if process.returncode == REFUSED:
        raise ConfigError(msgspec.msgpack.decode(output, type=list[Problem]))
    raise LoaderError([Problem(str(path), _died(process.returncode, errors))])


def _died(status: int | None, errors: bytes) -> str:
    """How the child ended: by the kind of its last exception alone, since a message might quote the file."""
    last = errors.decode(errors="replace").strip().rpartition("\n")[2].partition(":")[0]
    return f"the loader ended with status {status}" + (f" ({last})" if re.fullmatch(r"[\w.]+", last) else "")


def main(path: str) -> int:
    """Load the file, write what came of it to stdout as MessagePack, and tell by the exit status what it is."""
    gc.disable()  # no cycles worth finding, and millions of nodes to look through
    try:
        status, output = 0, msgspec.msgpack.encode(load(Path(path)))
    except ConfigError as refused:
        status, output = REFUSED, msgspec.msgpack.encode(refused.problems)
    sys.stdout.buffer.write(output)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
