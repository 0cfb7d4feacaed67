"""`make up` in a terminal, as the README shows it: its lines answer what it says, and Ctrl-C ends it in good order.

Runs on a bare Python, before there is a `.venv`: nothing but the standard library.
"""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time

SECONDS = 1800  # to install everything, on a slow machine
ANSWERS = (  # how the answer to each line ends, as a pattern
    "403",
    "200",
    "200 200 200 200 200 429 429 429",
    "429",
    "200 200 200 200 429",
    "HTTP/1.1 429 .*\nratelimit: .*",
)
CTRL_C = b"\x03"


def main() -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp("make", ["make", "up"])
    said = read(terminal, "The lines above")
    lines = re.findall(r"^  (curl .*?)\r?$", said, re.MULTILINE)
    for line, answer in zip(lines, ANSWERS, strict=True):
        printed = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True).stdout
        assert re.search(f"{answer}$", printed.strip().replace("\r", "")), f"{line}\nprinted {printed}"
    os.write(terminal, CTRL_C)
    last = read(terminal, None)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert "stopped" in last, last
    assert "Traceback" not in last, last
    sys.stdout.write(f"make up: {len(lines)} lines answered as promised; ended with {status}\n")


def read(terminal: int, until: str | None) -> str:
    """What the terminal shows until it shows that, or until its program has ended; it is shown here too."""
    text, deadline = b"", time.monotonic() + SECONDS
    while until is None or until.encode() not in text:
        assert time.monotonic() < deadline, f"{until!r} did not come within {SECONDS} s"
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            more = os.read(terminal, 4096)
        except OSError:  # Linux's error when the other side is closed
            more = b""
        if not more:
            assert until is None, f"it ended before {until!r}"
            break
        text += more
        sys.stdout.write(more.decode(errors="replace"))
        sys.stdout.flush()
    return text.decode(errors="replace")


if __name__ == "__main__":
    main()
