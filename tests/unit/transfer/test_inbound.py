"""Other tools' files: their plans, keys and stages are read, and warnings name everything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from authz.aws.awsfiles import Wanted
from authz.aws.convert import to_resources
from authz.config.faults import ConfigError
from authz.core.resources import Period, QuotaSettings, Resources, ThrottleSettings
from authz.core.stored import StoredKey
from authz.store.sealing import Sealer
from authz.transfer.inbound import Reading, without_mistyped

SAMPLES = Path("docs/samples")
READING = Reading(1_700_000_000, Sealer())


def brought(name: str, reading: Reading = READING) -> Wanted:
    return reading.wanted(SAMPLES / name)


def resources(found: Wanted) -> Resources:
    return to_resources(found.items)[0]


@pytest.mark.parametrize(
    ("name", "plan", "key", "value"),
    [
        ("cloudformation.yaml", "Silver", "Acme", "a-key-from-a-template-0001"),
        ("terraform-show.json", "k7plan", "k7acmekey1", "a-key-from-terraform-000001"),
    ],
)
def test_a_plan_comes_with_its_limits_stages_and_keys(name: str, plan: str, key: str, value: str) -> None:
    found = brought(name)
    (api,), (read,) = resources(found).apis, resources(found).usage_plans
    assert (read.id, read.name) == (plan, "Silver")
    assert read.throttle == ThrottleSettings(50, 100)
    assert read.quota == QuotaSettings(5000, Period.MONTH)
    assert [(stage.api_id, stage.stage, dict(stage.throttle)) for stage in read.api_stages] == [
        (api.id, "prod", {"/pets/GET": ThrottleSettings(5, 2)})
    ]
    assert found.members == {plan: (key,)}
    assert found.values == {key: value}


@pytest.mark.parametrize(
    ("name", "settings"),
    [("cloudformation.yaml", {"*/*", "pets~1{id}/GET"}), ("terraform-show.json", {"*/*"})],
)
def test_an_api_comes_with_its_methods_and_a_stage_with_its_throttles(name: str, settings: set[str]) -> None:
    (api,) = resources(brought(name)).apis
    assert api.resources is not None
    assert api.resources["/pets"]["GET"].api_key_required
    (stage,) = api.stages
    assert stage.name == "prod"
    assert {str(method) for method in stage.method_settings} == settings
    assert stage.method_settings["*/*"].throttling_rate_limit == 100


@pytest.mark.parametrize(
    ("name", "left"),
    [
        (
            "cloudformation.yaml",
            [
                "stays behind: integrations (1): the way to the upstream is Envoy's",
                "stays behind: AWS::Lambda::Function (1)",
            ],
        ),
        ("terraform-show.json", ["stays behind: aws_lambda_function (1)"]),
    ],
)
def test_whatever_is_not_carried_is_named(name: str, left: list[str]) -> None:
    assert brought(name).warnings == left


def test_sam_makes_an_api_a_stage_and_a_plan() -> None:
    found = brought("sam.yaml")
    (plan,) = resources(found).usage_plans
    assert (plan.id, plan.name, plan.throttle, plan.quota) == (
        "ShopUsagePlan",
        "Shop",
        ThrottleSettings(20, 40),
        QuotaSettings(1000, Period.DAY),
    )
    assert [(stage.api_id, stage.stage) for stage in plan.api_stages] == [("Shop", "prod")]
    assert found.members == {"ShopUsagePlan": ("Partner",)}
    assert any("the key that SAM makes for ShopUsagePlan" in warning for warning in found.warnings)
    assert any("AWS::Serverless::Function (1)" in warning for warning in found.warnings)


def test_aws_file_of_keys_brings_keys_and_memberships() -> None:
    found = brought("keys.csv")
    keys = {item.key.name: item.key for item in found.items.values() if isinstance(item, StoredKey)}
    assert (keys["acme"].enabled, keys["acme"].description) == (True, "ACME, Inc.")
    assert not keys["bolt"].enabled
    assert found.members == {"Silver": (keys["acme"].id,)}
    assert found.values[keys["acme"].id] == "a-key-from-a-file-00000001"


def test_an_openapi_document_brings_an_api_and_its_stage() -> None:
    found = brought("openapi.yaml", Reading(1, Sealer(), stage="prod"))
    (api,) = resources(found).apis
    assert (api.id, [stage.name for stage in api.stages]) == ("pet-store", ["prod"])
    assert api.resources is not None
    assert api.resources["/pets"]["GET"].api_key_required
    assert not api.resources["/health"]["GET"].api_key_required
    assert brought("openapi.yaml", Reading(1, Sealer(), "shop", "v1")).items.keys() == {
        ("restapi", "shop"),
        ("deployment", "shop/" + next(name for kind, name in brought_ids("shop", "v1") if kind == "deployment")),
        ("stage", "shop/v1"),
    }


def brought_ids(api_id: str, stage: str) -> list[tuple[str, str]]:
    items = brought("openapi.yaml", Reading(1, Sealer(), api_id, stage)).items
    return [(kind, name.rpartition("/")[2]) for kind, name in items]


def test_an_openapi_document_without_a_stage_says_that_it_is_not_served() -> None:
    assert [text for text in brought("openapi.yaml").warnings if "not served yet" in text]


@pytest.mark.parametrize("name", sorted(path.name for path in SAMPLES.iterdir()))
def test_reading_a_file_again_changes_nothing(name: str) -> None:
    assert brought(name) == brought(name)


REFUSED: dict[str, tuple[str, str]] = {
    "serverless.yml": ("service: shop\nprovider: {name: aws}\nfunctions: {}\n", "serverless package"),
    "main.tf": ('resource "aws_api_gateway_rest_api" "pets" {}\n', "terraform show -json"),
    "terraform.tfstate": (
        '{"version": 4, "terraform_version": "1.9", "lineage": "x", "resources": []}',
        "terraform show",
    ),
    "manifest.json": ('{"version": "36.0.0", "artifacts": {}}', "cdk synth"),
    "deployment.yaml": ("apiVersion: v1\nkind: ConfigMap\ndata: {}\n", "Kubernetes"),
    "kong.yml": ('_format_version: "3.0"\nservices: []\n', "docs/migration/kong.md"),
    "ratelimit.yaml": ("domain: shop\ndescriptors: []\n", "docs/migration/ratelimit.md"),
    "others.json": ('[{"id": "a", "name": "b"}]', "holds nothing that can be imported"),
    "functions.json": ('{"Functions": []}', "holds nothing that can be imported"),
    "number.json": ("7", "holds nothing that can be imported"),
    "words.yaml": ("just some words\n", "expected a mapping"),
    "keys.csv": ("name,key\nacme\n", "holds nothing"),
    "no-key.csv": ("name,value\nacme,x\n", "Missing required column 'key'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_is_not_read_names_the_way_in(name: str, tmp_path: Path) -> None:
    text, expected = REFUSED[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=expected) as refused:
        READING.wanted(tmp_path / name)
    assert name in str(refused.value)


def test_options_of_an_openapi_document_are_for_nothing_else() -> None:
    with pytest.raises(ConfigError, match="--api-id and --stage are for an OpenAPI document"):
        brought("sam.yaml", Reading(1, Sealer(), stage="prod"))


def template(**named: Any) -> dict[str, Any]:
    return {
        "Resources": {
            name: {"Type": f"AWS::ApiGateway::{kind}", "Properties": of} for name, (kind, of) in named.items()
        }
    }


UNRESOLVED = {"Fn::ImportValue": "x"}
PLAN = {"UsagePlanName": "Silver", "ApiStages": [{"ApiId": "k7pets1api", "Stage": "prod"}]}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (
            template(Key=("ApiKey", {"Name": "a", "Value": UNRESOLVED}), Plan=("UsagePlan", PLAN)),
            "Key (AWS::ApiGateway::ApiKey)",
        ),
        (
            template(Plan=("UsagePlan", {**PLAN, "Quota": {"Limit": UNRESOLVED}}), Other=("UsagePlan", PLAN)),
            "Plan (AWS",
        ),
        (template(Stage=("Stage", {"RestApiId": "abc", "StageName": "x"}), Plan=("UsagePlan", PLAN)), "the API abc"),
        (template(Part=("Resource", {"RestApiId": "abc", "PathPart": "x"}), Plan=("UsagePlan", PLAN)), "the API abc"),
        (
            template(
                Api=("RestApi", {"Name": "a"}),
                One=("Resource", {"RestApiId": {"Ref": "Api"}, "ParentId": {"Ref": "Two"}, "PathPart": "a"}),
                Two=("Resource", {"RestApiId": {"Ref": "Api"}, "ParentId": {"Ref": "One"}, "PathPart": "b"}),
                Plan=("UsagePlan", PLAN),
            ),
            "round in a circle",
        ),
        (
            template(
                Api=("RestApi", {"Name": "a"}),
                Get=(
                    "Method",
                    {
                        "RestApiId": {"Ref": "Api"},
                        "ResourceId": {"Fn::GetAtt": ["Api", "RootResourceId"]},
                        "HttpMethod": "GET",
                        "AuthorizationType": "AWS_IAM",
                    },
                ),
            ),
            "its authorization AWS_IAM is not carried out here",
        ),
        (template(Api=("RestApi", {"Name": "a", "Body": {"openapi": "3.0.0"}})), "its OpenAPI document"),
    ],
)
def test_a_value_that_has_to_be_worked_out_first_stays_behind(document: Any, expected: str, tmp_path: Path) -> None:
    """The rest of the template is read."""
    (tmp_path / "template.json").write_text(json.dumps(document))
    found = READING.wanted(tmp_path / "template.json")
    assert found.items
    assert any(expected in warning for warning in found.warnings), found.warnings


def test_a_template_is_the_same_in_yaml_and_json(tmp_path: Path) -> None:
    """CloudFormation's short forms equal its long ones."""
    long = template(
        Api=("RestApi", {"Name": "a"}),
        Prod=("Stage", {"RestApiId": {"Ref": "Api"}, "StageName": "prod"}),
        Plan=("UsagePlan", {"ApiStages": [{"ApiId": {"Ref": "Api"}, "Stage": {"Ref": "Prod"}}]}),
    )
    short = yaml.safe_dump(long).replace("{Ref: Api}", "!Ref Api")
    for name, text in (("a.json", json.dumps(long)), ("a.yaml", short)):
        (tmp_path / name).write_text(text)
    first, second = (READING.wanted(tmp_path / name) for name in ("a.json", "a.yaml"))
    assert first.items == second.items


