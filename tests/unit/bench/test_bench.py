"""The benchmark's figures are right, and its results, inputs and requests are well formed."""

from __future__ import annotations

import platform
import socket
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from authz.core.limits import Layer
from authz.envoy.config import EnvoyOptions
from authz.envoy.pb import ext_authz_pb2 as pb
from bench.__main__ import main as run
from bench.load import h2, inputs
from bench.load import loops as load
from bench.measure import machine, report, rows, stats
from bench.measure.envoys import OPEN, front_config, our_gate
from bench.measure.exact import most_of_a_bucket
from bench.measure.inprocess import answering, compiled, grants
from bench.measure.servers import free_ports
from bench.sections import SECTIONS
from tests.support.servers import HOST


@given(st.lists(st.floats(0.001, 1e6), min_size=1))
def test_a_spread_is_the_median_between_the_least_and_the_greatest(values: list[float]) -> None:
    spread = stats.Spread.of(values)
    assert (spread.low, spread.middle, spread.high, spread.rounds) == (
        min(values),
        median(values),
        max(values),
        len(values),
    )


def test_no_rounds_are_no_figure() -> None:
    with pytest.raises(ValueError, match="no rounds"):
        stats.Spread.of([])


def test_ratios_are_round_by_round() -> None:
    """One slow round slows both sides: the ratio within a round does not show it, a ratio of medians would."""
    ours = [{"us": 2.0}, {"us": 200.0}, {"us": 2.2}]
    base = [{"us": 1.0}, {"us": 100.0}, {"us": 2.0}]
    assert stats.ratio(ours, base, "us") == stats.Spread(2.0, 1.1, 2.0, 3)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1), (0.01, 1), (0.25, 1), (0.5, 2), (0.75, 3), (0.76, 4), (0.99, 4), (1.0, 4)]
)
def test_a_percentile_is_the_least_value_that_covers_the_share(share: float, expected: int) -> None:
    assert stats.percentile([1, 2, 3, 4], share) == expected


def test_a_percentile_of_nothing_is_0() -> None:
    assert stats.percentile([], 0.5) == 0


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (0.00001234, "1.2e-05"), (0.01234, "0.0123"), (1.5, "1.5"), (99.94, "99.9"), (1234.5, "1,234")],
)
def test_figures_are_short(number: float, text: str) -> None:
    assert stats.short(number) == text


@pytest.mark.parametrize(("found", "is_met"), [(1.19, True), (1.2, True), (1.21, False)])
def test_a_target_is_met_up_to_its_figure(found: float, is_met: bool) -> None:
    goal = rows.Goal("CPU", 1.2, stats.Spread.of([found]))
    assert goal.is_met == is_met
    assert report.targets([goal]).rows[0][-1] == ("yes" if is_met else "no")


def test_rows_take_turns() -> None:
    order: list[str] = []

    def row(name: str) -> rows.Row:
        def run() -> stats.Sample:
            order.append(name)
            return {"us": len(order)}

        return rows.Row(name, run)

    cores = machine.Cores(frozenset(), frozenset(), frozenset())
    bench = rows.Bench(cores, 3, 1.0, True, 1, Path(), [], lambda _: None)
    samples = rows.interleaved(bench, [row("a"), row("b")])
    assert order == ["a", "b"] * 3
    assert samples == {"a": [{"us": 1}, {"us": 3}, {"us": 5}], "b": [{"us": 2}, {"us": 4}, {"us": 6}]}


def test_the_results_hold_tables_targets_and_plots(tmp_path: Path) -> None:
    samples = {"ours": [{"us": 1.0}, {"us": 3.0}], "base": [{"us": 2.0}, {"us": 2.0}]}
    section = rows.Section(
        "Hosts",
        "Text.",
        [rows.table(samples, {"us": "CPU, µs", "none": "nothing"})],
        [rows.Plot("curve", "Curve", "keys", "µs", {"ours": [(1, 2.0), (1_000_000, 2.5)]})],
        [rows.goal("ours over base", 1.2, samples, "ours", "base", "us")],
    )
    path = report.write(tmp_path, [section], [("cores", "2")], ["A note."], "2026-01-01")
    text = path.read_text()
    assert "| ours over base | ≤ 1.2 | 1 (0.5 to 1.5) | yes |" in text
    assert "| ours | 2 (1 to 3) |" in text
    assert "nothing" not in text  # a column that no row has
    assert "- A note." in text
    assert "| cores | 2 |" in text
    svg = (tmp_path / "plots" / "curve.svg").read_text()
    assert "![Curve](plots/curve.svg)" in text
    assert "1,000,000" in svg
    assert "<script" not in svg
    assert report.drawn(section.plots[0]) == svg.encode()


def test_the_machine_is_described_without_its_name_or_a_path() -> None:
    described = dict(machine.description(2))
    assert described["cores"] == "2"
    assert {"processor", "kernel", "Python", "grpcio", "Valkey", "Envoy"} <= described.keys()
    node = platform.node()
    assert not [value for value in described.values() if "/" in value.split()[0] or (len(node) > 2 and node in value)]


