"""The pages, run as their readers run them, and the site that they make.

What a page may hold, and what becomes of it here:

- A block of `sh` is run: all blocks of a page in one bash, in order, in a directory that looks like a clone. It must
  succeed. The pages in `ALL_RUN` run in zsh too.
- A block of `text` behind it is what it prints, to standard error too; then it may fail. `…` stands for anything on its
  line, and alone on a line for any lines. A command that prints a status and no more may say `# prints: 403`.
- A block of `yaml title="FILE"` is a file that the reader writes there.
- A block whose one command is `make up` runs in a terminal of its own, until the page ends. It has run before the rest
  begins, and the lines that it prints for the aws cli are pasted. Another `make` is only looked at, with `--dry-run`.
- A Redis is at 127.0.0.1:6379, and without a `make up` the reader's API at 127.0.0.1:8080. A page may start a
  receiver of webhooks at 127.0.0.1:9009. Each of these ports, and the default ports of our programs, is a free one
  instead.
- A block of `shell` is a command that is shown and not run; so is any other block. Those in `ALL_RUN` have none.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pytest

from authz.cli.up import die_with_parent
from tests.e2e.test_up import DEADLINE_SECONDS, OPTIONS, Up, up
from tests.site import ROOT, mistakes
from tests.support.servers import HOST, echo_server, free_port, redis_server

ALL_RUN = ("README.md", "docs/tutorial.md")
RUN = (
    *ALL_RUN,
    "docs/how-to/put-it-in-front-of-your-api.md",
    "docs/how-to/use-tls.md",
    "docs/how-to/manage-with-aws-tools.md",
    "docs/how-to/move-plans-in-and-out.md",
    "docs/how-to/rotate-a-key.md",
    "docs/how-to/limit-a-customer.md",
    "docs/how-to/restrict-a-key-to-addresses.md",
    "docs/how-to/keep-keys-clean.md",
    "docs/how-to/give-customers-a-page.md",
    "docs/how-to/charge-by-cost.md",
    "docs/how-to/try-a-plan-in-shadow.md",
    "docs/how-to/help-a-caller.md",
    "docs/how-to/bill-by-month-and-hour.md",
    "docs/how-to/sell-a-trial.md",
    "docs/how-to/invoice-overage.md",
    "docs/how-to/receive-alerts.md",
    "docs/how-to/make-it-fast.md",
)
DEFAULT_PORTS = dict(zip(OPTIONS, (10000, 9901, 8080, 8085, 50051, 9190), strict=True))
SHELLS = {"bash": ("bash",), "zsh": ("zsh", "-f")}
REDIS_PORT, API_PORT, RECEIVER_PORT = 6379, DEFAULT_PORTS["--echo-port"], 9009
PAGE_SECONDS = 500  # of a busy machine
BETWEEN = "\x1e"

BLOCK = re.compile(r"^( *)```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
PRINTS = re.compile(r"# prints: (\d{3})$", re.MULTILINE)
COLOUR = re.compile(r"\x1b\[[\d;]*m")
STATUS = re.compile(r"^\d{3}$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page: what stands in it, and where."""

    kind: str
    title: str
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Step:
    """A block that is run, with what it should print, if the page says it."""

    block: Block
    output: Block | None = None

    @property
    def make(self) -> list[str]:
        """The words of a block that is a single `make`; none for another."""
        words = shlex.split(self.block.text, comments=True) if self.block.kind == "sh" else []
        return words if words[:1] == ["make"] and self.block.text.count("\n") == 1 else []

    @property
    def is_up(self) -> bool:
        return self.make[1:2] == ["up"]

    def judge(self, printed: str) -> None:
        """Raises AssertionError if it is not what the page says."""
        if self.output:
            holds = bool(pattern(self.output.text).fullmatch(tidy(printed)))
            assert holds, f"line {self.output.line}: the page says\n{self.output.text}\nand it was\n{printed}"
        said = PRINTS.findall(self.block.text)
        assert not said or STATUS.findall(printed) == said, f"line {self.block.line}: it was\n{printed}"


def blocks(text: str) -> list[Block]:
    found = [(match, text.count("\n", 0, match.start()) + 1) for match in BLOCK.finditer(text)]
    return [Block(it[2], it[3] or "", outdented(it[4], it[1]), line) for it, line in found]


def outdented(text: str, indent: str) -> str:
    return "".join(line.removeprefix(indent) for line in text.splitlines(keepends=True))


