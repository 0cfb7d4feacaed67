"""The plans file, read into its settings as written and Resources. Each mistake has an address.

`python -m authz.config.file FILE` loads the file and writes MessagePack. Reading 100,000 keys takes seconds of CPU, so
a process that serves requests leaves it to a child.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import yaml
from msgspec import Struct

from authz.background import PIECE, in_background
from authz.config.faults import ConfigError
from authz.config.places import located
from authz.config.quotas import as_written, normalised, quota_problems
from authz.config.settings import load_settings
from authz.config.shape import faults
from authz.config.yamls import TimelessLoader, written_size
from authz.core.keyform import DEFAULT_PREFIX, KeyForm
from authz.core.problem import Problem, shortened
from authz.core.resources import ApiKey, Customer, Resources, UsagePlan, digest, digest_of
from authz.core.rules import problems

T = TypeVar("T")

REFUSED: Final = 3  # exit status of the child: the file is at fault, and stdout holds its problems
CHILD_SECONDS: Final = 120.0
LARGEST: Final = 100_000_000  # as `written_size` counts; 100,000 keys come to some 30 million


class LoaderError(ConfigError):
    """The child process failed to read the file, and would fail again."""


class LoaderStoppedError(LoaderError):
    """The child process was stopped before it had read the file. Another try may succeed."""


# Values of keys in a published sample: everybody knows them. Only `authz up`, which listens on this machine alone, sets
# the variable that lets them open something.
PUBLISHED: Final = re.compile(r"demo-key-[a-z0-9-]+")
PUBLISHED_IN_PLANS: Final = frozenset(
    digest(f"demo-key-{name}").hex()
    for name in (
        *("tester-00000000", "acme-0000000000", "globex-00000000", "sparrow-0000000", "guest-000000000"),
        *("site-0000000000", "app-00000000000"),
    )
)
TAKES_PUBLISHED: Final = "_AUTHZ_TAKES_PUBLISHED_KEYS"


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

    `stamp` was taken before the file was read, so that a later change is noticed. `published` are the ids of keys that
    were turned off, because a published sample has their values.
    """

    settings: dict[str, Any]
    resources: Resources
    content: str
    stamp: Stamp | None = None
    published: tuple[str, ...] = ()

    @property
    def warning(self) -> str | None:
        """A warning about a file without mistakes, if there is one."""
        if not self.published:
            return None
        names = ", ".join(self.published[:10]) + (", …" if len(self.published) > 10 else "")
        return f"turned off, since their values are a published sample's: the API keys {names}. See `authz new-key`"


def stamp(path: Path) -> Stamp | None:
    """A value that changes with the file: its real path, inode, times and length. None without a file."""
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
    found = [*_file_settings(settings), *faults(document, _Document, "$"), *quota_problems(document)]
    parts = {field: part for field, part in document.items() if field != "settings"}
    resources = Resources() if found else normalised(msgspec.convert(parts, Resources))
    rules = () if found else (*problems(resources), *_mistyped(resources, settings))
    if broken := found or [as_written(problem, document, resources) for problem in rules]:
        raise ConfigError(
            Problem(f"{name}: {problem.address}", problem.rule) for problem in located(broken, document, text)
        )
    published = () if os.environ.get(TAKES_PUBLISHED) else tuple(key.id for key in resources.api_keys if _is_known(key))
    sealed = _sealed(resources, frozenset(published))
    content = hashlib.sha256(msgspec.msgpack.encode(sealed)).hexdigest()[:12]
    return Config(settings, sealed, content, published=published)


def _mistyped(resources: Resources, settings: Mapping[str, Any]) -> Iterator[Problem]:
    """A problem for each clear value in the form of generated keys whose checksum is wrong."""
    form = KeyForm.of(settings.get("keyPrefix", DEFAULT_PREFIX))
    for i, key in enumerate(resources.api_keys if form else ()):
        if form and key.value is not None and (rule := form.problem(key.value)):
            yield Problem(f"$.apiKeys[{i}].value", rule)


def _is_known(key: ApiKey) -> bool:
    """True if the key is enabled and a published sample has its value."""
    if key.value is None:
        return key.enabled and key.value_sha256 in PUBLISHED_IN_PLANS
    return key.enabled and PUBLISHED.fullmatch(key.value) is not None


