"""Envoy's configuration: it sends every request to authz, and lets none past it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, TypeVar, get_args

from jinja2 import Environment, PackageLoader, StrictUndefined

from authz.config.settings import Settings
from authz.core import sources
from authz.core.address import Address, is_ip
from authz.core.credentials import LOOKALIKES
from authz.core.resources import Api, Deployment, Resources
from authz.core.rules import REQUEST_HEADER

T = TypeVar("T")
V = TypeVar("V")
Part = Literal["filter", "cluster", "sds-ca", "sds-certificate"]
PARTS: tuple[Part, ...] = get_args(Part)

# What every refusal may need, whatever the file says: gRPC callers, media types, CORS.
ALWAYS_ALLOWED = frozenset(
    {"accept", "access-control-request-headers", "access-control-request-method", "content-type", "origin"}
)
# What a browser may send, beside the headers that carry keys: AWS's own default list, and what gRPC-Web sends.
CORS_HEADERS = frozenset(
    {
        "authorization",
        "content-type",
        "grpc-timeout",
        "x-amz-date",
        "x-amz-security-token",
        "x-grpc-web",
        "x-user-agent",
    }
)
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?")
DEFAULT_PORTS = {"http": ":80", "https": ":443"}
THIS_MACHINE = ("127.0.0.1", "localhost")


@dataclass(frozen=True, slots=True)
class Tls:
    """How Envoy verifies authz, and the certificate that it presents: files (PEM) where Envoy runs.

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
        return "IP_ADDRESS" if is_ip(self.name) else "DNS"

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
    namespaces: tuple[str, ...] = ()  # of dynamic metadata, beside those of the file
    filters: str = ""  # HTTP filters to put before the check: a list in YAML
    trusted_hops: int = 0  # proxies of the operator's before Envoy; each adds an address to x-forwarded-for

    @property
    def max_requests(self) -> int:
        """Checks that all workers can work on at once."""
        return self.max_in_flight * len(self.authz)


def _listening(text: str) -> Address:
    """An address on which Envoy can listen. Raises ValueError, also for a name, which Envoy does not look up."""
    address = Address.parse(text)
    if address.is_name:
        ip = "127.0.0.1" if address.host == "localhost" else "0.0.0.0"  # noqa: S104
        raise ValueError(f"expected an IP address, such as {ip}:{address.port}, got {text!r}")
    return address


def _called(text: str) -> Address:
    """An address that Envoy can call. Raises ValueError, also for port 0."""
    address = Address.parse(text)
    if address.is_any_port:
        raise ValueError(f"expected a port other than 0, got {text!r}")
    return address


@dataclass(frozen=True, slots=True)
class Upstream:
    """The endpoints of one cluster, and how Envoy finds them."""

    endpoints: tuple[Address, ...]
    type: str

    @classmethod
    def of(cls, addresses: Iterable[str]) -> Upstream:
        """Raises ValueError where one cluster cannot hold all of the addresses."""
        endpoints = tuple(map(_called, addresses))
        if not endpoints:
            raise ValueError("expected at least one address of authz")
        by_name = any(endpoint.is_name for endpoint in endpoints)
        if by_name and any(endpoint.path for endpoint in endpoints):
            raise ValueError("a cluster holds host names or Unix sockets, not both")
        return cls(endpoints, "STRICT_DNS" if by_name else "STATIC")


@dataclass(frozen=True, slots=True)
class BasePathRoute:
    """A base path of a host, and the API it belongs to; "" is the whole host."""

    base_path: str
    api: str | None


@dataclass(frozen=True, slots=True)
class VirtualHost:
    """The hosts that reach the same APIs. `api` holds wherever no route says otherwise."""

    name: str
    domains: tuple[str, ...]
    api: str | None
    routes: tuple[BasePathRoute, ...] = ()


def render(resources: Resources, options: EnvoyOptions) -> str:
    """The whole configuration, or the one part that `only` names.

    Raises ValueError for an address that is none, and for statistics without the interface that they come from.
    """
    if options.stats_listen and not options.admin:
        raise ValueError("statistics come from the administration interface, so it needs an address")
    for origin in options.cors_origins:
        _check_origin(origin)
    listen, admin, stats = _listeners(options)
    # An API of the store has the key sources of one that says nothing.
    apis = (*resources.apis, Api(id="stored")) if options.store else resources.apis
    template = f"{options.only or 'envoy'}.yaml.j2"
    if options.trusted_hops and options.only not in (None, "filter"):
        raise ValueError(f"--only {options.only} prints no filters, so --trusted-hops would do nothing")
    if options.filters and options.only not in (None, "filter"):
        raise ValueError(f"--only {options.only} prints no filters, so --filters would do nothing")
    if options.only in ("sds-ca", "sds-certificate") and not options.tls:
        raise ValueError(f"--only {options.only} prints nothing without --tls")
    if options.only == "sds-certificate" and not (options.tls and options.tls.certificate):
        raise ValueError("--only sds-certificate prints nothing without --tls-cert")
    return (
        _templates()
        .get_template(template)
        .render(
            options=options,
            filters=options.filters,
            client_namespace=sources.NAMESPACE,
            client_field=sources.FIELD,
            tls=options.tls,
            listen=listen,
            admin=admin,
            stats=stats,
            admin_cluster=Upstream.of([options.admin]) if options.admin and stats else None,
            authz=_named("--authz", Upstream.of, options.authz),
            upstream=_named("--upstream", Upstream.of, [options.upstream]),
            virtual_hosts=virtual_hosts(resources.apis, stored=options.store),
            allowed_headers=allowed_headers(apis),
            # The rest of Cookie is written anew, and in text form Envoy has already changed bytes that are not UTF-8.
            raw_headers="cookie" in allowed_headers(apis),
            lookalikes=LOOKALIKES,
            underscores=any("_" in header for header in allowed_headers(apis)),
            metadata_namespaces=sorted({*metadata_namespaces(apis), *options.namespaces}),
            cors_headers=sorted(CORS_HEADERS | set(_key_headers(apis))),
            # A cookie is only sent along if the server says so, and "*" would say so to every site there is.
            cors_credentials="cookie" in allowed_headers(apis) and "*" not in options.cors_origins,
        )
    )


