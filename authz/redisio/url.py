"""Reads URLs of Redis. They name one server, as redis-py's URLs do, or Sentinels or a cluster that know the master."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final, Literal
from urllib.parse import parse_qsl, quote, unquote, urlsplit

Address = tuple[str, int]

MAX_WORDS: Final = 300  # characters of an error that logs and answers show
# Our exceptions, whose text `in_words` has made already.
_WRAPPERS: Final = frozenset({"ConnectionLost", "LimiterUnavailable", "StoreUnavailable"})
# A server that does not know AUTH repeats the arguments of the command, and so the password.
_ECHOED: Final = re.compile(r",? with args beginning with:.*", re.DOTALL)

OPTIONS: Final = frozenset({"username", "password"})
TLS_OPTIONS: Final = frozenset(
    {"ssl_ca_certs", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile"}
)
TLS_VALUES: Final = {
    "ssl_cert_reqs": ("none", "optional", "required"),
    "ssl_check_hostname": ("true", "false"),
}
SENTINEL_OPTIONS: Final = frozenset({"sentinel_username", "sentinel_password"})
SECRETS: Final = ("password", "sentinel_password")

_LED: Final = re.compile(
    r"(?P<scheme>rediss?)\+(?P<kind>sentinel|cluster)://(?P<login>[^@/?]*@)?(?P<hosts>[^@/?]*)"
    r"(?P<path>/[^?]*)?(?:\?(?P<query>.*))?"
)
_ADDRESS: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?")
_SERVICE: Final = re.compile(r"/([A-Za-z0-9._-]+)(?:/([0-9]*))?")
_DEFAULT_PORTS: Final = {"sentinel": 26379, "cluster": 6379}
_QUOTE: Final = "percent-encode special characters of the password"


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A parsed URL.

    `node` is the URL of one server, with login, database and options, in the form that redis-py reads. `seeds` are the
    Sentinels or cluster nodes to query for the master. `service` is the name under which Sentinels know the master.
    `login` is the user name and the password for Sentinels; each may be empty.
    """

    kind: Literal["server", "sentinel", "cluster"]
    node: str
    seeds: tuple[Address, ...] = ()
    service: str = ""
    login: tuple[str, str] = ("", "")


def read_url(url: str) -> RedisUrl:
    """Parse a URL. Raises ValueError with the rule that the URL breaks, but without the URL: it may hold a password."""
    if not url.isprintable() or url != url.strip() or "#" in url:
        raise ValueError(f"expected a URL without control characters, spaces around it and #; {_QUOTE}")
    if not url.startswith(tuple(f"{scheme}+{kind}:" for scheme in ("redis", "rediss") for kind in _DEFAULT_PORTS)):
        return RedisUrl("server", _checked(url, {"db"}))
    parts = _LED.fullmatch(url)
    if parts is None:
        raise ValueError(f"expected hosts: redis+sentinel://host:port,host:port/name/db; {_QUOTE}")
    return _read_sentinel(parts) if parts["kind"] == "sentinel" else _read_cluster(parts)


def _read_sentinel(parts: re.Match[str]) -> RedisUrl:
    seeds = _addresses(parts["hosts"], _DEFAULT_PORTS["sentinel"])
    found = _SERVICE.fullmatch(parts["path"] or "")
    if found is None:
        raise ValueError(f"expected the master's name after the hosts: redis+sentinel://host:port/name/db; {_QUOTE}")
    given = (parts["query"] or "").split("&")
    kept = "&".join(pair for pair in given if unquote(pair.partition("=")[0]) not in SENTINEL_OPTIONS)
    told = dict(parse_qsl(parts["query"] or "", keep_blank_values=True))
    login = (told.get("sentinel_username", ""), told.get("sentinel_password", ""))
    return RedisUrl("sentinel", _node(parts, seeds[0], found[2] or "", kept), seeds, found[1], login)


def _read_cluster(parts: re.Match[str]) -> RedisUrl:
    seeds = _addresses(parts["hosts"], _DEFAULT_PORTS["cluster"])
    if parts["path"] not in (None, "/", "/0"):
        raise ValueError(f"expected no database after the hosts: a cluster has number 0 alone; {_QUOTE}")
    return RedisUrl("cluster", _node(parts, seeds[0], "", parts["query"] or ""), seeds)


def _node(parts: re.Match[str], address: Address, db: str, query: str) -> str:
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    login = parts["login"] or ""
    return _checked(f"{parts['scheme']}://{login}{host}:{address[1]}/{db}{query and '?'}{query}", set())


def _addresses(hosts: str, default_port: int) -> tuple[Address, ...]:
    addresses = []
    for host in hosts.split(","):
        found = _ADDRESS.fullmatch(host)
        port = int(found[3] or default_port) if found else 0
        if found is None or not 0 < port <= 65535:
            raise ValueError(f"expected each host as host:port, with commas between them; {_QUOTE}")
        if found[1]:
            try:
                IPv6Address(found[1])
            except ValueError:
                raise ValueError("expected an IPv6 address in the brackets") from None
        addresses.append((found[1] or found[2], port))
    return tuple(addresses)