def test_missing_tools_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    answer = CliRunner().invoke(run, ["--only", "curves"])
    assert answer.exit_code == 1
    assert "h2load (apt install nghttp2-client), wrk (apt install wrk)" in answer.output


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 5])
def test_a_document_has_the_given_number_of_layers(layers: int) -> None:
    """A document that leaves the account's limit out would get AWS's as its fifth layer."""
    catalog = compiled(inputs.document(keys=3, plans=2, layers=layers))
    (grant,) = grants(catalog, [2], 1_800_000_000_000_000)
    assert [limit.layer for limit in grant.limits] == list(Layer)[:layers]


def test_every_key_of_a_document_is_known() -> None:
    catalog = compiled(inputs.document(keys=7, plans=3, routes=4))
    assert len(grants(catalog, range(7), 1_800_000_000_000_000)) == 7


@pytest.mark.parametrize("new_ids", [False, True])
def test_keys_are_drawn_from_all(new_ids: bool) -> None:
    draw = inputs.of_keys(5, new_ids=new_ids)
    bodies = [draw() for _ in range(300)]
    found = [pb.CheckRequest.FromString(body[5:]).attributes.request.http for body in bodies]
    assert {http.headers["x-api-key"] for http in found} == {inputs.value_of(n) for n in range(5)}
    assert len({http.id for http in found}) == (300 if new_ids else 1)
    assert all(len(body) == len(bodies[0]) == 5 + int.from_bytes(body[1:5]) for body in bodies)


def test_our_answers_are_read_right() -> None:
    answer = answering(compiled(inputs.document(keys=1, plans=1)))
    for key, admitted in ((inputs.value_of(0), True), ("unknown", False)):
        told = answer(inputs.check_request(key))
        assert inputs.admits(told) == inputs.admits_any(told) == admitted


def test_the_front_asks_the_sidecars_that_it_is_given(tmp_path: Path) -> None:
    config = inputs.written(inputs.document(keys=1, plans=1), tmp_path)
    gates = (our_gate(config, EnvoyOptions(authz=("127.0.0.1:5",))), OPEN)
    asking, alone = (front_config(gate, 1, 2)["static_resources"] for gate in gates)
    assert "ext_authz" in str(asking["listeners"])
    assert "ext_authz" not in str(alone["listeners"])
    assert [cluster["name"] for cluster in asking["clusters"]] == ["authz"]
    assert alone["clusters"] == []


@pytest.mark.parametrize(
    ("took", "seconds", "counts", "admitted", "failed"),
    [
        ("300.98ms", 0.30098, "7 succeeded, 2 failed, 2 errored", 7, 2),
        ("2.00s", 2.0, "1 succeeded, 0 failed, 0 errored", 1, 0),
        ("900us", 0.0009, "0 succeeded, 0 failed, 1 errored", 0, 1),
    ],
)
def test_h2load_is_read(took: str, seconds: float, counts: str, admitted: int, failed: int) -> None:
    outcome = load.h2load_outcome(f"finished in {took}, 9.0 req/s, 1KB/s\nrequests: 9 total, 9 done, {counts}", [])
    assert outcome.seconds == pytest.approx(seconds)
    assert (outcome.admitted, outcome.failed) == (admitted, failed)


def test_h2load_without_a_result_is_an_error() -> None:
    with pytest.raises(ValueError, match="h2load said"):
        load.h2load_outcome("could not connect", [])


def test_header_blocks_point_into_the_table_that_the_first_one_fills() -> None:
    first, later = h2.header_blocks("/a.B/C", "host:1", "1S")
    assert first.startswith(bytes((0x83, 0x86, 0x44, 6)) + b"/a.B/C")
    assert later == bytes((0x83, 0x86, 0x80 | 66, 0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62))


def test_free_ports_are_in_a_row() -> None:
    with ExitStack() as held:
        for port in range(first := free_ports(3), first + 3):
            held.enter_context(socket.socket()).bind((HOST, port))


@pytest.mark.parametrize(("seconds", "most"), [(0.0, 100), (0.055, 105), (1.0, 200)])
def test_a_bucket_gains_while_time_passes(seconds: float, most: int) -> None:
    assert most_of_a_bucket(100, seconds) == most


def test_a_rate_limit_request_is_spelt_as_the_protocol_has_it() -> None:
    """The expected bytes: `domain` is field 1, `descriptors` field 2, an entry field 1, its key 1 and its value 2."""
    long = "v" * 200
    message = inputs.rate_limit_request("bench", (("k", "v"), ("l", "w")), (("m", long),))
    entry = b"\x0a\x01m\x12\xc8\x01" + long.encode()
    descriptor = b"\x0a" + bytes((len(entry) & 127 | 128, len(entry) >> 7)) + entry
    assert message == (
        b"\x0a\x05bench"
        b"\x12\x10\x0a\x06\x0a\x01k\x12\x01v\x0a\x06\x0a\x01l\x12\x01w"
        b"\x12" + bytes((len(descriptor) & 127 | 128, len(descriptor) >> 7)) + descriptor
    )


def test_every_section_can_run_alone() -> None:
    answer = CliRunner().invoke(run, ["--help"])
    assert all(name in answer.output.replace("\n", "").replace(" ", "") for name in SECTIONS)