def steps(text: str) -> list[Step]:
    """The blocks of a page that are run, in order."""
    found = blocks(text)
    outputs = [after if after and after.kind == "text" else None for after in [*found[1:], None]]
    return [Step(block, output) for block, output in zip(found, outputs, strict=True) if is_run(block)]


def is_run(block: Block) -> bool:
    return block.kind == "sh" or bool(block.title)


def pattern(said: str) -> re.Pattern[str]:
    """What an output matches that a page gives so."""
    lines = [r"(?:.*\n)*?" if line == "…" else escaped(line) for line in tidy(said).splitlines()]
    return re.compile("".join(lines))


def escaped(line: str) -> str:
    return ".*".join(map(re.escape, line.split("…"))) + "\n"


def tidy(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines()) + "\n"


def elsewhere(text: str, ports: Mapping[int, int]) -> str:
    """The text with these ports of this machine replaced."""
    return re.sub(rf"({re.escape(HOST)}):(\d+)\b", lambda it: f"{it[1]}:{ports.get(int(it[2]), it[2])}", text)


class Reader:
    """A reader who has the page open, and two terminals in a clone."""

    def __init__(self, clone: Path, ports: Mapping[int, int], shell: str = "bash") -> None:
        self.clone = clone
        self.ports = ports
        self.shell = shell
        self.pasted = ""

    def take(self, ready: Up) -> str:
        """Reads what `make up` printed, and pastes its lines."""
        self.pasted = ready.aws_environment
        return ready.text

    def run(self, found: list[Step]) -> list[str]:
        """What each step prints. Raises AssertionError if one fails that should not."""
        script, output = self.clone / ".script", self.clone / ".output"
        script.write_text(elsewhere("\n".join([self.pasted, *map(as_script, found)]), self.ports))
        with output.open("wb") as written, self._running(script, written) as process:
            code = ending(process)
        printed = output.read_text(errors="replace").split(BETWEEN)
        at = len(printed) - 1
        assert at == len(found), f"line {found[at].block.line} {code}: {printed[-1]}"
        return printed[:-1]

    def _settings(self) -> dict[str, str]:
        """The sidecar's default addresses, elsewhere."""
        places = {"AUTHZ_GRPC_LISTEN": "--grpc-port", "AUTHZ_HTTP_LISTEN": "--http-port"}
        return {name: f"{HOST}:{self.ports[DEFAULT_PORTS[option]]}" for name, option in places.items()}

    @contextmanager
    def _running(self, script: Path, written: BinaryIO) -> Iterator[subprocess.Popen[bytes]]:
        """With whatever it started; all of it ends when the block does."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "AUTHZ_"))}
        nobody = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
        process = subprocess.Popen(
            SHELLS[self.shell] + (str(script),),
            cwd=self.clone,
            env={**kept, **nobody, **self._settings(), "PIP_DISABLE_PIP_VERSION_CHECK": "1", "HOME": str(self.clone)},
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent(os.getpid()),
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(DEADLINE_SECONDS)


def ending(process: subprocess.Popen[bytes]) -> str:
    """How it ended, or that it did not."""
    try:
        return f"ended with {process.wait(PAGE_SECONDS)}"
    except subprocess.TimeoutExpired:
        return f"has not ended after {PAGE_SECONDS} s"


def as_script(step: Step) -> str:
    if step.block.title:
        body = f"cat > {shlex.quote(step.block.title)} <<'END OF FILE'\n{step.block.text}END OF FILE"
    elif step.make:
        body = f"{shlex.join([*step.make[:1], '--dry-run', *step.make[1:]])} > /dev/null"
    else:
        body = step.block.text
    return f"set {'+' if step.output else '-'}e\n{body}\nprintf '{BETWEEN}'"


@contextmanager
def reader_of(text: str, clone: Path, shell: str = "bash") -> Iterator[tuple[Reader, str]]:
    """A reader of this page, and what its `make up` printed, if it has one."""
    started = next((step for step in steps(text) if step.is_up), None)
    with ExitStack() as world:
        ports = {default: free_port() for default in (*DEFAULT_PORTS.values(), RECEIVER_PORT)}
        if "127.0.0.1:6379" in text:
            ports[REDIS_PORT] = port_of(world.enter_context(redis_server()).url)
        if not started:
            ports[API_PORT] = port_of(world.enter_context(echo_server()).address)
        reader, greeting = Reader(clone, ports, shell), ""
        if started:
            flags = [word for option, port in DEFAULT_PORTS.items() for word in (option, str(ports[port]))]
            running = world.enter_context(up(clone, *more_of(started, ports), *flags))
            running.until_ready()
            greeting = reader.take(running)
        yield reader, greeting


def more_of(started: Step, ports: Mapping[int, int]) -> list[str]:
    """The words in its ARGS."""
    given = [word.removeprefix("ARGS=") for word in started.make if word.startswith("ARGS=")]
    return shlex.split(elsewhere(" ".join(given), ports))


def port_of(address: str) -> int:
    found = re.search(r":(\d+)(?:/|$)", address)
    assert found, address
    return int(found[1])


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone where `make up` has installed everything; files written beside it stay out of the tree."""
    for file in ROOT.iterdir():
        if not file.name.startswith("."):
            (tmp_path / file.name).symlink_to(file)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


