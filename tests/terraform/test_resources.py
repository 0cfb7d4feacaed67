"""Each resource of the provider: made, read without drift, changed attribute by attribute, imported, destroyed."""

from __future__ import annotations

import pytest

from tests.support.control import Control
from tests.support.control import control as control
from tests.terraform.engine import Replay, Send, Table
from tests.terraform.newer import NEWER_TABLES
from tests.terraform.tables import BY_RESOURCE, DATA_SOURCES, TABLES, DataSource


@pytest.mark.parametrize("extended", [False, True], ids=["aws", "extended"])
@pytest.mark.parametrize("table", [*TABLES, *NEWER_TABLES], ids=lambda table: table.name)
def test_a_resource_lives_without_drift(control: Control, table: Table, extended: bool) -> None:
    """It does so with fields that AWS does not have, which Terraform neither sees nor takes away."""
    replay = Replay(control, BY_RESOURCE)
    replay.apply(table.needs)
    for send in table.create:
        replay.send(send)
    if extended:
        replay.extend()
    shows = dict(table.shows)
    assert replay.drift(table, shows) == {}, "after the creation"
    for update in table.updates:
        for send in update.sends:
            replay.send(send)
        shows |= update.shows
        shows = {name: value for name, value in shows.items() if not _replaced(name, update.shows)}
        assert replay.drift(table, shows) == {}, f"after the update: {update.name}"
        assert not extended or replay.extended(), f"after the update: {update.name}"
    for send in table.destroy:
        replay.send(send)
    assert replay.destroyed(table)


@pytest.mark.parametrize("source", DATA_SOURCES, ids=lambda source: source.name)
def test_a_data_source_finds_an_existing_object(control: Control, source: DataSource) -> None:
    replay = Replay(control, BY_RESOURCE)
    replay.apply(source.needs)
    read = replay.send(Send("GET", source.read, status=200))
    found = [item[source.member] for item in read.get("item", [read]) if item[source.member] == source.value]
    assert found == [source.value]


def _replaced(name: str, shows: object) -> bool:
    """True for a member that an update speaks of in other words: of the whole, or of a part."""
    names = set(shows) if isinstance(shows, dict) else set()
    return name not in names and any(name.startswith(f"{other}>") or other.startswith(f"{name}>") for other in names)
