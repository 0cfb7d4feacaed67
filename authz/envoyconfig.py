"""Envoy's side of the bargain: a configuration that asks authz about every request and never lets one past it."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import PurePosixPath
from typing import Literal, get_args

from jinja2 import Environment, PackageLoader, StrictUndefined

from authz.core.credentials import IDENTITY
from authz.core.resources import Api, Resources
from authz.core.rules import REQUEST_HEADER
from authz.settings import Settings

Part = Literal["filter", "cluster", "sds-ca", "sds-certificate"]
PARTS: tuple[Part, ...] = get_args(Part)

# What every refusal may need, whatever the file says: gRPC callers, media types, CORS.
ALWAYS_ALLOWED = frozenset(
    {"accept", "access-control-request-headers", "access-control-request-method", "content-type", "origin"}
)
# What a browser may send, beside the headers that carry keys (AWS's own default list).
CORS_HEADERS = frozenset({"authorization", "content-type", "x-amz-date", "x-amz-security-token"})
THIS_MACHINE = ("127.0.0.1", "localhost")


@dataclass(frozen=True, slots=True)
class Tls:
    """How Envoy knows authz, and what it shows itself: files (PEM) where Envoy runs.

    `name` is in authz's certificate: a DNS name, an address or a URI. Without a `certificate` Envoy shows none.
    """

    ca: str
    name: str
    certificate: str | None = None
    key: str | None = None
    sds: str = "/etc/envoy"  # the directory of the files that `sds-ca` and `sds-certificate` print

    def __post_init__(self) -> None:
        """Raises ValueError for a pair that Envoy could not keep up with."""
        if bool(self.certificate) != bool(self.key):
            raise ValueError("expected --tls-cert and --tls-key together: a certificate and its key")
        if self.certificate and self.key and PurePosixPath(self.certificate).parent != PurePosixPath(self.key).parent:
            raise ValueError("expected --tls-cert and --tls-key in one directory: Envoy watches one")

    @property
    def san_type(self) -> str:
        """As Envoy names the kind of `name`."""
        if "://" in self.name:
            return "URI"
        return "IP_ADDRESS" if _is_ip(self.name) else "DNS"

    def sds_file(self, of: str) -> str:
        """The path of the file that names the `ca` or the `certificate`."""
        return str(PurePosixPath(self.sds, f"authz-{of}.yaml"))


@dataclass(frozen=True, slots=True)
class EnvoyOptions:
    """Where Envoy listens and whom it calls. An address is `host:port` or `unix:/path`; `authz` has one a worker."""

    listen: str = "127.0.0.1:10000"
    admin: str | None = "127.0.0.1:9901"
    stats_listen: str | None = None  # for Prometheus: of the administration interface nothing else is reached there
    upstream: str = "127.0.0.1:8080"
    authz: tuple[str, ...] = ("127.0.0.1:50051",)
    timeout_ms: int = 200
    tls: Tls | None = None  # to authz
    cors_origins: tuple[str, ...] = ()
    only: Part | None = None
    store: bool = False  # whether authz has APIs besides the file's
    max_in_flight: int = Settings().max_in_flight
    retry_after: bool = True  # with what Envoy refuses because of authz; AWS does not send it

    @property
    def max_requests(self) -> int:
        """Checks that all workers can work on at once."""
        return self.max_in_flight * len(self.authz)


@dataclass(frozen=True, slots=True)
class Address:
    """A socket as Envoy names it: a host and port, or a path."""

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raises ValueError for what is neither `host:port` nor `unix:/path`."""
        if text.startswith("unix:"):
            return cls(path=text.removeprefix("unix:"))
        host, _, port = text.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"{text!r} is neither host:port nor unix:/path")
        return cls(host.removeprefix("[").removesuffix("]"), int(port))

    @property
    def is_name(self) -> bool:
        """Whether somebody has to resolve it."""
        return not self.path and not _is_ip(self.host)


@dataclass(frozen=True, slots=True)
class Upstream:
    """The endpoints of one cluster, and how Envoy finds them."""

    endpoints: tuple[Address, ...]
    type: str

    @classmethod
    def of(cls, addresses: Iterable[str]) -> Upstream:
        """Raises ValueError where one cluster cannot hold all of the addresses."""
        endpoints = tuple(map(Address.parse, addresses))
        if not endpoints:
            raise ValueError("expected at least one address of authz")
        by_name = any(endpoint.is_name for endpoint in endpoints)
        if by_name and any(endpoint.path for endpoint in endpoints):
            raise ValueError("a cluster holds host names or Unix sockets, not both")
        return cls(endpoints, "STRICT_DNS" if by_name else "STATIC")


@dataclass(frozen=True, slots=True)
class Route:
    """A base path of a host, and the API it belongs to; "" is the whole host."""

    base_path: str
    api: str | None


@dataclass(frozen=True, slots=True)
class VirtualHost:
    """The hosts that reach the same APIs. `api` holds wherever no route says otherwise."""

    name: str
    domains: tuple[str, ...]
    api: str | None
    routes: tuple[Route, ...] = ()


