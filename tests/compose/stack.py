"""docker-compose.yml in a fresh clone, run by one Compose or another, and what tests ask of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from tests.e2e.stack import ControlServer
from tests.support.servers import HOST, free_port

ROOT: Final = Path(__file__).parents[2]
# Each Compose that is supported, by the path of the cache: Debian 12's, and today's from its wheel.
PROGRAMS: Final[Mapping[str, Callable[[str], str]]] = {
    "docker-compose-1.29.2": lambda cache: "docker-compose",
    "compose-5": lambda cache: f"{cache}/bin/docker-compose",
}
RUNNING: Final = ("authz", "control", "echo", "envoy", "prometheus", "redis")
PORTS: Final = re.compile(r"^(\w+_PORT)=(\d+)$", re.MULTILINE)
COMMAND_SECONDS = 170
TIMEOUT_SECONDS = 5
PATIENCE_SECONDS = 150.0  # more than an alert waits before it fires
POLL_SECONDS = 0.2


def wait_until(holds: Callable[[], bool], otherwise: Callable[[], object]) -> None:
    """Poll until a condition holds; fail with the text of `otherwise` if it never does."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(POLL_SECONDS)


def clone(at: Path, cache: Path) -> Path:
    """What a clone would have, the wheels that the image is built from, secrets, and an .env with free ports."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (at / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, at / name)
    for wheel in (cache / "app").glob("*.whl"):
        shutil.copy(wheel, at / "deploy/compose/wheels")
    subprocess.run([at / "deploy/compose/secrets.sh"], check=True, stdout=subprocess.DEVNULL)
    example = (at / ".env.example").read_text()
    (at / ".env").write_text(PORTS.sub(lambda it: f"{it[1]}={free_port()}", example))
    return at


def ports_of(env: Path) -> dict[str, int]:
    return {name: int(port) for name, port in PORTS.findall(env.read_text())}


@dataclass(frozen=True)
class Container:
    """What `docker inspect` says of one."""

    details: dict[str, Any] = field(repr=False)

    @property
    def id(self) -> str:
        return str(self.details["Id"])

    @property
    def service(self) -> str:
        return str(self.details["Config"]["Labels"]["com.docker.compose.service"])

    @property
    def state(self) -> dict[str, Any]:
        return dict(self.details["State"])

    @property
    def is_healthy(self) -> bool:
        return bool(self.state.get("Health", {}).get("Status") == "healthy")

    @property
    def address(self) -> str:
        """On the network that all containers are on; this machine reaches it too."""
        networks = self.details["NetworkSettings"]["Networks"]
        return str(next(it["IPAddress"] for name, it in networks.items() if name.endswith("_inner")))

    def sh(self, script: str) -> str:
        """What a shell in the container prints, and its errors."""
        run = subprocess.run(
            ["docker", "exec", self.id, "sh", "-c", script], capture_output=True, text=True, timeout=60, check=False
        )
        return run.stdout + run.stderr

    def metrics(self) -> str:
        return httpx.get(f"http://{self.address}:9190/metrics", timeout=TIMEOUT_SECONDS, trust_env=False).text

    def counted(self, **labels: str) -> float:
        """The checks that it has decided, those with these labels."""
        lines = [line for line in self.metrics().splitlines() if line.startswith("authz_checks_total{")]
        wanted = [line for line in lines if all(f'{name}="{value}"' in line for name, value in labels.items())]
        return sum(float(line.rpartition(" ")[2]) for line in wanted)


@dataclass
class Project:
    """One Compose and one clone. `program` is run in the clone, with nothing but its .env to go by."""

    directory: Path
    program: str
    name: str
    replicas: int = 1  # of authz
    story: list[tuple[str, str]] = field(default_factory=list)  # of the first start: service, and what it became
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=TIMEOUT_SECONDS, trust_env=False))
    control: ControlServer = field(init=False)

    def key(self, name: str) -> str:
        """The value of a key that secrets.sh made."""
        lines = (self.directory / "deploy/compose/secrets/api-keys").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)[name]

    @property
    def ports(self) -> dict[str, int]:
        return ports_of(self.directory / ".env")

    def url(self, port: str) -> str:
        return f"http://{HOST}:{self.ports[port]}"

    def compose(self, *args: str) -> str:
        """Its output. Raises AssertionError with the output if it fails."""
        run = subprocess.run(
            [self.program, *args],
            cwd=self.directory,
            env={**os.environ, "COMPOSE_PROJECT_NAME": self.name},
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        assert run.returncode == 0, f"{args}: {run.stdout}{run.stderr}"
        return run.stdout

    def containers(self, service: str = "", *, stopped: bool = False) -> list[Container]:
        filters = [f"label=com.docker.compose.project={self.name}"]
        filters += [f"label=com.docker.compose.service={service}"] if service else []
        listing = ["docker", "ps", "--quiet", "--no-trunc", *(["--all"] if stopped else [])]
        ids = _out(*listing, *(word for it in filters for word in ("--filter", it))).split()
        return [Container(details) for details in json.loads(_out("docker", "inspect", *ids))] if ids else []

    def one(self, service: str) -> Container:
        [found] = self.containers(service)
        return found

    def until_healthy(self) -> None:
        """Until each service has as many healthy containers as it should, and no more."""
        wanted = Counter({**dict.fromkeys(RUNNING, 1), "authz": self.replicas})
        wait_until(
            lambda: Counter(it.service for it in self.containers() if it.is_healthy) == wanted,
            lambda: "not healthy:\n" + _out("docker", "ps", "--all", "--format", "{{.Names}} {{.Status}}"),
        )

    def up(self) -> None:
        """For the first time; keeps the story, since of a container's health Docker remembers five checks."""
        told = '{{index .Actor.Attributes "com.docker.compose.service"}} {{.Action}}'
        kinds = (f"label=com.docker.compose.project={self.name}", "event=start", "event=health_status")
        filters = (word for kind in kinds for word in ("--filter", kind))
        command = ["docker", "events", "--since", str(int(time.time())), "--format", told, *filters]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as events:
            try:
                self.compose("up", "--detach")
                self.until_healthy()
            finally:
                events.terminate()
            lines = events.stdout.read().splitlines() if events.stdout else []
        self.story = [(service, what) for service, _, what in (line.partition(" ") for line in lines)]

    def scale(self, replicas: int) -> None:
        self.compose("up", "--detach", "--scale", f"authz={replicas}")
        self.replicas = replicas
        self.until_healthy()

    def sign_in(self) -> None:
        """With the first access key, made as an operator would make it."""
        printed = self.compose("exec", "-T", "control", "authz", "credentials", "create", "test")
        exported = dict(re.findall(r"export (\w+)=(\S+)", printed))
        self.control = ControlServer(
            command=(),
            log=Path(),
            is_ready=lambda: True,
            url=self.url("CONTROL_PORT"),
            access_key=exported["AWS_ACCESS_KEY_ID"],
            secret=exported["AWS_SECRET_ACCESS_KEY"],
        )

    def query(self, promql: str) -> list[dict[str, Any]]:
        """What Prometheus's own API answers: one sample a series."""
        answer = self.client.get(f"{self.url('PROMETHEUS_PORT')}/api/v1/query", params={"query": promql})
        assert answer.status_code == 200, answer.text
        return list(answer.json()["data"]["result"])

    def firing(self) -> set[str]:
        answer = self.client.get(f"{self.url('PROMETHEUS_PORT')}/api/v1/alerts").json()
        return {it["labels"]["alertname"] for it in answer["data"]["alerts"] if it["state"] == "firing"}

    def call(self, key: str = "", api: str = "localhost", path: str = "/prod/pets") -> httpx.Response:
        """A call of an API through Envoy; `localhost` reaches the sample's."""
        host = api if api == "localhost" else f"{api}.example.org"
        headers = {"host": host, **({"x-api-key": key} if key else {})}
        return self.client.get(self.url("ENVOY_PORT") + path, headers=headers)


