"""The doctor's findings for people, for machines, and the list of all that it looks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import IO, Final

import msgspec
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from authz.doctor.finding import SEVERITIES, Finding, Severity
from authz.doctor.rules.alerts import ALERT_RULES
from authz.doctor.rules.envoy import ENVOY_RULES
from authz.doctor.rules.processes import PROCESS_RULES
from authz.doctor.rules.redis import REDIS_RULES

FORMAT: Final = 1  # of the JSON; grows when a field changes its meaning or goes
COLOURS: Final[dict[Severity, str]] = {"error": "bold red", "warning": "yellow", "info": "cyan"}
PARTS: Final = (
    ("Sidecars and control planes", PROCESS_RULES),
    ("Envoy", ENVOY_RULES),
    ("Redis", REDIS_RULES),
    ("Alerts", ALERT_RULES),
)
HEAD: Final = """\
# What the doctor looks for

<!-- Printed by `authz doctor --list`; a test fails when it is out of date. -->

`authz doctor` looks for these mistakes, each in the programs whose addresses you give it.
[Find mistakes](../how-to/find-mistakes.md) shows how. The ids stay the same from version to version.

- An **error** lets requests past the check, or keeps the system from working.
- A **warning** is wrong in most systems.
- An **info** is worth knowing.

The warning `not-understood` names a rule that met an unknown form, and so checked nothing.
"""


def counts(findings: Iterable[Finding]) -> dict[Severity, int]:
    """How many of each severity."""
    found = Counter(finding.severity for finding in findings)
    return {severity: found[severity] for severity in SEVERITIES}


def as_json(findings: Sequence[Finding], looked_at: Sequence[str]) -> str:
    """One object: `format`, `lookedAt`, `summary` (a count a severity) and `findings`, the worst first."""
    document = {
        "format": FORMAT,
        "lookedAt": looked_at,
        "summary": counts(findings),
        "findings": [asdict(finding) for finding in findings],
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()


def show(findings: Sequence[Finding], looked_at: Sequence[str], file: IO[str]) -> None:
    """A table a severity and a summary in a terminal; elsewhere plain lines, which programs and diffs can read."""
    console = Console(file=file, highlight=False, soft_wrap=False)
    if not console.is_terminal:
        file.writelines(f"{line}\n" for line in _lines(findings))
        file.write(f"{_summary(findings, looked_at).plain}\n")
        return
    for severity in SEVERITIES:
        of_it = [finding for finding in findings if finding.severity == severity]
        if of_it:
            console.print(_table(severity, of_it))
    console.print(_summary(findings, looked_at))


def _lines(findings: Iterable[Finding]) -> Iterator[str]:
    """A finding's first line has all that `grep` needs; the others are indented, and a blank line ends it."""
    for finding in findings:
        seen, *more = finding.seen.splitlines() or [""]
        yield f"{finding.severity}: {finding.id}: {finding.where}: {seen}"
        yield from (f"  {line}" for line in more)
        yield f"  {finding.why}"
        first, *rest = finding.fix.splitlines() or [""]
        yield f"  fix: {first}"
        yield from (f"       {line}" for line in rest)
        yield ""


def _table(severity: Severity, findings: Sequence[Finding]) -> Table:
    table = Table(title=Text(severity.upper(), COLOURS[severity]), title_justify="left", box=SIMPLE, expand=True)
    table.add_column("finding, and where", ratio=2, overflow="fold")
    table.add_column("evidence, why it matters, the fix", ratio=3, overflow="fold")
    for finding in findings:
        table.add_row(
            Text.assemble((finding.id, COLOURS[severity]), f"\n{finding.where}"),
            Text.assemble(f"{finding.seen}\n", (f"{finding.why}\n", "dim"), ("fix: ", "bold"), f"{finding.fix}\n"),
        )
    return table


def _summary(findings: Sequence[Finding], looked_at: Sequence[str]) -> Text:
    words = Text(f"Looked at {', '.join(looked_at)}: ")
    if not findings:
        return words.append("nothing found.", "green")
    for number, (severity, count) in enumerate(one for one in counts(findings).items() if one[1]):
        plural = "" if count == 1 or severity == "info" else "s"
        words.append(", " if number else "").append(f"{count} {severity}{plural}", COLOURS[severity])
    return words.append(".")


def reference() -> str:
    """The page of all rules, in Markdown."""
    lines = [HEAD]
    for title, rules in PARTS:
        lines.append(f"## {title}\n")
        for rule in rules:
            when = " ".join(rule.when.split())
            lines.append(f"### `{rule.id}`\n\n**{rule.severity}.** {when}\n\n{rule.why}\n\nFix: {rule.fix}\n")
    return "\n".join(lines)
