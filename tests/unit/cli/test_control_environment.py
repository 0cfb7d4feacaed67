"""The variables of commands beside settings: each is known where settings are read."""

from __future__ import annotations

import click
import pytest

from authz.cli.main import cli
from authz.config.settings import load_settings


def _variables(command: click.Command) -> set[str]:
    if isinstance(command, click.Group):
        return {found for each in command.commands.values() for found in _variables(each)}
    named = [option.envvar for option in command.params if isinstance(option, click.Option)]
    return {name for name in named if isinstance(name, str)}


@pytest.mark.parametrize("variable", sorted(_variables(cli)))
def test_a_variable_of_an_option_is_no_unknown_setting(variable: str) -> None:
    load_settings({}, {variable: "1"} if "FILE" not in variable else {variable: "/nothing"}, {})