def _listeners(options: EnvoyOptions) -> tuple[Address, Address | None, Address | None]:
    """Envoy's own addresses: for clients, administration and statistics. Raises ValueError where two are the same."""
    flags = {"--listen": options.listen, "--admin": options.admin, "--stats-listen": options.stats_listen}
    found = {flag: _named(flag, _listening, text) for flag, text in flags.items() if text}
    taken: dict[Address, str] = {}
    for flag, address in found.items():
        if taken.setdefault(address, flag) != flag and (address.path or address.port):
            raise ValueError(f"{flag}: expected another address than {taken[address]}, which is {flags[flag]}")
    if _named("--upstream", Address.parse, options.upstream) in taken:
        raise ValueError(f"--upstream: expected the address of your API, got Envoy's own, {options.upstream}")
    return found["--listen"], found.get("--admin"), found.get("--stats-listen")


def _named(flag: str, parse: Callable[[T], V], given: T) -> V:
    """The parsed value; a ValueError names the flag."""
    try:
        return parse(given)
    except ValueError as error:
        raise ValueError(f"{flag}: {error}") from None


def _check_origin(origin: str) -> None:
    """Raises ValueError for a value that no browser sends as `Origin`, with the probable correction."""
    if origin == "*":
        return
    scheme, _, rest = origin.rstrip("/").lower().rpartition("://")
    scheme = scheme or "https"
    meant = f"{scheme}://{rest.partition('/')[0].removesuffix(DEFAULT_PORTS.get(scheme, '/'))}"
    if origin != meant or not ORIGIN.fullmatch(origin):
        hint = f"; say {meant}" if ORIGIN.fullmatch(meant) else ""
        raise ValueError(
            "--cors-origin: expected an origin as browsers send it, scheme://host in lower case, with a port only "
            f"where it is not the scheme's own, got {origin!r}{hint}"
        )


def allowed_headers(apis: Iterable[Api]) -> list[str]:
    """The request headers that Envoy sends to authz: only those that the configuration reads."""
    apis = tuple(apis)
    cookie = {"cookie" for api in apis for source in api.key_sources if source.cookie}
    return sorted(ALWAYS_ALLOWED | cookie | set(_key_headers(apis)) | set(_mapped_headers(apis)))


def metadata_namespaces(apis: Iterable[Api]) -> list[str]:
    """The namespaces of dynamic metadata that authz reads."""
    apis = tuple(apis)
    return sorted({*key_namespaces(apis), *cost_namespaces(apis)})


def key_namespaces(apis: Iterable[Api]) -> list[str]:
    """Where filters before ours leave a key that they verified."""
    served = (one for api in apis for one in _served(api))
    return sorted({one.authorizer.namespace for one in served if one.api_key_source == "AUTHORIZER"})


def cost_namespaces(apis: Iterable[Api]) -> list[str]:
    """Where filters before ours leave the cost of a call."""
    served = [one for api in apis for one in _served(api)]
    methods = (method for one in served for verbs in one.resources.values() for method in verbs.values())
    return sorted({one.cost_from.metadata[0] for one in (*served, *methods) if one.cost_from})


def _served(api: Api) -> Iterator[Api | Deployment]:
    """The API, and each version of it that a stage serves in its place."""
    yield api
    yield from (stage.deployment for stage in api.stages if stage.deployment)


def virtual_hosts(apis: tuple[Api, ...], *, stored: bool = False) -> list[VirtualHost]:
    """One for each host that an API names, and one for all others, which names an API only if there is just one.

    Beside `stored` APIs, which are reached by their ids, the only one here keeps the names of this machine.
    """
    hosts: dict[str, list[BasePathRoute]] = {}
    for api in apis:
        for host in api.hosts:
            base_path = "/".join(filter(None, host.base_path.split("/")))
            hosts.setdefault(host.host.lower(), []).append(BasePathRoute(base_path, api.id))
    only = apis[0].id if len(apis) == 1 else None
    if stored and only:
        for name in THIS_MACHINE:
            hosts.setdefault(name, [BasePathRoute("", only)])
    found = []
    for name, routes in sorted(hosts.items()):
        whole = next((route.api for route in routes if not route.base_path), None)
        # The longest base path comes first: Envoy takes the first route that matches.
        routes.sort(key=lambda route: (-len(route.base_path), route.base_path))
        found.append(VirtualHost(name, (name,), whole, tuple(route for route in routes if route.base_path)))
    return [*found, VirtualHost("any other host", ("*",), None if stored else only)]


def _key_headers(apis: Iterable[Api]) -> Iterator[str]:
    return (source.header.lower() for api in apis for source in api.key_sources if source.header)


def _mapped_headers(apis: Iterable[Api]) -> Iterator[str]:
    """The request headers that gateway responses quote."""
    for response in (r for api in apis for stage in api.stages for r in stage.gateway_responses.values()):
        for text in (*response.response_parameters.values(), *response.response_templates.values()):
            yield from (name.lower() for name in REQUEST_HEADER.findall(text))
            if "context.identity.userAgent" in text:
                yield "user-agent"


def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("authz.envoy"),
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
