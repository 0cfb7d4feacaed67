"""What commands share: how they take files, and how the list of commands is grouped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from click.core import ParameterSource

from authz.config.faults import ConfigError
from authz.core.rules import Problem

F = TypeVar("F", bound=Callable[..., Any])


class File(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases of click
    """A file's name. What is wrong with it is said as what is wrong in a file is: the name, and the rule.

    Raises ConfigError for a name that is empty or a directory's, and with `exists` for a file that is not there.
    """

    name = "file"

    def __init__(self, exists: bool = False, directories: bool = False) -> None:
        self._exists = exists
        self._directories = directories

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:  # noqa: ARG002
        if not str(value).strip():
            named = param.opts[0] if isinstance(param, click.Option) else self.name.upper()
            raise ConfigError([Problem(named, "expected a file's name, got ''")])
        path = Path(value)
        if path.is_dir() and not self._directories:
            raise ConfigError([Problem(str(path), "a directory, not a file")])
        if self._exists and not path.exists():
            raise ConfigError([Problem(str(path), "no such file")])
        return path


FILE: Final = File()


def takes_file(argument: str = "FILE", required: bool = False, kind: File = FILE) -> Callable[[F], F]:
    """Let a command that has an option for the file `path` take it as an argument too. Put it above that option."""

    def add(command: F) -> F:
        @click.argument("argument", metavar=f"[{argument}]", type=kind, required=False)
        @wraps(command)
        def run(argument: Path | None, path: Path | None, **given: Any) -> Any:
            return command(path=_the_one(argument, path, required), **given)

        return run  # type: ignore[return-value]

    return add


def _the_one(argument: Path | None, option: Path | None, required: bool) -> Path | None:
    context = click.get_current_context()
    if argument is None:
        if required and option is None:
            raise click.UsageError("name the file, as an argument or with --config")
        return option
    if context.get_parameter_source("path") is ParameterSource.COMMANDLINE:
        raise click.UsageError("the file is given twice: as an argument and with --config")
    context.set_parameter_source("path", ParameterSource.COMMANDLINE)
    return argument


class Grouped(click.Group):
    """A group whose --help lists its commands by what they are for. `sections` has a few words for each command."""

    sections: Mapping[str, Mapping[str, str]]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        for title, commands in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:<12}", words) for name, words in commands.items()])