def render(resources: Resources, options: EnvoyOptions) -> str:
    """The whole configuration, or the one part that `only` names.

    Raises ValueError for an address that is none, and for statistics without the interface that they come from.
    """
    if options.stats_listen and not options.admin:
        raise ValueError("statistics come from the administration interface, so it needs an address")
    # An API of the store has the key sources of one that says nothing.
    apis = (*resources.apis, Api(id="stored")) if options.store else resources.apis
    template = f"{options.only or 'envoy'}.yaml.j2"
    if options.only in ("sds-ca", "sds-certificate") and not options.tls:
        raise ValueError(f"--only {options.only} prints nothing without --tls")
    if options.only == "sds-certificate" and not (options.tls and options.tls.certificate):
        raise ValueError("--only sds-certificate prints nothing without --tls-cert")
    return (
        _templates()
        .get_template(template)
        .render(
            options=options,
            tls=options.tls,
            listen=Address.parse(options.listen),
            admin=Address.parse(options.admin) if options.admin else None,
            stats=Address.parse(options.stats_listen) if options.stats_listen else None,
            admin_cluster=Upstream.of([options.admin]) if options.admin else None,
            authz=Upstream.of(options.authz),
            upstream=Upstream.of([options.upstream]),
            virtual_hosts=virtual_hosts(resources.apis, stored=options.store),
            allowed_headers=allowed_headers(apis),
            # What is left of Cookie is written anew: as text, Envoy has already changed bytes that are none.
            raw_headers="cookie" in allowed_headers(apis),
            lookalikes=lookalikes(apis),
            metadata_namespaces=metadata_namespaces(apis),
            cors_headers=sorted(CORS_HEADERS | set(_key_headers(apis))),
            # A cookie is only sent along if the server says so, and "*" would say so to every site there is.
            cors_credentials="cookie" in allowed_headers(apis) and "*" not in options.cors_origins,
        )
    )


def allowed_headers(apis: Iterable[Api]) -> list[str]:
    """The only request headers that authz is shown: what it reads, and nothing of what is none of its business."""
    apis = tuple(apis)
    cookie = {"cookie" for api in apis for source in api.key_sources if source.cookie}
    return sorted(ALWAYS_ALLOWED | cookie | set(_key_headers(apis)) | set(_mapped_headers(apis)))


def lookalikes(apis: Iterable[Api]) -> list[str]:
    """The headers that CGI and WSGI read as the ones only authz may set; empty if all with an underscore can go."""
    if not any("_" in header for header in allowed_headers(apis)):
        return []
    return [spelling for name in IDENTITY for spelling in _spellings(name) if spelling != name]


def _spellings(name: str) -> Iterator[str]:
    """`a-b-c`, `a-b_c`, `a_b-c`, `a_b_c`."""
    first, *rest = name.split("-")
    return (first + "".join(map("".join, zip(marks, rest, strict=True))) for marks in product("-_", repeat=len(rest)))


def metadata_namespaces(apis: Iterable[Api]) -> list[str]:
    """Where filters before ours leave a key that they verified."""
    return sorted({api.authorizer.namespace for api in apis if api.api_key_source == "AUTHORIZER"})


def virtual_hosts(apis: tuple[Api, ...], *, stored: bool = False) -> list[VirtualHost]:
    """One for each host that an API names, and one for all others, which names an API only if there is just one.

    Beside `stored` APIs, which are reached by their ids, the only one here keeps the names of this machine.
    """
    hosts: dict[str, list[Route]] = {}
    for api in apis:
        for host in api.hosts:
            base_path = "/".join(filter(None, host.base_path.split("/")))
            hosts.setdefault(host.host.lower(), []).append(Route(base_path, api.id))
    only = apis[0].id if len(apis) == 1 else None
    if stored and only:
        for name in THIS_MACHINE:
            hosts.setdefault(name, [Route("", only)])
    others = VirtualHost("any other host", ("*",), None if stored else only)
    return [*(_virtual_host(name, hosts[name]) for name in sorted(hosts)), others]


def _virtual_host(host: str, routes: list[Route]) -> VirtualHost:
    """The longest base path comes first: Envoy takes the first route that matches."""
    whole = next((route.api for route in routes if not route.base_path), None)
    below = sorted(
        (route for route in routes if route.base_path), key=lambda route: (-len(route.base_path), route.base_path)
    )
    return VirtualHost(host, (host, f"{host}:*"), whole, tuple(below))


def _key_headers(apis: Iterable[Api]) -> Iterator[str]:
    return (source.header.lower() for api in apis for source in api.key_sources if source.header)


def _mapped_headers(apis: Iterable[Api]) -> Iterator[str]:
    """The request headers that gateway responses quote."""
    for response in (r for api in apis for stage in api.stages for r in stage.gateway_responses.values()):
        for text in (*response.response_parameters.values(), *response.response_templates.values()):
            yield from (name.lower() for name in REQUEST_HEADER.findall(text))
            if "context.identity.userAgent" in text:
                yield "user-agent"


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("authz"),
        autoescape=False,  # noqa: S701  (this is YAML; every value goes through `quoted`)
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["quoted"] = lambda value: json.dumps(value, ensure_ascii=False)
    environment.filters["directory"] = lambda path: str(PurePosixPath(path).parent)
    environment.filters["seconds"] = lambda milliseconds: f"{milliseconds / 1000:g}s"
    return environment