def test_a_value_in_a_template_is_never_shown(tmp_path: Path) -> None:
    secret = "a-secret-value-in-a-template"
    document = template(Key=("ApiKey", {"Name": 7, "Value": secret}), Plan=("UsagePlan", {"Quota": {"Limit": secret}}))
    (tmp_path / "template.json").write_text(json.dumps(document))
    try:
        said = READING.wanted(tmp_path / "template.json").warnings
    except ConfigError as refused:
        said = [str(refused)]
    assert not any(secret in text for text in said)


def test_a_mistyped_generated_value_is_left_out_with_a_warning(tmp_path: Path) -> None:
    mistyped = "upk_" + "0" * 33
    file = tmp_path / "keys.csv"
    file.write_text(f"name,key\nbad,{mistyped}\ngood,a-key-from-a-file-00000001\n")
    found = Reading(1, Sealer()).wanted(file)
    without_mistyped(found, "acme")
    assert len(found.items) == len(found.values) == 2
    without_mistyped(found, "upk")
    assert [item.key.name for item in found.items.values() if isinstance(item, StoredKey)] == ["good"]
    assert list(found.values.values()) == ["a-key-from-a-file-00000001"]
    assert "its value: it begins with upk_" in found.warnings[-1]
    assert mistyped not in str(found.warnings)
