"""What the doctor says, and the form of a rule: one function that looks at facts, with the words for what it sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import cleandoc
from typing import Final, Literal

from authz.doctor.facts import Facts

Severity = Literal["error", "warning", "info"]
SEVERITIES: Final[tuple[Severity, ...]] = ("error", "warning", "info")


@dataclass(frozen=True, slots=True)
class Finding:
    """One trap in one place. `id` and the names of the fields stay the same from version to version."""

    id: str
    severity: Severity
    where: str
    seen: str
    why: str
    fix: str


@dataclass(frozen=True, slots=True)
class Seen:
    """Where a rule is broken, and by what; `fix` where it depends on that."""

    where: str
    what: str
    fix: str = ""


Look = Callable[[Facts], Iterator[Seen]]


@dataclass(frozen=True, slots=True)
class Rule:
    """A trap that is looked for. `when` is its condition in a sentence, for the reference."""

    id: str
    severity: Severity
    when: str
    why: str
    fix: str
    look: Look

    def findings(self, facts: Facts) -> Iterator[Finding]:
        for seen in self.look(facts):
            yield Finding(self.id, self.severity, seen.where, seen.what, self.why, seen.fix or self.fix)


def not_understood(rule: Rule, error: Exception) -> Finding:
    """Report the kind of the error only: its text may quote the configuration."""
    why = "The configuration has a form that this rule does not know, so the rule checked nothing."
    fix = "report it, with the version of the program that was looked at; the other rules hold"
    return Finding("not-understood", "warning", f"rule {rule.id}", type(error).__name__, why, fix)


def rule(severity: Severity, *, why: str, fix: str) -> Callable[[Look], Rule]:
    """Makes a function a rule: its name is the id, its docstring the condition."""

    def of(look: Look) -> Rule:
        return Rule(look.__name__.replace("_", "-"), severity, cleandoc(look.__doc__ or ""), why, fix, look)

    return of
