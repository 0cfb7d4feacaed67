"""Lines of Envoy's access log, in the format that `authz envoy-config` prints: reads one, or finds one by its id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, Final

import msgspec
from msgspec import Struct

from authz.config.faults import ConfigError
from authz.core.problem import Problem
from authz.core.request import NOTHING, Request

MAX_LINE: Final = 256 * 1024  # bytes; Envoy's headers are 60 KiB together
REQUIRED: Final = ("method", "host", "path")
HOLDS: Final = "expected a JSON object, as the access log that `authz envoy-config` prints has one in each line"


class Told(Struct, frozen=True):
    """The part `authz` of a line: what authz said of the request then. It has a key's id, and never a key."""

    decision: str = ""
    reason: str = ""
    layer: str = ""
    api: str = ""
    stage: str = ""
    resource: str = ""
    plan: str = ""
    key_id: str = ""
    cost: float = 1  # not in the line where it is 1
    source: str = ""  # the client's address, if the request was refused because of it


class LogLine(Struct, frozen=True):
    """A request that Envoy has answered, as its access log has it: without headers, and commonly without a query."""

    method: str
    host: str
    path: str
    time: str | None = None
    status: int | None = None
    request_id: str | None = None
    amzn_request_id: str | None = None
    authz: Told | None = None

    def request(
        self, headers: Mapping[str, str], extensions: Mapping[str, str], metadata: Mapping[str, Any] = NOTHING
    ) -> Request:
        """The request, with what the caller of this function knows beyond the line."""
        source = self.authz.source if self.authz else ""
        return Request(self.method.upper(), self.host, self.path, headers, extensions, metadata, source=source)


def parse(text: str | bytes, where: str) -> LogLine:
    """Read one line. Raises ConfigError, which names the field and quotes nothing: another format may hold a key."""
    return checked(_fields(text, where), where)


def read_one(file: BinaryIO, where: str) -> LogLine:
    """Read a file that has one line. Raises ConfigError."""
    lines = [(number, line) for number, line in _lines(file, 3) if line is None or line.strip()]
    if len(lines) != 1:
        fault = "nothing there" if not lines else "more than one line; --request-id with --access-log picks one"
        raise _fault(where, fault)
    [(_, line)] = lines
    if line is None:
        raise _fault(where, f"longer than {MAX_LINE} bytes")
    return parse(line, where)


def find(file: BinaryIO, name: str, request_id: str) -> LogLine:
    """Find the last line whose `amzn_request_id` or `request_id` is this. Raises ConfigError where there is none."""
    wanted = request_id.strip().lower()
    if not wanted:
        raise _fault("--request-id", "expected the x-amzn-requestid of an answer, got ''")
    found: tuple[dict[str, Any], str] | None = None
    fault: ConfigError | None = None
    too_long = 0
    for number, line in _lines(file):
        if line is None:
            too_long += 1
        elif wanted.encode() in line.lower():
            where = f"{name}:{number}"
            try:
                fields = _fields(line, where)
            except ConfigError as error:
                fault = error
                continue
            # A path may hold the id too, and its caller chose the path.
            if wanted in (_lower(fields.get("amzn_request_id")), _lower(fields.get("request_id"))):
                found = fields, where
    if found:
        return checked(*found)
    if fault:
        raise fault
    skipped = f"; lines of more than {MAX_LINE} bytes were skipped: {too_long}" if too_long else ""
    raise _fault(name, f"no line has this id as its amzn_request_id or request_id{skipped}")


def _lines(file: BinaryIO, most: int | None = None) -> Iterator[tuple[int, bytes | None]]:
    """Each line with its number, up to `most` lines; None for one that is too long."""
    number = 0
    while (most is None or number < most) and (line := file.readline(MAX_LINE + 1)):
        number += 1
        whole = len(line) <= MAX_LINE
        while not whole and line and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE)
        yield number, line if whole else None


def _fields(text: str | bytes, where: str) -> dict[str, Any]:
    """The object in a line. What `docker compose logs` writes before it is passed over."""
    raw = text.encode("utf-8", "replace") if isinstance(text, str) else text
    if len(raw) > MAX_LINE:
        raise _fault(where, f"longer than {MAX_LINE} bytes")
    try:
        fields = msgspec.json.decode(raw[max(raw.find(b"{"), 0) :])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _fault(where, f"not JSON; {HOLDS}") from None
    if not isinstance(fields, dict):
        raise _fault(where, HOLDS)
    return fields


def checked(fields: Mapping[str, Any], where: str) -> LogLine:
    """The line of these fields. Raises ConfigError, as `parse`."""
    missing = [name for name in REQUIRED if fields.get(name) in (None, "", "-")]
    if missing:
        raise ConfigError(
            Problem(f"{where}: {name}", f"not in the line, or empty; {HOLDS}, with {', '.join(REQUIRED)}")
            for name in missing
        )
    try:
        line = msgspec.convert(fields, LogLine, strict=False)
    except msgspec.ValidationError as error:
        raise _fault(where, str(error)) from None
    told = line.authz or Told()
    texts = {name: getattr(line, name) for name in (*REQUIRED, "time")}
    texts |= {f"authz.{name}": getattr(told, name) for name in Told.__struct_fields__}
    odd = [name for name, text in texts.items() if isinstance(text, str) and not text.isprintable()]
    if odd:  # they would reach a terminal
        raise ConfigError(Problem(f"{where}: {name}", "has characters that cannot be printed") for name in odd)
    return line


def _fault(where: str, rule: str) -> ConfigError:
    return ConfigError([Problem(where, rule)])


def _lower(value: object) -> str:
    return value.lower() if isinstance(value, str) else ""
