"""The sidecar form, run: its containers as processes with the environment, arguments and files of the manifests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import yaml

from tests.deploy.manifests import Container, built, container, mount, named, put, rooted
from tests.support.servers import (
    HOST,
    AuthzServer,
    EchoServer,
    EnvoyServer,
    RedisServer,
    _all_ready,
    _running,
    envoy,
    free_port,
    free_ports,
    redis_server,
    until,
)

PASSWORD = "s3cret"
VALUE = "a-key-that-nobody-has-00"


@dataclass(frozen=True)
class Pod:
    """The pod of the sidecar form: authz, Envoy, and where its ConfigMap of plans is mounted."""

    authz: AuthzServer
    envoy: EnvoyServer
    plans: Path

    def get(self, path: str, key: str = "") -> int:
        headers = {"host": "api.example.com"} | ({"x-api-key": key} if key else {})
        return httpx.get(self.envoy.url + path, headers=headers, trust_env=False, timeout=30).status_code

    def probe(self, of: Container, kind: str) -> int:
        """What the kubelet's probe is answered."""
        asked = of.spec[kind]["httpGet"]
        return httpx.get(self.authz.http + asked["path"], trust_env=False).status_code


@pytest.fixture(scope="module")
def secured() -> Iterator[RedisServer]:
    with redis_server(password=PASSWORD) as server:
        yield server


@pytest.fixture(scope="module")
def pod(secured: RedisServer, echo: EchoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    root, manifests = tmp_path_factory.mktemp("pod"), built("sidecar")
    authz = container(manifests, "authz")
    mount(authz, root, {"authz-pepper": {"pepper": "p" * 16}, "authz-redis": {"password": PASSWORD}})
    grpc, http = free_ports(2), free_port()
    port = urlsplit(secured.url).port
    here = {
        "AUTHZ_GRPC_LISTEN": f"{HOST}:{grpc}",
        "AUTHZ_HTTP_LISTEN": f"{HOST}:{http}",
        "AUTHZ_REDIS_URL": f"redis://{HOST}:{port}/0",
        "AUTHZ_REDIS_TIMEOUT_MS": "2000",
    }
    server = AuthzServer(
        command=(sys.executable, "-m", "authz", *authz.args),
        log=root / "log",
        is_ready=lambda: _all_ready(f"http://{HOST}:{http}/readyz"),
        env={name: rooted(value, authz, root) for name, value in authz.env.items()} | here,
        grpc=f"{HOST}:{grpc}",
        http=f"http://{HOST}:{http}",
        workers=2,
    )
    with _running(server), envoy(envoy_config(grpc, echo.address)) as front:
        yield Pod(server, front, root / "etc/authz/plans")


def envoy_config(grpc: int, upstream: str) -> str:
    """The ConfigMap's, with ports of this machine, and patience for a slow one."""
    text: str = named(built("sidecar"), "ConfigMap", "envoy-config")["data"]["envoy.yaml"]
    for slot in range(2):
        text = text.replace(
            f'address: "127.0.0.1", port_value: {50051 + slot}', f'address: "{HOST}", port_value: {grpc + slot}'
        )
    upstream_host, _, upstream_port = upstream.rpartition(":")
    text = text.replace('address: "api", port_value: 8080', f'address: "{upstream_host}", port_value: {upstream_port}')
    for at, port in (("0.0.0.0", 10000), ("0.0.0.0", 9902), ("127.0.0.1", 9901)):
        assert f'address: "{at}", port_value: {port}' in text
        text = text.replace(f'address: "{at}", port_value: {port}', f'address: "{HOST}", port_value: {free_port()}')
    return text.replace("timeout: 0.2s", "timeout: 5s").replace("max_interval: 0.2s", "max_interval: 5s")


def with_a_key(limit: int = 5000) -> str:
    plans = yaml.safe_load(named(built("sidecar"), "ConfigMap", "authz-plans")["data"]["plans.yaml"])
    plans["usagePlans"][0]["keys"] = ["acme"]
    plans["usagePlans"][0]["quotas"][0]["limit"] = limit
    plans["apiKeys"] = [{"id": "acme", "value": VALUE}]
    return yaml.safe_dump(plans)


def test_the_pod_decides_and_takes_over_a_changed_configmap(pod: Pod) -> None:
    """As the kubelet changes it: a new directory, and the link `..data` turned to it."""
    assert [pod.get("/pets"), pod.get("/pets", VALUE), pod.get("/health")] == [403, 403, 200]
    put(pod.plans, {"plans.yaml": with_a_key()}, "..2")
    until(lambda: pod.get("/pets", VALUE) == 200, "the new plans are not in force", pod.authz)
    put(pod.plans, {"plans.yaml": with_a_key(limit=1)}, "..3")
    until(lambda: pod.get("/pets", VALUE) == 429, "the newer plans are not in force", pod.authz)


@pytest.mark.parametrize("kind", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_its_probes_are_answered(pod: Pod, kind: str) -> None:
    assert pod.probe(container(built("sidecar"), "authz"), kind) == 200