def _checked(url: str, more: set[str]) -> str:
    """Return the URL of one server if it keeps the rules. Raises ValueError with the rule that it breaks."""
    try:
        parts = urlsplit(url)
        port_fits = parts.port is None or parts.port > 0
    except ValueError:
        raise ValueError(f"expected a URL with a host and a port number; {_QUOTE}") from None
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError(
            "expected a URL that begins with redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://"
        )
    if parts.scheme == "unix" and not parts.path.strip("/"):
        raise ValueError("expected the path of a socket: unix:///path?db=0")
    if parts.scheme != "unix" and not (parts.hostname and port_fits):
        raise ValueError("expected a host: redis://host:port/db")
    if parts.scheme != "unix" and not re.fullmatch(r"(/[0-9]{0,9})?", parts.path):
        raise ValueError(f"expected the number of a database after the slash; {_QUOTE}")
    if parts.scheme != "unix" and re.search(r"[\s,;|*]", parts.hostname or ""):
        raise ValueError("expected one host; several are named with redis+sentinel:// or redis+cluster://")
    known = OPTIONS | more | (TLS_OPTIONS if parts.scheme == "rediss" else set())
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    if given.keys() - known:
        raise ValueError(f"expected no options but {', '.join(sorted(known))} after the question mark")
    if len(given) < len(parse_qsl(parts.query, keep_blank_values=True)):
        raise ValueError("expected each option once after the question mark")
    if not re.fullmatch(r"[0-9]{1,9}", given.get("db", "0")):
        raise ValueError("expected a number for the option db")
    _check_tls_options(given)
    return url


def _check_tls_options(given: Mapping[str, str]) -> None:
    for name, values in TLS_VALUES.items():
        if name in given and given[name] not in values:
            raise ValueError(f"expected {', '.join(values[:-1])} or {values[-1]} for {name}, got {given[name]!r:.60}")
    if "ssl_keyfile" in given and "ssl_certfile" not in given:
        raise ValueError("expected ssl_certfile beside ssl_keyfile: the certificate of that key")


def check_tls_files(url: str) -> None:
    """Raises ValueError, with the option and the reason, if a file that the URL names cannot be used for TLS."""
    given = dict(parse_qsl(urlsplit(read_url(url).node).query))
    trusted, own, key = given.get("ssl_ca_certs"), given.get("ssl_certfile"), given.get("ssl_keyfile")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if trusted is not None:
        _try("ssl_ca_certs", trusted, lambda: context.load_verify_locations(trusted))
    if (directory := given.get("ssl_ca_path")) is not None:
        _try("ssl_ca_path", directory, lambda: os.listdir(directory))  # noqa: PTH208  (the word of the URL as it is)
    if own is not None:
        files = own if key is None else f"{own} with ssl_keyfile {key}"
        # Without a password, OpenSSL would prompt for that of an encrypted key.
        _try("ssl_certfile", files, lambda: context.load_cert_chain(own, key, password=""))


def _try(option: str, value: str, read: Callable[[], object]) -> None:
    try:
        read()
    except OSError as error:  # the file cannot be read, or OpenSSL refuses its content
        raise ValueError(f"expected files that can be read: {option} {value}: {error.strerror or error}") from None


def with_password(url: str, password: str) -> str:
    """Return the URL with this password for the server, percent-encoded. Sentinels have a password of their own.

    Raises ValueError if the URL already has a password, or breaks a rule.
    """
    read_url(url)
    head, mark, query = url.partition("?")
    scheme, _, rest = head.partition("://")
    netloc, slash, path = rest.partition("/")
    user, _, hosts = netloc.rpartition("@")
    if ":" in user or "password" in dict(parse_qsl(query, keep_blank_values=True)):
        raise ValueError("expected no password in redisUrl beside redisPasswordFile")
    return f"{scheme}://{user}:{quote(password, safe='')}@{hosts}{slash}{path}{mark}{query}"


def mask_url(url: str) -> str:
    """Return the URL with `***` in place of each password. A URL that breaks a rule becomes `***` as a whole."""
    try:
        read_url(url)
    except ValueError:
        return "***"
    head, mark, query = url.partition("?")
    scheme, colon, rest = head.partition("://")
    netloc, slash, path = rest.partition("/")
    userinfo, at, hosts = netloc.rpartition("@")
    user, has_password, _ = userinfo.partition(":")
    pairs = []
    for pair in query.split("&"):
        name = pair.partition("=")[0]
        pairs.append(f"{name}=***" if unquote(name) in SECRETS else pair)
    shown = f"{scheme}{colon}{user}{has_password and ':***'}{at}{hosts}{slash}{path}"
    return shown + mark + "&".join(pairs)


def in_words(error: BaseException) -> str:
    """Describe an error of Redis or of the connection for logs and answers: never with a password, never empty."""
    said = _ECHOED.sub("", " ".join(str(error).split()))[:MAX_WORDS]
    name = type(error).__name__
    if not said:
        return "TimeoutError: no answer in time" if isinstance(error, TimeoutError) else name
    return said if name in _WRAPPERS else f"{name}: {said}"
