"""Check the English of the repository: `python -m tests.words` fails on phrases that are hard to read.

It reads docstrings, comments, messages, names of tests, and pages.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

ROOT: Final = Path(__file__).parents[1]
SKIPPED: Final = ("authz/envoy/pb/", "tests/words.", "tests/unit/test_words.py", "tests/deploy/schemas/")
HASH_COMMENTS: Final = (".sh", ".toml", ".yaml", ".yml", ".j2", ".conf", ".service", "Makefile", "Dockerfile", "/run")
# Directives; the words after the codes of one are prose.
NOT_PROSE: Final = re.compile(
    r"^!.*|(?:noqa|type: ignore)(?:: ?[A-Z]+\d+(?:, ?[A-Z]+\d+)*|\[[^]]*\])?"
    r"|(?:ruff:|fmt:|shellcheck|yaml-language-server).*"
)
MIN_WORDS: Final = 4  # a shorter string is a name or a value

Kind = Literal["docstring", "comment", "message", "test name", "page"]

NOT_BE: Final = "".join(rf"(?<!\b{verb} )" for verb in ("is", "are", "was", "were", "be", "stays", "means"))
NO_NOUN: Final = "is|are|was|for|in|of|goes|holds|with|by|to|on|at|happens|applies|again"
# Each form as a regular expression, and the plain words to use in its place.
FORMS: Final = {
    "so many": (r"(?i)\bso many\b", "name the parameter: up to `count` words"),
    # Not of a time that passed: so long ago.
    "so long": (r"(?i)\bso (?:long|much|often)\b(?! ago\b)", "name the value: for `seconds`, at most this long"),
    "somebody": (r"(?i)\b(?:some|any)body(?:'s)?\b", "name the actor: a caller, every client, another process"),
    "of which": (r"(?i)\bof (?:which|whom)\b", "two sentences"),
    "whoever": (r"(?i)\bwho(?:m|so)?ever\b", "name the actor: a caller, the client"),
    "nobody": (r"(?i)\bnobody(?:'s)?\b", "name the actor: no caller, no other process"),
    "what is": (
        r"(?i)\bwhat (?:(?:it|they|he|she|we) )?(?:is|are|was|were|has been|have been|cannot)\b(?![^.:;]*\?)",
        "use a noun: the excess, the stored value",
    ),
    "told": (r"(?i)\btold\b", "reported, passed, configured"),
    "asked": (r"(?i)\basked\b", "queried, requested"),
    "hears of": (r"(?i)\bhear[sd]? (?:of|so|that|from)\b", "receives, notices"),
    # As a pronoun: no noun follows it. Behind a form of "be" it is an adjective: two things are the same.
    "the same": (
        rf"(?i){NOT_BE}\bthe same\b(?=\s*(?:[.,;:)]|$|(?:{NO_NOUN})\b))",
        "repeat the noun, or: likewise",
    ),
    "number": (
        r"\b(?:[RPCDA]\d{1,3}|S(?!3\b)\d{1,3})\b",
        "say the rule, or name its heading in docs/explanation/rules.md",
    ),
    "the oracle": (r"(?i)\bthe oracle\b", "the model"),
}


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of prose, and where it stands."""

    path: str
    line: int
    kind: Kind
    words: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One form in one text; `line` is that of the form."""

    path: str
    line: int
    form: str
    excerpt: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.form}: {self.excerpt}  ({FORMS[self.form][1]})"


def findings(text: Text) -> Iterator[Finding]:
    """The forms in a text. Code in backticks and the targets of links are no prose."""
    prose = _without_code(text.words)
    for form, (pattern, _) in FORMS.items():
        for found in re.finditer(pattern, prose):
            line = text.line + prose.count("\n", 0, found.start())
            excerpt = " ".join(prose[max(0, found.start() - 30) : found.end() + 30].split())
            yield Finding(text.path, line, form, f"…{excerpt}…")


def texts(path: str, source: str) -> Iterator[Text]:
    """The prose of a file, by the kind of the file."""
    if path.endswith(".py"):
        yield from _python(path, source)
    elif path.endswith(".lua"):
        yield from _comments(path, source, "--")
    elif path.endswith((".proto", ".go", ".mjs")):
        yield from _comments(path, source, "//")
    elif path.endswith(".md"):
        yield from _page(path, source)
    elif path.endswith(HASH_COMMENTS):
        yield from _comments(path, source, "#")


def _python(path: str, source: str) -> Iterator[Text]:
    tree = ast.parse(source)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            name = re.sub(r"\b[rpcdas]\d{1,3}\b", _upper, node.name.replace("_", " "))
            yield Text(path, node.lineno, "test name", name)
        if isinstance(node, documented) and (body := node.body) and (string := _docstring(body[0])):
            docstrings.add(id(string))
            yield Text(path, string.lineno, "docstring", str(string.value))
    for number, comment in _python_comments(source):
        yield Text(path, number, "comment", comment)
    if path.startswith(("authz/", "docs/", "deploy/", "protos/")):  # the strings of tests and benchmarks are data
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and id(node) not in docstrings and _is_sentence(node.value):
                yield Text(path, node.lineno, "message", str(node.value))


def _upper(found: re.Match[str]) -> str:
    return found[0].upper()


def _is_sentence(value: object) -> bool:
    return isinstance(value, str) and len(value.split()) >= MIN_WORDS


def _docstring(statement: ast.stmt) -> ast.Constant | None:
    if isinstance(statement, ast.Expr) and isinstance(string := statement.value, ast.Constant):
        return string if isinstance(string.value, str) else None
    return None


def _python_comments(source: str) -> Iterator[tuple[int, str]]:
    """Comments, with their first line; those on successive lines are one text."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    yield from _joined((one.start[0], one.string.lstrip("# ")) for one in tokens if one.type == tokenize.COMMENT)


