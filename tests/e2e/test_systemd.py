"""The systemd units: systemd finds nothing wrong with them, little is left to a process, and their commands work."""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import click
import pytest

from authz.cli.main import cli
from authz.config.settings import Settings
from authz.workers.supervisor import KILL_SECONDS
from tests.e2e.stack import write
from tests.support.builders import resources
from tests.support.hosts import HOSTS
from tests.support.servers import HOST, Host, RedisServer, Server, free_port, is_ok, until
from tests.support.servers import _running as running

UNITS: Final = Path(__file__).parents[2] / "deploy/systemd"
SIDECAR, CONTROL = "authz.service", "authz-control.service"
NAMES: Final = (SIDECAR, CONTROL)
PROGRAM: Final = "/opt/authz/bin/authz"
EXPOSURE: Final = 15  # of 100, as `systemd-analyze security` counts

needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not on PATH")


def service(name: str) -> Mapping[str, Sequence[str]]:
    """What stands in the section [Service], each name with all of its values."""
    found, section = defaultdict(list), ""
    for line in (UNITS / name).read_text().splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found[key].append(value)
    return found


def command(name: str) -> list[str]:
    """The words of ExecStart; the first is the program."""
    [line] = service(name)["ExecStart"]
    return shlex.split(line)


def analyze(*words: str) -> str:
    run = subprocess.run(("systemd-analyze", *words), capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout + run.stderr


@needs_systemd
@pytest.mark.parametrize("name", NAMES)
def test_systemd_finds_nothing_wrong(name: str, tmp_path: Path) -> None:
    unit = tmp_path / name
    unit.write_text((UNITS / name).read_text().replace(PROGRAM, sys.executable))  # it looks for the program, too
    assert analyze("verify", str(unit)) == ""


@needs_systemd
@pytest.mark.parametrize("name", NAMES)
def test_little_is_left_to_the_process(name: str) -> None:
    """Its exit status says whether it is more than that."""
    words = ("security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE}", str(UNITS / name))
    assert "exposure level" in analyze(*words)


def parameters(name: str) -> tuple[str, dict[str, Any]]:
    """The subcommand and the parameters that our command line reads in the unit. Raises click.UsageError."""
    program, subcommand, *words = command(name)
    assert program == PROGRAM
    found = cli.commands[subcommand]
    with click.Context(cli, info_name="authz") as group, found.make_context(subcommand, words, parent=group) as context:
        return subcommand, context.params


@pytest.mark.parametrize(("name", "subcommand"), [(SIDECAR, "serve"), (CONTROL, "control")])
def test_the_command_line_is_one_of_ours(name: str, subcommand: str) -> None:
    found, given = parameters(name)
    assert found == subcommand
    assert str(given["pepper_file"]) == "${CREDENTIALS_DIRECTORY}/pepper"


@pytest.mark.parametrize("name", NAMES)
def test_each_credential_is_loaded_and_each_that_is_loaded_is_used(name: str) -> None:
    loaded = {line.partition(":")[0] for line in service(name)["LoadCredential"]}
    used = {word.rpartition("/")[2] for word in command(name) if word.startswith("${CREDENTIALS_DIRECTORY}/")}
    assert loaded == used


def test_the_sidecar_never_sees_the_sealing_key() -> None:
    assert "sealing-key" not in (UNITS / SIDECAR).read_text()


@pytest.mark.parametrize("name", NAMES)
def test_there_is_time_to_stop_and_no_process_gets_a_second_signal(name: str) -> None:
    """A second TERM means: at once. So systemd must signal only the supervisor."""
    found, settings = service(name), Settings()
    assert found["KillMode"] == ["mixed"]
    assert int(found["TimeoutStopSec"][0]) > settings.drain_seconds + settings.grace_seconds + KILL_SECONDS


def test_only_programs_that_reload_on_hup_are_sent_hup() -> None:
    assert service(SIDECAR)["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert service(CONTROL)["ExecReload"] == []


def test_both_are_hardened_alike() -> None:
    def rights(name: str) -> dict[str, Sequence[str]]:
        words = service(name).items()
        own = ("Exec", "LoadCredential", "OOM")
        return {key: values for key, values in words if not key.startswith(own)}

    assert rights(SIDECAR) == rights(CONTROL)


# --- the commands, run --------------------------------------------------------------------------------------------


def started(name: str, place: Path, env: Mapping[str, str], http: str, *flags: str) -> Server:
    """What systemd would run, with `place` for /etc/authz; `flags` come last and win."""
    credentials = place / "credentials"
    credentials.mkdir(exist_ok=True)
    for line in service(name)["LoadCredential"]:
        credential, _, source = line.partition(":")
        (credentials / credential).write_text(Path(source.replace("/etc/authz", str(place))).read_text())
    words = [
        word.replace("/etc/authz", str(place)).replace("${CREDENTIALS_DIRECTORY}", str(credentials))
        for word in command(name)[1:]
    ]
    return Server(
        command=(sys.executable, "-m", "authz", *words, *flags),
        log=place / f"{name}.log",
        is_ready=lambda: is_ok(f"http://{http}/readyz"),
        env=env,
    )


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """What the how-to page puts into /etc/authz."""
    write(tmp_path / "plans.yaml", resources())
    (tmp_path / "secrets").mkdir()
    for name in ("pepper", "sealing-key"):
        (tmp_path / "secrets" / name).write_text("0f" * 32)
    return tmp_path


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("host", HOSTS)
def test_the_sidecar_starts_reloads_and_stops(host: Host, workers: str, etc: Path, redis: RedisServer) -> None:
    port, http = free_port(), f"{HOST}:{free_port()}"
    env = {
        "AUTHZ_REDIS_URL": redis.url,
        "AUTHZ_GRPC_LISTEN": f"unix:{etc}/grpc-{port}",
        "AUTHZ_HTTP_LISTEN": http,
        "AUTHZ_SERVER": host,
        "AUTHZ_WORKERS": workers,
        "AUTHZ_DRAIN_SECONDS": "0",
        "AUTHZ_ACCOUNT_ID": f"systemd-{port}",
    }
    server = started(SIDECAR, etc, env, http)
    with running(server):
        (etc / "plans.yaml").write_text("apis: 7\n")
        until(lambda: "refused" in server.log_text, "the file is not watched", server)
        refused = server.log_text.count("refused")
        server.send(signal.SIGHUP)
        until(lambda: server.log_text.count("refused") > refused, "HUP reads nothing", server)
        assert is_ok(f"http://{http}/readyz")
        assert server.stop() == 0


def test_the_control_plane_starts_and_stops(etc: Path, redis: RedisServer) -> None:
    listen, http = f"{HOST}:{free_port()}", f"{HOST}:{free_port()}"
    shared = {"AUTHZ_WORKERS": "2", "AUTHZ_SERVER": "pyvoy"}  # both units read one file of settings
    env = {"AUTHZ_REDIS_URL": redis.url, "AUTHZ_ACCOUNT_ID": f"systemd-{listen.rpartition(':')[2]}", **shared}
    with ExitStack() as stack:
        server = started(CONTROL, etc, env, http, "--listen", listen, "--http-listen", http)
        stack.enter_context(running(server))
        assert server.stop() == 0