@pytest.mark.parametrize("page", RUN)
def test_a_page_does_what_it_says(page: str, clone: Path) -> None:
    follow(page, clone, "bash")


@pytest.mark.skipif(not shutil.which("zsh"), reason="no zsh on PATH")
@pytest.mark.parametrize("page", ALL_RUN)
def test_a_page_for_newcomers_does_what_it_says_in_zsh_too(page: str, clone: Path) -> None:
    follow(page, clone, "zsh")


def follow(page: str, clone: Path, shell: str) -> None:
    """Raises AssertionError where the page does not do what it says."""
    text = (ROOT / page).read_text("utf-8")
    with reader_of(text, clone, shell) as (reader, greeting):
        found = steps(elsewhere(text, reader.ports))
        for step in found:
            if step.is_up:
                step.judge(greeting)
        read(reader, [step for step in found if not step.is_up])


def read(reader: Reader, found: list[Step]) -> None:
    """Raises AssertionError where a step does not do what the page says."""
    for step, printed in zip(found, reader.run(found), strict=True):
        step.judge(printed)


@pytest.mark.parametrize("page", ALL_RUN)
def test_every_block_is_run(page: str) -> None:
    found = blocks((ROOT / page).read_text("utf-8"))
    shown = [step.output for step in steps((ROOT / page).read_text("utf-8"))]
    assert [(block.line, block.kind) for block in found if not is_run(block) and block not in shown] == []


def test_make_up_is_authz_up() -> None:
    command = ["make", "--dry-run", "--no-print-directory", "--old-file=.venv/.stamp-up", "up", "ARGS=--server grpcio"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1] == ".venv/bin/authz up --server grpcio"


@pytest.mark.parametrize(
    ("said", "printed", "holds"),
    [
        ("200 OK", "200 OK\n", True),
        ("200 OK", "200\n", False),
        ("id: …, on", "id: a1b2, on\n", True),
        ("id: …, on", "id: a1b2\n, on\n", False),
        ("a\n…\nd", "a\nb\nc\nd\n", True),
        ("a\n…\nd", "a\nd\n", True),
        ("a\n…\nd", "a\nb\nc\n", False),
        ("a.c", "abc\n", False),
        ("a", "a\n\n", True),
    ],
)
def test_what_a_page_says_of_an_output(said: str, printed: str, holds: bool) -> None:
    assert bool(pattern(said).fullmatch(tidy(printed))) == holds


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ("```sh\nexit 3\n```", "line 1 ended with 3"),
        ("```sh\nfalse\ntrue\n```\n", "line 1 ended with 1"),
        ("```sh\necho 1\n```\n\n```text\n2\n```", "line 5: the page says"),
        ("```sh\necho 403 # prints: 200\n```", "line 1: it was"),
        ("```sh\nmake no-such-target\n```", "line 1 ended with 2"),
    ],
    ids=["fails", "fails in the middle", "prints otherwise", "another status", "no such target"],
)
def test_a_page_that_is_wrong_is_found(body: str, wrong: str, clone: Path) -> None:
    with reader_of(body, clone) as (reader, _), pytest.raises(AssertionError, match=wrong):
        read(reader, steps(body))


def told_of(root: Path, at: Path) -> str:
    """Build the site of these pages in `at`, and return its mistakes."""
    shutil.copytree(root / "docs", at / "docs")
    shutil.copy(root / "zensical.toml", at)
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--strict", "--clean"]
    run = subprocess.run(command, cwd=at, capture_output=True, text=True, check=False)
    wrong = COLOUR.sub("", run.stderr) if run.returncode else ""
    return "\n".join([*mistakes(at / "dist/site", root), wrong]).strip()