@dataclass(frozen=True)
class Product:
    """An API with GET /pets in the stage `prod`, and a plan that opens it."""

    stack: Project
    api: str
    plan: str

    @classmethod
    def make(cls, stack: Project, **plan: Any) -> Product:
        aws = stack.control.client()
        api = aws.create_rest_api(name="Pets")
        pets = aws.create_resource(restApiId=api["id"], parentId=api["rootResourceId"], pathPart="pets")
        where = {"restApiId": api["id"], "resourceId": pets["id"], "httpMethod": "GET"}
        aws.put_method(**where, authorizationType="NONE", apiKeyRequired=True)
        aws.put_integration(**where, type="MOCK")
        aws.create_deployment(restApiId=api["id"], stageName="prod")
        stages = [{"apiId": api["id"], "stage": "prod"}]
        return cls(stack, api["id"], aws.create_usage_plan(name="Silver", apiStages=stages, **plan)["id"])

    def key(self) -> tuple[str, str]:
        """The id and value of a new key that every sidecar lets in."""
        aws = self.stack.control.client()
        key = aws.create_api_key(name="acme", enabled=True)
        self.stack.control.wait_for(
            aws.create_usage_plan_key(usagePlanId=self.plan, keyId=key["id"], keyType="API_KEY")
        )
        return key["id"], key["value"]

    def call(self, value: str = "") -> httpx.Response:
        return self.stack.call(value, self.api)

    def statuses(self, value: str, calls: int) -> list[int]:
        return [self.call(value).status_code for _ in range(calls)]


@contextmanager
def calling(calls: Mapping[str, Callable[[], httpx.Response]]) -> Iterator[Counter[tuple[str, int]]]:
    """While the block runs, each of these is called over and over; counts the statuses that each was answered with."""
    seen: Counter[tuple[str, int]] = Counter()
    stop, lock = threading.Event(), threading.Lock()

    def go(name: str) -> None:
        while not stop.is_set():
            status = calls[name]().status_code
            with lock:
                seen[name, status] += 1

    with ThreadPoolExecutor(len(calls)) as threads:
        running = [threads.submit(go, name) for name in calls]
        try:
            yield seen
        finally:
            stop.set()
        for one in running:
            one.result()  # a call that got no answer at all fails the test


@contextmanager
def project(directory: Path, program: str) -> Iterator[Project]:
    """Nothing of it is left when the block ends, not even its volumes."""
    it = Project(directory, program, f"authz-{directory.name}-{os.getpid()}")
    try:
        yield it
    finally:
        it.compose("down", "--volumes", "--remove-orphans", "--timeout", "20")


def _out(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