def _comments(path: str, source: str, mark: str) -> Iterator[Text]:
    """Whatever follows the mark at the start of a line or after a blank."""
    found = re.compile(rf"(?:^|\s){re.escape(mark)}+\s?(.*)")
    lines = ((number, match[1]) for number, line in enumerate(source.splitlines(), 1) if (match := found.search(line)))
    for number, comment in _joined(lines):
        yield Text(path, number, "comment", comment)


def _joined(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    first, last, words = 0, 0, ""
    for number, line in lines:
        line = NOT_PROSE.sub("", line).strip()
        if words and number == last + 1:
            words, last = f"{words}\n{line}", number
            continue
        if words:
            yield first, words
        first, last, words = number, number, line
    if words:
        yield first, words


def _page(path: str, source: str) -> Iterator[Text]:
    """Paragraphs; fenced code becomes empty lines."""
    bare = re.sub(r"^( *)(```|~~~).*?^\1\2[^\n]*$", _blank, source, flags=re.MULTILINE | re.DOTALL)
    line = 1
    for paragraph in re.split(r"(\n\s*\n)", bare):
        if paragraph.strip():
            yield Text(path, line, "page", paragraph)
        line += paragraph.count("\n")


def _blank(found: re.Match[str]) -> str:
    return "\n" * found[0].count("\n")


def _without_code(words: str) -> str:
    """The text with blanks in place of code in backticks and of the targets of links."""
    return re.sub(r"``.+?``|`[^`]*`|\]\([^)]*\)|<[^<>]*>", _dots, words, flags=re.DOTALL)


def _dots(found: re.Match[str]) -> str:
    return re.sub(r"[^\n]", "·", found[0])


def files() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    texts = (path for path in listed.splitlines() if not path.endswith(".png"))
    return [path for path in texts if not path.startswith(SKIPPED) and (ROOT / path).is_file()]


def read(path: str) -> list[Text]:
    return [*texts(path, (ROOT / path).read_text("utf-8"))]


def count(paths: Sequence[str]) -> str:
    """A line for each kind of text: how many there are, and the share with a form."""
    every, faulty = Counter[str](), Counter[str]()
    for text in (text for path in paths for text in read(path)):
        every[text.kind] += 1
        faulty[text.kind] += any(True for _ in findings(text))
    return "\n".join(f"{kind}: {faulty[kind]} of {total}, {faulty[kind] / total:.1%}" for kind, total in every.items())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.words", description=__doc__.split("\n")[0])
    parser.add_argument("paths", nargs="*", help="look only below these paths")
    parser.add_argument("--count", action="store_true", help="show the share of affected texts instead")
    given = parser.parse_args(arguments)
    below = tuple(given.paths)
    paths = [path for path in files() if not below or path.startswith(below)]
    if given.count:
        sys.stdout.write(f"{count(paths)}\n")
        return 0
    found = [one for path in paths for text in read(path) for one in findings(text)]
    sys.stdout.write("".join(f"{one}\n" for one in found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
