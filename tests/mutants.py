"""Measure whether the tests notice a fault: `python -m tests.mutants` changes one operator at a time and runs them.

A mutant is one change of one line, drawn with a seed. It is killed if a test fails or takes too long, and survives if
all pass. Only the fast tests of the changed module run, in a copy of the tree; first all of them, without a mutant.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
SECONDS: Final = 300  # for the tests of a mutant; one that runs into an endless loop is killed
COPIED: Final = ("authz", "tests", "docs", "bench", "deploy", "envoy", "protos", "pyproject.toml", "README.md")

# Which tests have to notice a fault in which module.
TESTS: Final[Mapping[str, Sequence[str]]] = {
    "authz/check.py": ("tests/unit/test_check.py",),
    "authz/core/catalog.py": (
        "tests/unit/core/test_catalog.py",
        "tests/unit/core/test_compiler.py",
        "tests/unit/test_check.py",
        "tests/unit/test_explain.py",
    ),
    "authz/core/credentials.py": ("tests/unit/core/test_credentials.py",),
    "authz/core/limits.py": ("tests/unit/core/test_limits.py", "tests/property/test_limits.py"),
    "authz/core/periods.py": ("tests/unit/core/test_periods.py", "tests/property/test_periods.py"),
    "authz/core/planrules.py": ("tests/unit/core/test_planrules.py",),
    "authz/core/responses.py": ("tests/unit/core/test_responses.py",),
    "authz/core/routes.py": ("tests/unit/core/test_routes.py", "tests/property/test_routes.py"),
    "authz/core/rules.py": ("tests/unit/core/test_rules.py",),
    "authz/core/verdict.py": ("tests/unit/core/test_verdict.py", "tests/unit/envoy/test_edge.py"),
    "authz/core/zones.py": ("tests/unit/core/test_zones.py", "tests/unit/core/test_periods.py"),
    "authz/limiter/batching.py": (
        "tests/unit/limiter/test_batching.py",
        "tests/integration/test_batches.py",
        "tests/integration/test_charge_once.py",
    ),
    "authz/limiter/circuit.py": ("tests/unit/limiter/test_circuit.py",),
    "authz/limiter/local.py": ("tests/property/test_fallback.py",),
    "authz/limiter/refusals.py": ("tests/unit/limiter/test_refusals.py",),
    "authz/redisio/lua/admit.lua": ("tests/integration/test_limiter.py", "tests/property/test_admit.py"),
    "authz/redisio/lua/flush.lua": ("tests/integration/test_limiter.py",),
    "authz/control/auth.py": ("tests/unit/control", "tests/integration/test_security.py"),
    "authz/aws/signature.py": ("tests/unit/aws/test_signature.py",),
}

OPERATORS: Final[Mapping[type[ast.AST], tuple[str, str]]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "+"),
    ast.And: ("and", "or"),
    ast.Or: ("or", "and"),
}
LUA: Final = (
    (r" < ", " <= "),
    (r" <= ", " < "),
    (r" > ", " >= "),
    (r" >= ", " > "),
    (r" == ", " ~= "),
    (r" ~= ", " == "),
    (r" \+ ", " - "),
    (r" - ", " + "),
    (r" and ", " or "),
    (r" or ", " and "),
    (r"math\.min", "math.max"),
    (r"math\.max", "math.min"),
)


@dataclass(frozen=True, slots=True)
class Mutant:
    """The text of a module between two characters, and its replacement."""

    path: str
    start: int
    end: int
    new: str

    def of(self, source: str) -> str:
        return f"{source[: self.start]}{self.new}{source[self.end :]}"

    def describe(self, source: str) -> str:
        line = source.count("\n", 0, self.start) + 1
        text = source.splitlines()[line - 1].strip()
        return (
            f"{self.path}:{line}: {source[self.start : self.end].strip()} -> {self.new.strip() or 'nothing'} in: {text}"
        )


def mutants(path: str, source: str) -> Iterator[Mutant]:
    return _lua(path, source) if path.endswith(".lua") else _python(path, source)


def _python(path: str, source: str) -> Iterator[Mutant]:
    lines = source.splitlines(keepends=True)
    starts = [*itertools.accumulate(map(len, lines), initial=0)]

    def at(line: int, column: int) -> int:
        """The character at a position of `ast`, which counts bytes."""
        return starts[line - 1] + len(lines[line - 1].encode()[:column].decode())

    for node in _nodes(ast.parse(source)):
        if operator := _operator(node):
            kind, left, right = operator
            old, new = OPERATORS[kind]
            start, end = at(left.end_lineno or 0, left.end_col_offset or 0), at(right.lineno, right.col_offset)
            if found := re.search(rf"(?<![<>=!\w]){re.escape(old)}(?![<>=\w])", source[start:end]):
                yield Mutant(path, start + found.start(), start + found.end(), new)
        elif isinstance(node, ast.expr) and (word := _word(node)):
            start = at(node.lineno, node.col_offset)
            yield Mutant(path, start, start + len(word[0]), word[1])


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but the options of a struct, such as `frozen=True`: they change no decision."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(tree, ast.ClassDef) and (node in tree.keywords or node in tree.decorator_list)):
            yield node
            yield from _nodes(node)


def _operator(node: ast.AST) -> tuple[type[ast.AST], ast.expr, ast.expr] | None:
    """The kind of an operator of two operands that can be exchanged, and the operands."""
    match node:
        case ast.Compare(left=left, ops=[operator], comparators=[right]):
            found: tuple[type[ast.AST], ast.expr, ast.expr] = type(operator), left, right
        case ast.BinOp(left=left, op=operator, right=right) | ast.BoolOp(op=operator, values=[left, right]):
            found = type(operator), left, right
        case _:
            return None
    return found if found[0] in OPERATORS else None


def _word(node: ast.expr) -> tuple[str, str] | None:
    """The word at the start of an expression, and its opposite."""
    match node:
        case ast.UnaryOp(op=ast.Not()):
            return "not", ""
        case ast.Constant(value=bool(value)):
            return str(value), str(not value)
        case ast.Call(func=ast.Name(id="min")):
            return "min", "max"
        case ast.Call(func=ast.Name(id="max")):
            return "max", "min"
        case _:
            return None


def _lua(path: str, source: str) -> Iterator[Mutant]:
    at = 0
    for line in source.splitlines(keepends=True):
        code = line.split("--")[0]
        for old, new in LUA:
            for found in re.finditer(old, code):
                yield Mutant(path, at + found.start(), at + found.end(), new)
        at += len(line)


def drawn(count: int, seed: int, paths: Sequence[str]) -> list[Mutant]:
    """A sample without replacement, evenly over the modules as far as they have mutants."""
    draw = random.Random(seed)
    left = {path: [*mutants(path, (ROOT / path).read_text("utf-8"))] for path in paths}
    for some in left.values():
        draw.shuffle(some)
    sample: list[Mutant] = []
    while len(sample) < count and any(left.values()):
        sample += [some.pop() for some in left.values() if some]
    return sample[:count]


class Fate(StrEnum):
    """What the tests say about a mutant; or that they did not run, which says nothing."""

    KILLED = "killed"
    SURVIVED = "SURVIVED"
    ERROR = "ERROR"


def fate(mutant: Mutant, copy: Path) -> Fate:
    """The result of the tests with this fault in the copy of the tree."""
    target = copy / mutant.path
    source = target.read_text("utf-8")
    target.write_text(mutant.of(source), "utf-8")
    try:
        status = run(TESTS[mutant.path], copy, SECONDS).returncode
    except subprocess.TimeoutExpired:
        return Fate.KILLED
    finally:
        target.write_text(source, "utf-8")
    match status:
        case pytest.ExitCode.OK:
            return Fate.SURVIVED
        case pytest.ExitCode.TESTS_FAILED:
            return Fate.KILLED
        case _:
            return Fate.ERROR


def run(tests: Iterable[str], copy: Path, seconds: float | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(copy), "AUTHZ_TEST_EXAMPLES": "ci"}
    return subprocess.run(
        command, cwd=copy, env=environment, capture_output=True, text=True, timeout=seconds, check=False
    )


def copy_to(folder: Path) -> None:
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=60, help="mutants to draw (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="another seed draws others (default: %(default)s)")
    parser.add_argument("paths", nargs="*", help="modules to change (default: all that have their tests named here)")
    given = parser.parse_args(arguments)
    sample = drawn(given.count, given.seed, given.paths or [*TESTS])
    fates: Counter[Fate] = Counter()
    with TemporaryDirectory(prefix="authz-mutants-") as folder:
        copy = Path(folder)
        copy_to(copy)
        unchanged = run(sorted({test for mutant in sample for test in TESTS[mutant.path]}), copy)
        if unchanged.returncode:
            sys.exit(f"{unchanged.stdout}{unchanged.stderr}\nthe tests do not pass without a fault")
        for number, mutant in enumerate(sample, 1):
            one = fate(mutant, copy)
            fates[one] += 1
            text = mutant.describe((copy / mutant.path).read_text("utf-8"))
            sys.stdout.write(f"{number}/{len(sample)} {one} {text}\n")
            sys.stdout.flush()
    judged = fates[Fate.KILLED] + fates[Fate.SURVIVED]
    sys.stdout.write(f"score: {fates[Fate.KILLED]} of {judged} killed, {fates[Fate.KILLED] / max(1, judged):.0%}\n")
    if fates[Fate.ERROR]:
        sys.stdout.write(f"{fates[Fate.ERROR]} are not judged: their tests did not run\n")
    return int(fates[Fate.ERROR] > 0)


if __name__ == "__main__":
    sys.exit(main())