def test_the_site_builds_and_no_link_of_it_is_broken(tmp_path: Path) -> None:
    told = told_of(ROOT, tmp_path)
    assert not told, told


PAGES = {"index.md": "# Home\n\n[a](a.md#one)\n", "a.md": "# A\n\n## One\n"}
MENU = """
[project]
site_name = "T"
site_dir = "dist/site"
nav = ["index.md", {"A" = ["a.md"]}]
[project.theme]
font = false
"""
ADMONITIONS = """
[project.plugins.gh-admonitions]
enabled = true
"""


@pytest.mark.parametrize(
    ("pages", "menu", "found"),
    [
        ({}, MENU, ""),
        ({"a.md": "# A\n"}, MENU, "anchor does not exist"),
        ({"a.md": "## One\n\n[b](b.md)\n"}, MENU, "page does not exist"),
        ({"b.md": "# B\n"}, MENU, "docs/b.md: not in the menu"),
        ({}, MENU.replace("a.md", "b.md"), "docs/b.md: in the menu of zensical.toml, and no file"),
        ({}, MENU.replace("index.md", "a.md"), "docs/a.md: twice in the menu"),
        ({"a.md": "## One\n\n![it](it.svg)\n"}, MENU, "it.svg: no such page"),
        ({"a.md": '## One\n\n<a href="../b/">b</a>\n'}, MENU, "../b/: no such page"),
        ({"a.md": '## One\n\n<a href="#two">b</a>\n'}, MENU, "does not exist"),
        ({"a.md": '## One\n\n<a href="/a/#two">b</a>\n'}, MENU, "/a/#two: no such heading"),
        ({"a.md": "## One\n\n![it](https://example.org/it.svg)\n"}, MENU, "from another host"),
        ({"a.md": "## One\n\n> [!WARNING]\n> Mind the gap.\n"}, MENU, "an admonition as plain text"),
        ({"a.md": "## One\n\n> [!WARNING]\n> Mind the gap.\n"}, MENU + ADMONITIONS, ""),
        ({"a.md": "## One\n\n```mermaid\nflowchart LR\n```\n"}, MENU, "fetches Mermaid from another host"),
        ({"../README.md": "[a](docs/b.md)"}, MENU, "README.md: docs/b.md: no such file"),
        ({"../README.md": "[a](docs/a.md#two)"}, MENU, "README.md: docs/a.md#two: no such heading"),
        ({"../README.md": "[a](docs/a.md#one) `[b](c)`"}, MENU, ""),
    ],
)
def test_a_site_that_is_wrong_is_found(pages: dict[str, str], menu: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "from/docs").mkdir(parents=True)
    for name, text in {**PAGES, **pages}.items():
        (tmp_path / "from/docs" / name).write_text(text)
    (tmp_path / "from/zensical.toml").write_text(menu)
    (tmp_path / "to").mkdir()
    told = told_of(tmp_path / "from", tmp_path / "to")
    assert found in told if found else not told


COMMENT = re.compile(r"(^|\s)#(\s|$)", re.MULTILINE)
PROMPT = re.compile(r"^\$ ", re.MULTILINE)
SHOWN = sorted(str(path.relative_to(ROOT)) for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", SHOWN)
def test_what_a_page_shows_can_be_pasted_into_zsh(page: str) -> None:
    """Typed there, a comment is a command that is not found; and a variable is one word, whatever is in it."""
    shown = [block for block in blocks((ROOT / page).read_text("utf-8")) if block.kind in {"sh", "shell"}]
    scripts = {
        block.line: re.sub(r"<<('?)(\w+)\1\n.*?\n\2$", "", block.text, flags=re.DOTALL | re.MULTILINE)
        for block in shown
    }
    assert [line for line, script in scripts.items() if COMMENT.search(script)] == []
    if zsh := shutil.which("zsh"):
        found = [
            (line, subprocess.run([zsh, "-fn"], input=text, capture_output=True, text=True, check=False).stderr)
            for line, text in scripts.items()
        ]
        assert [(line, said) for line, said in found if said] == []


@pytest.mark.parametrize("page", SHOWN)
def test_no_block_begins_with_a_prompt(page: str) -> None:
    """A prompt that is copied with its command is a command that is not found."""
    assert [block.line for block in blocks((ROOT / page).read_text("utf-8")) if PROMPT.search(block.text)] == []
