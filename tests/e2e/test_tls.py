"""Envoy asks authz over TLS: who is let in, who is believed, and certificates that change while calls go on."""

from __future__ import annotations

import socket
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from signal import SIGHUP
from typing import Any, Final, Literal
from uuid import uuid4

import grpc
import httpx
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from grpc_health.v1 import health_pb2, health_pb2_grpc

from authz.config.file import load
from authz.envoy.config import EnvoyOptions, Part, Tls, render
from tests.e2e.stack import FLAGS, write
from tests.support.builders import resources, value_of
from tests.support.certificates import DAY, NAME, Authority, Pair, PrivateKey
from tests.support.servers import (
    HOST,
    AuthzServer,
    EchoServer,
    EnvoyServer,
    Host,
    RedisServer,
    authz_serve,
    envoy,
    free_port,
    until,
)

How = Literal["a swapped symlink", "files moved one by one"]

CA, CERTIFICATE, KEY = "ca.crt", "tls.crt", "tls.key"  # as a Kubernetes secret has them
PEOPLE: Final = 2  # who send requests while certificates change
NUMBERS: Final = count(1)


@dataclass
class Place:
    """A directory with a pair and CAs, and how it is changed."""

    path: Path
    how: How = "files moved one by one"

    def put(self, pair: Pair, *authorities: Authority) -> None:
        """The pair, and a bundle with these CAs."""
        bundle = b"".join(authority.pem for authority in authorities)
        files = {CERTIFICATE: pair.certificate, KEY: pair.key, CA: bundle}
        self.path.mkdir(exist_ok=True)
        if self.how == "a swapped symlink":
            self._swap(files)
        else:
            for name, content in files.items():
                self.move(name, content)

    def move(self, name: str, content: bytes) -> None:
        made = self.path / f".{name}"
        made.write_bytes(content)
        made.replace(self.path / name)

    def _swap(self, files: dict[str, bytes]) -> None:
        """As the kubelet does it: names lead through `..data`, which is replaced in one step."""
        version = self.path / f"..{next(NUMBERS)}"
        version.mkdir()
        for name, content in files.items():
            (version / name).write_bytes(content)
            if not (self.path / name).is_symlink():
                (self.path / name).symlink_to(Path("..data", name))
        link = self.path / "..data_tmp"
        link.symlink_to(version.name)
        link.replace(self.path / "..data")

    def __getitem__(self, name: str) -> str:
        return str(self.path / name)


@dataclass(frozen=True)
class Served:
    """A sidecar that wants certificates of `authority`, and shows one of its."""

    sidecar: AuthzServer
    config: Path
    place: Place
    authority: Authority

    def serials(self, shown: Pair) -> set[int]:
        """Of the certificates that its workers show to who shows this one."""
        return {self._serial(endpoint, shown) for endpoint in self.sidecar.endpoints}

    def _serial(self, endpoint: str, shown: Pair) -> int:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        mine = self.place.path.parent / f"shown-{next(NUMBERS)}.pem"
        mine.write_bytes(shown.certificate + shown.key)
        context.load_cert_chain(mine)
        host, _, port = endpoint.rpartition(":")
        with socket.create_connection((host, int(port)), 10) as plain, context.wrap_socket(plain) as encrypted:
            found = encrypted.getpeercert(binary_form=True)
        assert found
        return x509.load_der_x509_certificate(found).serial_number

    def lets_in(self, pair: Pair, *believed: Authority) -> set[bool]:
        """What the workers do with a caller who shows this and believes these CAs."""
        roots = b"".join(authority.pem for authority in believed)
        shown = grpc.ssl_channel_credentials(roots, pair.key, pair.certificate)
        return {_is_let_in(endpoint, shown) for endpoint in self.sidecar.endpoints}

    def metric(self, series: str) -> float | None:
        text = httpx.get(f"{self.sidecar.http}/metrics", trust_env=False).text
        found = [line for line in text.splitlines() if line.startswith(f"{series} ")]
        return float(found[0].rpartition(" ")[2]) if found else None

    def told(self, event: str) -> int:
        return self.sidecar.log_text.count(f'"{event}"')


def _is_let_in(endpoint: str, credentials: grpc.ChannelCredentials) -> bool:
    with grpc.secure_channel(endpoint, credentials, [("grpc.ssl_target_name_override", NAME)]) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
        except grpc.RpcError as refused:
            if refused.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False
    return True


@contextmanager
def served(
    redis: RedisServer, scratch: Path, host: Host, *, workers: int = 1, how: How = "files moved one by one"
) -> Iterator[Served]:
    scratch.mkdir(exist_ok=True)
    config, place, authority = scratch / "plans.yaml", Place(scratch / "server", how), Authority("first")
    write(config, resources())
    place.put(authority.pair(), authority)
    tls = ("--tls-cert-file", place[CERTIFICATE], "--tls-key-file", place[KEY], "--tls-client-ca-file", place[CA])
    flags = (*FLAGS, "--redis-url", redis.url, "--account-id", uuid4().hex, *tls)
    with authz_serve(config, *flags, host=host, workers=workers) as sidecar:
        yield Served(sidecar, config, place, authority)


