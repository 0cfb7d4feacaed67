"""The pages of docs/reference/ say what the code has."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from authz.cli.main import cli
from authz.config.fields import FIELDS
from authz.config.file import parse
from authz.config.settings import Option, options
from authz.core import resources
from authz.core.verdict import Reason
from docs import generate

ROOT = Path(__file__).parents[3]


def page(name: str) -> str:
    return (ROOT / "docs" / "reference" / f"{name}.md").read_text("utf-8")


def test_no_page_is_stale() -> None:
    assert generate.stale() == [], "run docs/generate.py"


def test_a_page_that_is_stale_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so is a table that no page shows."""
    (tmp_path / "configuration.md").write_text("<!-- generated: settings -->\n| of yesterday |\n<!-- end -->\n")
    monkeypatch.setattr(generate, "DOCS", tmp_path)
    monkeypatch.setattr(generate, "BLOCKS", {name: generate.BLOCKS[name] for name in ("settings", "answers")})
    assert generate.stale() == ["configuration.md", "no page has the block answers"]


def test_a_plot_that_differs_from_its_copy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so is one without a copy."""
    plot, copy = tmp_path / "plot.svg", tmp_path / "copy.svg"
    plot.write_text("<svg/>")
    monkeypatch.setattr(generate, "PLOTS", ((plot, copy),))
    assert generate.stale() == ["img/copy.svg"]
    copy.write_text("<svg>of yesterday</svg>")
    assert generate.stale() == ["img/copy.svg"]
    copy.write_text("<svg/>")
    assert generate.stale() == []


def test_a_fresh_page_stays_as_it_is() -> None:
    once = generate.fresh("before\n<!-- generated: settings -->\n<!-- end -->\nafter\n")
    assert once == generate.fresh(once)
    assert once.startswith("before\n")
    assert once.endswith("<!-- end -->\nafter\n")


@pytest.mark.parametrize("option", options(), ids=lambda option: option.name)
def test_the_page_shows_a_setting_by_all_its_names(option: Option) -> None:
    assert f"\n| `{option.name}`<br>`{option.variable}`<br>`{option.flag}` | " in page("configuration")


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_for_a_refusal_has_an_answer(reason: Reason) -> None:
    """Some share a row."""
    rows = [line for line in page("answers").splitlines() if re.match(r"\| `\w+`[^|]* \| (403|429|503) \|", line)]
    assert sum(f"`{reason}`" in row.split("|")[1] for row in rows) == 1


def test_the_metrics_are_all_there_and_no_others() -> None:
    """A counter's name ends in _total where it is scraped, and labels stand beside it."""
    named = set(re.findall(r"^\| `(authz_\w+)` \|", page("metrics"), re.MULTILINE))
    families = [family for source in generate.sources() for family in source.registry.collect()]
    assert named == {family.name + ("_total" if family.type == "counter" else "") for family in families}
    assert "| `authz_checks_total` | counter | `api`, `stage`, `plan`, `decision`, `reason` |" in page("metrics")


@pytest.mark.parametrize("name", [name for name in FIELDS if name != "Resources"])
def test_every_resource_of_the_file_has_a_table(name: str) -> None:
    kind = getattr(resources, name)
    section = re.search(rf"^### {name}\n(.*?)(?=^##|\Z)", page("plans-file"), re.MULTILINE | re.DOTALL)
    assert section
    assert re.findall(r"^\| `(\w+)` \|", section[1], re.MULTILINE) == [
        field.encode_name for field in msgspec.structs.fields(kind)
    ]


@pytest.mark.parametrize(
    ("field", "default"),
    [
        ("keySources", "`[{header: x-api-key}]`"),
        ("throttleSettings", "`{burstLimit: 5000, rateLimit: 10000.0}`"),
        ("apiKeyRequired", "`true`"),
        ("mode", "`enforce`"),
        ("offset", "`0`"),
        ("quota", "none"),
        ("limit", "required"),
    ],
)
def test_a_field_that_may_be_left_out_shows_its_default(field: str, default: str) -> None:
    row = re.search(rf"^\| `{field}` \| [^|]* \| ([^|]*) \|", page("plans-file"), re.MULTILINE)
    assert row
    assert row[1] == default


def test_the_whole_example_of_a_plans_file_has_no_mistake(tmp_path: Path) -> None:
    example = re.search(r"^```yaml title=\"plans\.yaml\"\n(.*?)^```$", page("plans-file"), re.MULTILINE | re.DOTALL)
    assert example
    (tmp_path / "plans.yaml").write_text(example[1])
    checked = CliRunner().invoke(cli, ["check-config", str(tmp_path / "plans.yaml")])
    assert checked.output.endswith("plans.yaml: 1 API, 2 plans, 2 keys; nothing wrong\n")


def sellers_examples() -> dict[str, str]:
    """The files of the section about plans for sellers, by heading."""
    section = re.search(r"^## Plans for sellers\n(.*?)^## ", page("plans-file"), re.MULTILINE | re.DOTALL)
    assert section
    return dict(re.findall(r"^### ([^\n]+)\n.*?^```yaml\n(.*?)^```$", section[1], re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("heading", sellers_examples())
def test_an_example_of_a_plan_for_sellers_has_no_mistake(heading: str) -> None:
    assert parse(sellers_examples()[heading], heading).resources.usage_plans != ()


def test_each_field_for_sellers_has_an_example() -> None:
    sellers = {
        *("cost", "costFrom", "metadata", "max", "quotas", "limitsPer", "counts", "timeZone", "anchor", "overage"),
        *("upTo", "alerts", "billingDay", "overrides", "customers", "customerId"),
    }
    shown = set(re.findall(r"\w+(?=:)", "".join(sellers_examples().values())))
    assert sellers - shown == set()


def test_no_resource_of_the_file_is_forgotten() -> None:
    """What a stage has deployed is for exports: people leave it out."""
    structs = {
        name
        for name, kind in vars(resources).items()
        if isinstance(kind, type) and issubclass(kind, resources.Resource) and kind is not resources.Resource
    }
    assert structs - {"Deployment"} == set(FIELDS)


@pytest.mark.parametrize("command", ["serve", "control", "credentials create", "restore", "doctor"])
def test_a_command_has_a_section(command: str) -> None:
    assert f"\n## authz {command}\n" in page("cli")


@pytest.mark.parametrize("operation", ["CreateUsagePlan", "GetUsage", "RotateApiKey", "CreateAuthorizer"])
def test_an_operation_has_a_row(operation: str) -> None:
    assert f"\n| `{operation}` |" in page("control-plane")
