"""`python -m tests.fuzz COMMAND`: long runs of what continuous integration does in short."""

from __future__ import annotations

import click

from tests.fuzz import api, checkrequests, frames, portal


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Random input at our doors, seeded."""


cli.add_command(api.command)
cli.add_command(checkrequests.command)
cli.add_command(frames.command)
cli.add_command(portal.command)

if __name__ == "__main__":
    cli()