@pytest.fixture(scope="module")
def ours(redis: RedisServer, served_by: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A stack that no test changes."""
    with served(redis, tmp_path_factory.mktemp("ours"), served_by) as it:
        yield it


@contextmanager
def asking(of: Served, place: Place, upstream: str, *, name: str = NAME, shows: bool = True) -> Iterator[EnvoyServer]:
    """An Envoy whose certificates lie in this place; few calls go over one connection, so that many are opened."""
    pair = {"certificate": place[CERTIFICATE], "key": place[KEY]} if shows else {}
    tls = Tls(place[CA], name, sds=str(place.path.parent), **pair)
    options = EnvoyOptions(
        listen=f"{HOST}:{free_port()}",
        admin=f"{HOST}:{free_port()}",
        upstream=upstream,
        authz=tuple(of.sidecar.endpoints),
        timeout_ms=5000,
        tls=tls,
    )
    catalog = load(of.config).resources
    parts: tuple[Part, ...] = ("sds-ca", "sds-certificate") if shows else ("sds-ca",)
    for part in parts:
        Path(tls.sds_file(part.removeprefix("sds-"))).write_text(render(catalog, replace(options, only=part)))
    config = yaml.safe_load(render(catalog, options))
    authz = config["static_resources"]["clusters"][0]
    [protocol] = authz["typed_extension_protocol_options"].values()
    protocol["common_http_protocol_options"] = {"max_requests_per_connection": 5}
    with envoy(yaml.safe_dump(config)) as it:
        yield it


def status(it: EnvoyServer) -> int:
    return httpx.get(
        f"{it.url}/prod/pets", headers={"x-api-key": value_of("k1")}, trust_env=False, timeout=30
    ).status_code


def statistic(it: EnvoyServer, name: str, of: str = "cluster.authz") -> int:
    text = httpx.get(f"{it.admin}/stats?filter=^{of}.{name}$", trust_env=False).text
    return int(text.rpartition(" ")[2]) if text else 0


# --- who is let in, and who is believed ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """What Envoy shows and whom it believes, and where that is counted if it goes wrong.

    Envoy counts its own refusals. Those of authz come after its handshake (TLS 1.3), as the end of a connection.
    """

    says: str
    counted: str
    shows: Literal["ours", "nothing", "another CA's", "an expired one"] = "ours"
    believes: Literal["ours", "another CA"] = "ours"
    name: str = NAME


REFUSED: Final = (
    Case("none", "health_check.network_failure", shows="nothing"),
    Case("another CA's", "health_check.network_failure", shows="another CA's"),
    Case("expired", "health_check.network_failure", shows="an expired one"),
    Case("wrong CA", "ssl.fail_verify_error", believes="another CA"),
    Case("wrong name", "ssl.fail_verify_san", name="another.example.org"),
    Case("wrong address", "ssl.fail_verify_san", name="127.0.0.2"),
)


@contextmanager
def envoy_of(case: Case, ours: Served, scratch: Path, upstream: str) -> Iterator[EnvoyServer]:
    other, place = Authority("other"), Place(scratch / "envoy")
    pairs = {"another CA's": other.pair(), "an expired one": ours.authority.pair(age=2 * DAY)}
    place.put(pairs.get(case.shows, ours.authority.pair()), {"ours": ours.authority}.get(case.believes, other))
    with asking(ours, place, upstream, name=case.name, shows=case.shows != "nothing") as it:
        yield it


@pytest.mark.parametrize("name", [NAME, HOST])
def test_the_right_certificates_let_calls_through(name: str, ours: Served, echo: EchoServer, tmp_path: Path) -> None:
    with envoy_of(Case("right", "", name=name), ours, tmp_path, echo.address) as it:
        until(lambda: status(it) == 200, "nobody is let through", it)
        until(lambda: statistic(it, "health_check.success") > 0, "health checks do not come through", it)
        assert [status(it) for _ in range(20)] == [200] * 20
        assert statistic(it, "health_check.failure") == 0


@pytest.mark.parametrize(
    "key",
    [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)],
    ids=["P-384", "RSA 2048"],
)
def test_each_kind_of_key_that_is_served_is_believed(
    key: PrivateKey, redis: RedisServer, echo: EchoServer, served_by: Host, tmp_path: Path
) -> None:
    """P-256 is what all the other tests have."""
    with served(redis, tmp_path, served_by) as ours:
        caller, shown = ours.authority.pair(), ours.authority.pair(key=key)
        ours.place.put(shown, ours.authority)
        until(lambda: ours.serials(caller) == {shown.serial}, "it is not shown", ours.sidecar)
        place = Place(tmp_path / "envoy")
        place.put(ours.authority.pair(key=key), ours.authority)
        with asking(ours, place, echo.address) as it:
            until(lambda: status(it) == 200, "nobody is let through", it)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: str(case.says))
def test_any_other_is_refused(case: Case, ours: Served, echo: EchoServer, tmp_path: Path) -> None:
    with envoy_of(case, ours, tmp_path, echo.address) as it:
        until(lambda: statistic(it, case.counted) > 0, f"no {case.counted}", it)
        assert [status(it) for _ in range(5)] == [503] * 5
        assert statistic(it, "health_check.success") == 0
        assert statistic(it, "upstream_rq_200") == 0


# --- rotation -----------------------------------------------------------------------------------------------------


@dataclass
class Traffic:
    """Requests without a pause, until the block ends."""

    it: EnvoyServer
    statuses: Counter[int] = field(default_factory=Counter)
    stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Traffic:
        self._threads = [threading.Thread(target=self._send) for _ in range(PEOPLE)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        with httpx.Client(trust_env=False, timeout=30, headers={"x-api-key": value_of("k1")}) as client:
            while not self.stop.is_set():
                self.statuses[client.get(f"{self.it.url}/prod/pets").status_code] += 1

    def goes_on(self) -> None:
        """Wait for 50 more answers, enough to reach every endpoint over new connections too."""
        enough = self.statuses.total() + 50
        until(lambda: self.statuses.total() > enough, "no traffic", self.it)


def shown_by(it: EnvoyServer) -> tuple[set[int], int]:
    """The serial numbers of the certificates that Envoy shows, and how many CAs it believes."""
    [found] = httpx.get(f"{it.admin}/certs", trust_env=False).json()["certificates"]
    return {int(one["serial_number"], 16) for one in found["cert_chain"]}, len(found["ca_cert"])


@pytest.mark.parametrize("how", ["a swapped symlink", "files moved one by one"])
def test_everything_is_rotated_under_traffic_and_no_request_fails(
    how: How, redis: RedisServer, echo: EchoServer, served_by: Host, tmp_path: Path
) -> None:
    """Both pairs, then the CA: first both are believed, then the pairs are the new one's, then it is alone."""
    with served(redis, tmp_path, served_by, workers=2, how=how) as ours, ExitStack() as running:
        first, second, client = ours.authority, Authority("second"), Place(tmp_path / "envoy", how)
        old = first.pair()
        client.put(old, first)
        it = running.enter_context(asking(ours, client, echo.address))
        until(lambda: status(it) == 200, "nobody is let through", it)
        traffic = running.enter_context(Traffic(it))

        def rotate(by: Authority, *believed: Authority) -> None:
            server, caller = by.pair(), by.pair()
            ours.place.put(server, *believed)
            until(lambda: ours.serials(caller) == {server.serial}, "the old one is shown", ours.sidecar)
            client.put(caller, *believed)
            until(lambda: shown_by(it)[0] == {caller.serial}, "Envoy shows the old one", it)
            traffic.goes_on()

        rotate(first, first)
        # A CA must be trusted before any side shows a certificate that it signed.
        ours.place.put(first.pair(), first, second)
        until(lambda: ours.lets_in(second.pair(), first) == {True}, "the new CA is not known", ours.sidecar)
        client.put(first.pair(), first, second)
        traffic.goes_on()
        rotate(second, first, second)
        rotate(second, second)
        until(lambda: ours.lets_in(old, second) == {False}, "the old CA is believed", ours.sidecar)
        traffic.goes_on()
        traffic.__exit__()
        assert set(traffic.statuses) == {200}, traffic.statuses
        assert ours.lets_in(second.pair(), second) == {True}


def test_an_expired_one_refuses_all_until_there_is_a_new_one(
    redis: RedisServer, echo: EchoServer, served_by: Host, tmp_path: Path
) -> None:
    """It is served, because the client judges it; the log and a metric report it."""
    with served(redis, tmp_path, served_by) as ours, ExitStack() as running:
        client, expired = Place(tmp_path / "envoy"), ours.authority.pair(age=2 * DAY)
        client.put(ours.authority.pair(), ours.authority)
        it = running.enter_context(asking(ours, client, echo.address))
        until(lambda: status(it) == 200, "nobody is let through", it)
        ours.place.put(expired, ours.authority)
        until(lambda: status(it) == 503, "the expired one is believed", it)
        assert statistic(it, "ssl.fail_verify_error") > 0
        assert ours.told("certificate has expired") == 1
        until(lambda: ours.metric(EXPIRY) == expired.parsed.not_valid_after_utc.timestamp(), "no metric", ours.sidecar)
        ours.place.put(ours.authority.pair(), ours.authority)
        until(lambda: status(it) == 200, "the new one is not shown", it)


EXPIRY: Final = 'authz_tls_certificate_expiry_timestamp_seconds{of="server"}'


# --- broken files are not taken over ------------------------------------------------------------------------------


def garbage(ours: Served) -> tuple[str, bytes | None]:
    return CERTIFICATE, b"no PEM"


def of_another_key(ours: Served) -> tuple[str, bytes | None]:
    return KEY, ours.authority.pair().key


def only_the_certificate(ours: Served) -> tuple[str, bytes | None]:
    """A pair that is half written."""
    return CERTIFICATE, ours.authority.pair().certificate


def empty_bundle(ours: Served) -> tuple[str, bytes | None]:
    return CA, b""


def missing(ours: Served) -> tuple[str, bytes | None]:
    return KEY, None


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("mistake", [garbage, of_another_key, only_the_certificate, empty_bundle, missing])
def test_the_old_ones_go_on_where_the_new_are_broken(
    mistake: Any, workers: int, redis: RedisServer, served_by: Host, tmp_path: Path
) -> None:
    """Logged once, and again at HUP, which reads unchanged files too. Written in place, as a careless person does."""
    with served(redis, tmp_path, served_by, workers=workers) as ours:
        caller, before = ours.authority.pair(), (ours.place.path / CERTIFICATE).read_bytes()
        name, content = mistake(ours)
        if content is None:
            (ours.place.path / name).unlink()
        else:
            (ours.place.path / name).write_bytes(content)
        until(lambda: ours.told("certificates not reloaded") == workers, "no word of it", ours.sidecar)
        ours.sidecar.send(SIGHUP)
        until(lambda: ours.told("certificates not reloaded") == 2 * workers, "HUP reads nothing", ours.sidecar)
        serial = x509.load_pem_x509_certificate(before).serial_number
        assert ours.serials(caller) == {serial}
        assert ours.lets_in(caller, ours.authority) == {True}
        assert ours.lets_in(Authority("other").pair(), ours.authority) == {False}
        mended = ours.authority.pair()
        for mended_name, text in ((CERTIFICATE, mended.certificate), (KEY, mended.key), (CA, ours.authority.pem)):
            (ours.place.path / mended_name).write_bytes(text)
        until(lambda: ours.serials(caller) == {mended.serial}, "the new one is not shown", ours.sidecar)
        until(lambda: ours.metric(EXPIRY) == mended.parsed.not_valid_after_utc.timestamp(), "no metric", ours.sidecar)


@pytest.mark.parametrize(("broken", "secret"), [(CERTIFICATE, "certificate"), (KEY, "certificate"), (CA, "ca")])
def test_envoy_keeps_its_files_if_a_new_one_is_broken(
    broken: str, secret: str, ours: Served, echo: EchoServer, tmp_path: Path
) -> None:
    with ExitStack() as running:
        place, pair = Place(tmp_path / "envoy"), ours.authority.pair()
        place.put(pair, ours.authority)
        it = running.enter_context(asking(ours, place, echo.address))
        until(lambda: status(it) == 200, "nobody is let through", it)
        place.move(broken, b"no PEM")
        until(lambda: statistic(it, "key_rotation_failed", of=f"sds.authz_{secret}") > 0, "Envoy has not looked", it)
        assert [status(it) for _ in range(20)] == [200] * 20
        assert shown_by(it)[0] == {pair.serial}
        new = ours.authority.pair()
        # Another bundle: Envoy sees no change in a file that equals the one before the mistake, and the mistake stays.
        place.put(new, ours.authority, Authority("other"))
        until(lambda: shown_by(it)[0] == {new.serial}, "Envoy shows the old one", it)
        assert [status(it) for _ in range(20)] == [200] * 20


@pytest.mark.parametrize("broken", [CERTIFICATE, KEY, CA])
def test_a_file_that_is_broken_at_the_start_is_reported_in_one_line(
    broken: str, redis: RedisServer, served_by: Host, tmp_path: Path
) -> None:
    config, place, authority = tmp_path / "plans.yaml", Place(tmp_path / "server"), Authority("first")
    write(config, resources())
    place.put(authority.pair(), authority)
    place.move(broken, b"no PEM")
    tls = ("--tls-cert-file", place[CERTIFICATE], "--tls-key-file", place[KEY], "--tls-client-ca-file", place[CA])
    with authz_serve(config, "--redis-url", redis.url, *tls, host=served_by, wait=False) as server:
        assert server.wait() == 2
        [line] = server.log_text.splitlines()
        assert place[broken] in line
        assert "cannot be used as" in line
