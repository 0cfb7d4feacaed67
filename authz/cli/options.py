"""What commands share: the options for files and settings, and the list of commands in groups."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from click.core import ParameterSource

from authz.config import file as configuration
from authz.config.faults import ConfigError
from authz.config.file import Config
from authz.config.settings import Loaded, load_settings, options
from authz.core.problem import Problem

F = TypeVar("F", bound=Callable[..., Any])


class File(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases of click
    """The name of a file. A mistake in the name is worded like a mistake in the file: the name, then the rule.

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
    """Let a command with the option `path` take the file as an argument too. Put this above that option."""

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


CONFIG = click.option(
    "--config",
    "path",
    type=FILE,
    envvar="AUTHZ_CONFIG",
    show_envvar=True,
    default="plans.yaml",
    show_default=True,
    help="The configuration file.",
)


def config_file(command: F) -> F:
    """The configuration file, as --config or as an argument."""
    return takes_file()(CONFIG(command))


def settings_flags(*fields: str) -> Callable[[F], F]:
    """Add a flag for each of these settings, or for all. Without its flag a setting has its other sources."""

    def add(command: F) -> F:
        for option in reversed(options()):
            if not fields or option.field in fields:
                kind = click.Choice(option.choices) if option.choices else None
                of_type = {bool: "BOOLEAN", int: "INTEGER", float: "NUMBER"}.get(type(option.default), "TEXT")
                metavar = None if option.choices else of_type
                text = f"{option.help}  [env: {option.variable}; default: {str(option.default).lower()}]"
                bare: dict[str, Any] = {"is_flag": False, "flag_value": "true"} if option.default is False else {}
                command = click.option(
                    option.flag, option.field, type=kind, metavar=metavar, default=None, help=text, **bare
                )(command)
                if old := option.former:
                    command = click.option(old.flag, old.field, type=kind, hidden=True, **bare)(command)
        return command

    return add


def load_file(path: Path, flags: Mapping[str, object | None]) -> tuple[Config, Loaded]:
    """Read the plans file and the settings. Raises ConfigError."""
    read = configuration.load(path)
    return read, load_settings(read.settings, os.environ, flags, str(path))


def with_options(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Add all of these options, in the order of --help."""

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


class Grouped(click.Group):
    """A group whose --help lists its commands in sections. `sections` has a few words for each command."""

    sections: Mapping[str, Mapping[str, str]]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        for title, commands in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:<12}", words) for name, words in commands.items()])