def _file_settings(settings: Any) -> Iterable[Problem]:
    if not isinstance(settings, dict):
        return ()  # said already: the document's shape is at fault
    try:
        load_settings(settings, {}, {}, "")
    except ConfigError as refused:
        return [Problem(problem.address.removeprefix(": "), problem.rule) for problem in refused.problems]
    return ()


def _sealed(resources: Resources, off: frozenset[str]) -> Resources:
    """The resources with each key's value replaced by its digest: the clear value goes no further than this.

    And with times in UTC, so that one moment in two zones is the same content, and with these keys turned off.
    """
    keys = tuple(
        msgspec.structs.replace(
            key,
            value=None,
            value_sha256=digest_of(key).hex(),
            expires_at=key.expires_at and key.expires_at.astimezone(UTC),
            enabled=key.enabled and key.id not in off,
        )
        for key in resources.api_keys
    )
    return msgspec.structs.replace(resources, api_keys=keys)


# --- YAML ---------------------------------------------------------------------------------------------------------


# YAML 1.1 reads 0100 as 64 and 1:30 as 90, and 1e3 not at all.
INTEGER: Final = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
DECIMAL: Final = re.compile(
    r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
EXPONENT: Final = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+\Z")
DIGITS: Final = 100  # more are no number that anything here can be


class _Loader(TimelessLoader):
    """YAML as JSON knows it: times stay text, numbers are decimal, and a mapping has each key once."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.found: list[tuple[yaml.Node, str]] = []
        self._flat: set[int] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge what `<<` names; but first look at the keys, while they are those that were written."""
        if id(node) not in self._flat:
            self._flat.add(id(node))
            known: set[object] = set()
            for key, _ in node.value:
                if _name(key) in known:
                    self.found.append((key, f"the key {shortened(key.value)} is given twice"))
                known.add(_name(key))
        super().flatten_mapping(node)
        # A key that wins over a merged one stands behind it. Those that lose go, or a few merges of merges, each of
        # one mapping ten times over, would fill the memory.
        node.value = list({_name(key): (key, value) for key, value in node.value}.values())

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        return super().construct_yaml_int(node) if self._is_plain(node, INTEGER) else 0

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        return super().construct_yaml_float(node) if self._is_plain(node, DECIMAL) else 0.0

    def _is_plain(self, node: yaml.ScalarNode, shape: re.Pattern[str]) -> bool:
        """True if a number is plain decimal. Notes a mistake if it isn't."""
        plain = len(node.value) <= DIGITS and shape.fullmatch(node.value) is not None
        if not plain:
            self.found.append((node, "expected a number in decimal without leading zeros, or a text in quotes"))
        return plain


def _name(key: yaml.Node) -> object:
    """The identity of a mapping's key: two equal ones are one key."""
    return (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+.0123456789"))


def _yaml(text: str, name: str) -> dict[Any, Any]:
    loader = _Loader(text)
    try:
        document = loader.get_single_data()
    except (yaml.YAMLError, RecursionError) as fault:
        raise ConfigError([_yaml_problem(fault, text, name)]) from None
    finally:
        loader.dispose()
    if loader.found:
        raise ConfigError(Problem(f"{name}: {_place(node.start_mark)}", rule) for node, rule in loader.found)
    if not isinstance(document, dict):
        rule = "the file is empty" if document is None else "expected a mapping with apis, usagePlans and apiKeys"
        raise ConfigError([Problem(name, rule)])
    try:
        if written_size(document) > LARGEST:
            raise ConfigError([Problem(name, "too large with its aliases written out")])
    except RecursionError:
        raise ConfigError([Problem(name, "nested too deeply, or an alias within what it stands for")]) from None
    return document


def _yaml_problem(fault: Exception, text: str, name: str) -> Problem:
    """YAML's own message without its quotations, which may hold a key's value."""
    if isinstance(fault, RecursionError):
        return Problem(name, "nested too deeply")
    if isinstance(fault, yaml.MarkedYAMLError) and fault.problem_mark:
        place, words = _place(fault.problem_mark), fault.problem or "cannot be read"
    else:
        # A character that YAML does not allow. libyaml counts bytes.
        line = text.encode()[: getattr(fault, "position", 0)].count(b"\n") + 1
        place, words = f"line {line}", getattr(fault, "reason", "cannot be read")
    return Problem(f"{name}: {place}", "not valid YAML: " + re.sub(r"'[^']{4,}'|\"[^\"]{4,}\"", "…", words))


def _place(mark: yaml.Mark) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"


# --- the child ----------------------------------------------------------------------------------------------------


async def load_in_child(path: Path, seconds: float = CHILD_SECONDS) -> Config:
    """`load` in a process of its own, which is killed when the caller is cancelled or the time is up.

    Raises ConfigError, and LoaderError if the process did not get as far as to judge the file.
    """
    command = [sys.executable, "-P", "-m", "authz.config.file", str(path)]  # -P: no modules from the working directory
    pipe = subprocess.PIPE
    # Not by the loop: uvloop forks, which takes tens of ms where there is much memory; this takes less than one.
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)  # noqa: ASYNC220, S603
    try:
        async with asyncio.timeout(seconds):
            output, errors = await in_background(process.communicate)
    except TimeoutError:
        raise LoaderStoppedError([Problem(str(path), f"not read within {seconds:g} s")]) from None
    finally:
        if process.poll() is None:
            process.kill()  # the thread that reads its output then sees it end
    if process.returncode == 0:
        return await in_background(_received, output)
    if process.returncode == REFUSED:
        raise ConfigError(msgspec.msgpack.decode(output, type=list[Problem]))
    ended = LoaderStoppedError if process.returncode is None or process.returncode < 0 else LoaderError
    # With the kind of its last exception only: its message might quote the file.
    last = errors.decode(errors="replace").strip().rpartition("\n")[2].partition(":")[0]
    kind = f" ({last})" if re.fullmatch(r"[\w.]+", last) else ""
    raise ended([Problem(str(path), f"the loader ended with status {process.returncode}{kind}")])


class _Pieces(Struct):
    """A Config in pieces that are decoded one by one, so that 100,000 keys or customers don't hold up the event loop.

    `members` are plans by their position and some of their keys.
    """

    rest: bytes
    plans: list[bytes]
    members: list[bytes]
    keys: list[bytes]
    customers: list[bytes]


def _sent(config: Config) -> bytes:
    found = config.resources
    plans = [msgspec.structs.replace(plan, keys=()) for plan in found.usage_plans]
    members = [(at, part) for at, plan in enumerate(found.usage_plans) for part in _pieces(plan.keys)]
    bare = msgspec.structs.replace(found, usage_plans=(), api_keys=(), customers=())
    encode = msgspec.msgpack.encode
    pieces = _Pieces(
        encode(msgspec.structs.replace(config, resources=bare)),
        [encode(part) for part in _pieces(plans)],
        [encode(member) for member in members],
        [encode(part) for part in _pieces(found.api_keys)],
        [encode(part) for part in _pieces(found.customers)],
    )
    return encode(pieces)


def _received(output: bytes) -> Config:
    decode = msgspec.msgpack.decode
    pieces = decode(output, type=_Pieces)
    keys = [key for piece in pieces.keys for key in decode(piece, type=list[ApiKey])]
    members: dict[int, list[str]] = {}
    for piece in pieces.members:
        at, names = decode(piece, type=tuple[int, list[str]])
        members.setdefault(at, []).extend(names)
    plans = [plan for piece in pieces.plans for plan in decode(piece, type=list[UsagePlan])]
    signed = (msgspec.structs.replace(plan, keys=tuple(members.get(at, ()))) for at, plan in enumerate(plans))
    customers = [customer for piece in pieces.customers for customer in decode(piece, type=list[Customer])]
    config = decode(pieces.rest, type=Config)
    resources = msgspec.structs.replace(
        config.resources, usage_plans=tuple(signed), api_keys=tuple(keys), customers=tuple(customers)
    )
    return msgspec.structs.replace(config, resources=resources)


def _pieces(values: Sequence[T]) -> list[Sequence[T]]:
    return [values[at : at + PIECE] for at in range(0, len(values), PIECE)]


def main(path: str) -> int:
    """Load the file and write the result to stdout as MessagePack. The exit status tells a Config from its mistakes."""
    gc.disable()  # no cycles worth finding, and millions of nodes to look through
    try:
        status, output = 0, _sent(load(Path(path)))
    except ConfigError as refused:
        status, output = REFUSED, msgspec.msgpack.encode(refused.problems)
    sys.stdout.buffer.write(output)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
