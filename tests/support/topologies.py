"""Several Redises that share the work: a master with a replica and a Sentinel, and a cluster; and TLS around one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import permutations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from uuid import uuid4

import pytest
import redis
from redis.crc import key_slot

from tests.support.certificates import Authority
from tests.support.servers import HOST, Kind, RedisServer, envoy, free_port, kinds, redis_server, until
from tests.support.servers import _redis_binary as redis_binary
from tests.support.servers import _running as running

SERVICE: Final = "main"
PASSWORD, SENTINEL_PASSWORD = "s3cret", "w4tch"
SLOTS: Final = 16384
MASTERS: Final = 3
# A master would wait 5 s for more replicas before the first copy; one that has sent nothing is not named for 10 s.
AT_ONCE: Final = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")


@dataclass
class Fleet:
    """A master, its replica, and what else it takes for one to stand in for the other.

    `account` is one that the master holds; `url` names them all, and first a server that is not there.
    """

    url: str
    master: RedisServer
    replica: RedisServer
    account: str
    others: Sequence[RedisServer] = ()
    sentinel: RedisServer | None = None

    def replicate(self) -> None:
        """Until the replica has all that the master has."""
        assert say(self.master, "WAIT", 1, 10_000) == 1

    def is_promoted(self) -> bool:
        return role(self.replica) == b"master"


def say(server: RedisServer, *words: Any) -> Any:
    """A command, and its reply as Redis gives it."""
    with _client(server) as client:
        return client.execute_command(*words)


def role(server: RedisServer) -> bytes:
    """`master` or `slave`; nothing while it changes, which ends connections."""
    try:
        return bytes(say(server, "ROLE")[0])
    except redis.exceptions.ConnectionError:
        return b""


def port_of(server: RedisServer) -> int:
    return int(server.url.rpartition(":")[2].partition("/")[0])


def _client(server: RedisServer) -> redis.Redis:
    return redis.Redis.from_url(server.url, protocol=2, single_connection_client=True)


@contextmanager
def sentinels(kind: Kind) -> Iterator[Fleet]:
    """One that watches is enough to choose; all want passwords, the Sentinel another one."""
    with ExitStack() as stack:
        secret = ("--masterauth", PASSWORD, *AT_ONCE)
        master = stack.enter_context(redis_server(kind, *secret, password=PASSWORD))
        of_it = ("--replicaof", f"{HOST} {port_of(master)}")
        replica = stack.enter_context(redis_server(kind, *secret, *of_it, password=PASSWORD))
        until(lambda: b"master_link_status:up" in _info(replica), "the replica is not linked", replica)
        sentinel = stack.enter_context(_sentinel(kind, port_of(master)))
        say(sentinel, "SENTINEL", "DEBUG", "INFO-PERIOD", 500, "PUBLISH-PERIOD", 200)  # it would take 10 s
        hosts = f"{HOST}:{free_port()},{HOST}:{port_of(sentinel)}"
        url = f"redis+sentinel://:{PASSWORD}@{hosts}/{SERVICE}?sentinel_password={SENTINEL_PASSWORD}"
        yield Fleet(url, master, replica, uuid4().hex, sentinel=sentinel)


@contextmanager
def _sentinel(kind: Kind, master_port: int) -> Iterator[RedisServer]:
    """A Sentinel that knows the replica."""
    with TemporaryDirectory(prefix="authz-test-") as scratch:
        port, config = free_port(), Path(scratch, "sentinel.conf")
        config.write_text(
            f"port {port}\nbind {HOST}\ndir {scratch}\nrequirepass {SENTINEL_PASSWORD}\n"
            f"sentinel monitor {SERVICE} {HOST} {master_port} 1\nsentinel auth-pass {SERVICE} {PASSWORD}\n"
            f"sentinel down-after-milliseconds {SERVICE} 500\nsentinel failover-timeout {SERVICE} 3000\n"
        )
        server = RedisServer(
            command=(redis_binary(kind), str(config), "--sentinel"),
            log=Path(scratch, "log"),
            is_ready=lambda: _knows_replica(server),
            url=f"redis://:{SENTINEL_PASSWORD}@{HOST}:{port}",
        )
        with running(server):
            yield server


def _knows_replica(sentinel: RedisServer) -> bool:
    try:
        found = say(sentinel, "SENTINEL", "REPLICAS", SERVICE)
    except redis.exceptions.ConnectionError:
        return False
    states = [dict(zip(one[::2], one[1::2], strict=True)) for one in found]
    return any(state[b"flags"] == b"slave" and state[b"master-link-status"] == b"ok" for state in states)


def _info(server: RedisServer) -> bytes:
    with _client(server) as client:
        client.response_callbacks.clear()
        return bytes(client.execute_command("INFO", "replication"))


@contextmanager
def cluster(kind: Kind, password: str = PASSWORD) -> Iterator[Fleet]:
    """Three masters with a third of the slots each, and a replica of the first."""
    with ExitStack() as stack:
        nodes, buses = [], [free_port() for _ in range(MASTERS + 1)]
        for bus in buses:
            options = ["--cluster-enabled", "yes", "--cluster-port", str(bus), "--cluster-node-timeout", "1500"]
            options += ["--cluster-require-full-coverage", "no", "--masterauth", password, *AT_ONCE]
            nodes.append(stack.enter_context(redis_server(kind, *options, password=password)))
        for number, node in enumerate(nodes[:MASTERS]):
            say(node, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            say(node, "CLUSTER", "ADDSLOTSRANGE", *_range(number))
        for one, (other, bus) in permutations(zip(nodes, buses, strict=True), 2):
            say(one[0], "CLUSTER", "MEET", HOST, port_of(other), bus)
        until(lambda: all(_counted(node) == len(nodes) for node in nodes), "they do not all know each other", nodes[0])
        master, replica = nodes[0], nodes[-1]
        say(replica, "CLUSTER", "REPLICATE", node_id(master))
        until(lambda: b"master_link_status:up" in _info(replica), "the replica is not linked", replica)
        until(lambda: all(_is_whole(node, replica) for node in nodes), "they do not all know the slots", nodes[0])
        url = f"redis+cluster://:{password}@{HOST}:{free_port()},{HOST}:{port_of(nodes[1])}"
        yield Fleet(url, master, replica, account_of(0), nodes[1:MASTERS])


def account_of(number: int) -> str:
    """An account whose slot the master of this number holds."""
    first, last = _range(number)
    accounts = iter(lambda: uuid4().hex, "")
    return next(account for account in accounts if first <= slot_of(account) <= last)


def slot_of(account: str) -> int:
    return key_slot(account.encode())


def node_id(node: RedisServer) -> str:
    found: bytes = say(node, "CLUSTER", "MYID")
    return found.decode()


def _range(number: int) -> tuple[int, int]:
    return SLOTS * number // MASTERS, SLOTS * (number + 1) // MASTERS - 1


def _counted(node: RedisServer) -> int:
    """How many nodes it is in touch with, itself among them."""
    lines = _nodes(node)
    return sum(b"connected" in line.split() and b"handshake" not in line for line in lines)


def _is_whole(node: RedisServer, replica: RedisServer) -> bool:
    """Whether it knows a master for each slot and whose the replica is, and answers."""
    slots = say(node, "CLUSTER", "SLOTS")
    covered = sum(last - first + 1 for first, last, *_ in slots)
    has_replica = any(server[1] == port_of(replica) for _, _, _, *more in slots for server in more)
    return has_replica and covered == SLOTS and b"cluster_state:ok" in say(node, "CLUSTER", "INFO")


def _nodes(node: RedisServer) -> list[bytes]:
    with _client(node) as client:
        client.response_callbacks.clear()
        return bytes(client.execute_command("CLUSTER", "NODES")).splitlines()


@dataclass(frozen=True)
class Certificates:
    """Files (PEM) of an authority: its certificate, and certificate and key for an end on loopback."""

    ca: Path
    certificate: Path
    key: Path

    @classmethod
    def make(cls, place: Path, days: int = 1) -> Certificates:
        """Certificates that last `days`, written into this directory."""
        place.mkdir()
        authority = Authority("authority", timedelta(days=days))
        pair = authority.pair()
        files = cls(place / "ca.pem", place / "cert.pem", place / "key.pem")
        files.ca.write_bytes(authority.pem)
        files.certificate.write_bytes(pair.certificate)
        files.key.write_bytes(pair.key)
        return files


@contextmanager
def tls_by_envoy(server: RedisServer, files: Certificates) -> Iterator[int]:
    """The server behind an Envoy that ends TLS and wants a certificate of the same authority; its port."""
    port = free_port()
    with envoy(ENVOY.format(host=HOST, port=port, admin=free_port(), redis=port_of(server), files=files)):
        yield port


needs_tls: Final = pytest.mark.skipif(
    "redis" not in kinds(), reason="redis-server is not on PATH, and the wheel's Valkey has no TLS"
)


@contextmanager
def tls_by_itself(files: Certificates, *args: str) -> Iterator[tuple[RedisServer, int]]:
    """A redis-server that speaks TLS too, and wants a certificate of the same authority; its port for that."""
    port = free_port()
    named = ("--tls-cert-file", files.certificate, "--tls-key-file", files.key, "--tls-ca-cert-file", files.ca)
    with redis_server("redis", "--tls-port", str(port), *map(str, named), *args) as server:
        yield server, port


@contextmanager
def tls_cluster(files: Certificates) -> Iterator[int]:
    """One node that has all slots."""
    options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--tls-cluster", "yes")
    with tls_by_itself(files, *options) as (server, port):
        say(server, "CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)
        until(lambda: b"cluster_state:ok" in say(server, "CLUSTER", "INFO"), "the cluster does not work", server)
        yield port


ENVOY: Final = """
admin: {{address: {{socket_address: {{address: {host}, port_value: {admin}}}}}}}
static_resources:
  listeners:
    - address: {{socket_address: {{address: {host}, port_value: {port}}}}}
      filter_chains:
        - transport_socket:
            name: tls
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
              require_client_certificate: true
              common_tls_context:
                tls_certificates:
                  - certificate_chain: {{filename: "{files.certificate}"}}
                    private_key: {{filename: "{files.key}"}}
                validation_context: {{trusted_ca: {{filename: "{files.ca}"}}}}
          filters:
            - name: tcp
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
                stat_prefix: redis
                cluster: redis
  clusters:
    - name: redis
      load_assignment:
        cluster_name: redis
        endpoints:
          - lb_endpoints:
              - endpoint: {{address: {{socket_address: {{address: {host}, port_value: {redis}}}}}}}
"""
