"""API keys, the account and tags through boto3."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from botocore.exceptions import ClientError

from authz.control.call import Context
from authz.core.resources import ApiKey, UsagePlan
from authz.core.stored import Items, StoredKey, StoredPlan
from authz.store.audit import audit
from authz.store.sealing import Sealer
from tests.support.control import Control, boto, raw, running
from tests.support.control import control as control
from tests.support.servers import RedisServer

VALUE = "v" * 20
NO_KEY = "NotFoundException: Invalid API Key identifier specified"


@pytest.fixture
def aws(control: Control) -> Any:
    return boto(control)


def refusal(call: Callable[..., Any], **members: Any) -> str:
    """Code and message of a refused call."""
    with pytest.raises(ClientError) as refused:
        call(**members)
    error = refused.value.response["Error"]
    return f"{error['Code']}: {error['Message']}"


def replaced(path: str, value: str) -> dict[str, str]:
    return {"op": "replace", "path": path, "value": value}


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["id"] for item in answer["items"]]


def imported(aws: Any, *lines: str, **members: Any) -> Any:
    return aws.import_api_keys(format="csv", body="\n".join(lines).encode(), **members)


def test_a_key_without_members(aws: Any) -> None:
    made = aws.create_api_key()
    assert made["ResponseMetadata"]["HTTPStatusCode"] == 201
    assert re.fullmatch("[a-z0-9]{10}", made["id"])
    assert re.fullmatch("upk_[0-9A-Za-z]{33}", made["value"])
    assert (made["enabled"], made["stageKeys"]) == (False, [])
    assert not {"name", "tags", "description", "customerId"} & made.keys()


def test_an_empty_name_counts_as_none(aws: Any) -> None:
    assert "name" not in aws.create_api_key(name="")


def test_a_value_too_short(aws: Any) -> None:
    expected = "BadRequestException: API Key value should be at least 20 characters"
    assert refusal(aws.create_api_key, value="x" * 19) == expected


def test_the_shortest_and_the_longest_value(aws: Any) -> None:
    assert [len(aws.create_api_key(value="x" * size)["value"]) for size in (20, 128)] == [20, 128]


def test_a_value_too_long(aws: Any) -> None:
    expected = "BadRequestException: API Key value exceeds maximum size of 128 characters"
    assert refusal(aws.create_api_key, value="x" * 129) == expected


def test_an_empty_value_is_generated(aws: Any) -> None:
    assert re.fullmatch("upk_[0-9A-Za-z]{33}", aws.create_api_key(value="")["value"])


MISTYPED = "upk_" + "0" * 33
TYPO = "it begins with upk_ and has 37 characters, as generated keys do, and its checksum is wrong"


def test_a_mistyped_value_is_refused_wherever_a_key_gets_one(control: Control, aws: Any) -> None:
    """Sidecars refuse it without a look-up, so the key could never be used."""
    assert TYPO in refusal(aws.create_api_key, value=MISTYPED)
    key = aws.create_api_key(name="a")
    assert TYPO in raw(control, "POST", f"/apikeys/{key['id']}/rotate", {"value": MISTYPED}).json()["message"]
    done = imported(aws, "name,key", f"bad,{MISTYPED}", f"good,{key['value']}")
    assert (len(done["ids"]), len(done["warnings"])) == (1, 1)
    assert TYPO in done["warnings"][0]
    assert MISTYPED not in str(done["warnings"])


def test_a_generated_value_can_be_given_again(aws: Any) -> None:
    """Such as one of another installation, or of a key that was deleted."""
    made = aws.create_api_key()
    aws.delete_api_key(apiKey=made["id"])
    assert aws.create_api_key(value=made["value"])["value"] == made["value"]


@pytest.mark.parametrize(
    ("prefix", "form"),
    [("acme_live", "acme_live_[0-9A-Za-z]{33}"), ("a", "a_[0-9A-Za-z]{33}"), ("", "[0-9A-Za-z]{40}")],
)
def test_the_prefix_is_the_operators(shared_redis: RedisServer, account: str, prefix: str, form: str) -> None:
    with running(shared_redis.url, account, key_prefix=prefix) as plane:
        assert re.fullmatch(form, boto(plane).create_api_key()["value"])
        boto(plane).create_api_key(value=MISTYPED)


@pytest.mark.parametrize("characters", ["#@&\"'(!", "*:;<>?[]{}|^`$%", "\\/~+-_.=", "{}"])
def test_a_value_holds_what_a_header_can_carry(aws: Any, characters: str) -> None:
    value = f"{characters:x<24}"
    made = aws.create_api_key(value=value)
    assert made["value"] == value
    assert aws.get_api_key(apiKey=made["id"], includeValue=True)["value"] == value


@pytest.mark.parametrize("character", [",", " ", "\t", "\n", "§", "ç", "\x7f"])
def test_a_value_that_no_header_can_carry_is_refused(aws: Any, character: str) -> None:
    expected = "expected printable ASCII characters other than blank and comma"
    refused = f"BadRequestException: Invalid API Key value: {expected}"
    assert refusal(aws.create_api_key, value="x" * 12 + character + "x" * 12) == refused


def test_a_value_is_unique(aws: Any) -> None:
    aws.create_api_key(value=VALUE)
    assert refusal(aws.create_api_key, value=VALUE) == "ConflictException: API Key already exists"


def test_the_longest_name(aws: Any) -> None:
    assert len(aws.create_api_key(name="n" * 1024)["name"]) == 1024
    expected = "BadRequestException: Invalid API Key name, can be at most 1024 characters."
    assert refusal(aws.create_api_key, name="n" * 1025) == expected


def test_a_name_is_not_unique(aws: Any) -> None:
    assert aws.create_api_key(name="n")["id"] != aws.create_api_key(name="n")["id"]


def test_a_key_shows_its_value_on_request(aws: Any) -> None:
    made = aws.create_api_key(name="n", value=VALUE, description="d", customerId="c", tags={"a": "b"})
    assert made["tags"] == {"a": "b"}
    plain = aws.get_api_key(apiKey=made["id"])
    assert "value" not in plain
    assert plain["tags"] == {"a": "b"}
    assert (plain["name"], plain["description"], plain["customerId"]) == ("n", "d", "c")
    assert aws.get_api_key(apiKey=made["id"], includeValue=True)["value"] == VALUE
    assert aws.get_api_key(apiKey=aws.create_api_key()["id"])["tags"] == {}


def test_an_unknown_key(aws: Any) -> None:
    assert refusal(aws.get_api_key, apiKey="unknown") == NO_KEY


def test_keys_are_listed_newest_first(aws: Any) -> None:
    made = [aws.create_api_key(name=name) for name in "ab"]
    assert ids(aws.get_api_keys()) == [made[1]["id"], made[0]["id"]]
    assert not any({"value", "tags"} & item.keys() for item in aws.get_api_keys()["items"])
    values = [item["value"] for item in aws.get_api_keys(includeValues=True)["items"]]
    assert values == [made[1]["value"], made[0]["value"]]


def test_names_are_found_by_their_beginning(aws: Any) -> None:
    key = aws.create_api_key(name="MyKey")
    aws.create_api_key(name="Other")
    assert ids(aws.get_api_keys(nameQuery="MyK")) == [key["id"]]
    assert ids(aws.get_api_keys(nameQuery="myk")) == []


def test_a_negative_limit_is_the_default(aws: Any) -> None:
    aws.create_api_key()
    assert len(aws.get_api_keys(limit=-1)["items"]) == 1


def test_pages(aws: Any) -> None:
    made = [aws.create_api_key()["id"] for _ in range(30)]
    first = aws.get_api_keys()
    assert len(first["items"]) == 25
    aws.create_api_key()
    last = aws.get_api_keys(position=first["position"])
    assert "position" not in last
    assert ids(first) + ids(last) == made[::-1]
    paginator = aws.get_paginator("get_api_keys")
    assert len(paginator.paginate(PaginationConfig={"PageSize": 7}).build_full_result()["items"]) == 31
    assert refusal(aws.get_api_keys, position="nonsense").startswith("BadRequestException")


def test_keys_of_a_customer(aws: Any) -> None:
    wanted = [aws.create_api_key(customerId="c1", name=name)["id"] for name in ("a", "b")]
    aws.create_api_key(customerId="c10")
    assert sorted(ids(aws.get_api_keys(customerId="c1"))) == sorted(wanted)
    assert ids(aws.get_api_keys(customerId="c1", nameQuery="b")) == wanted[1:]
    assert refusal(aws.create_api_key, customerId="") == "BadRequestException: Customer Id cannot be an empty string"


def test_a_customer_is_taken_away_by_an_empty_value(aws: Any) -> None:
    made = aws.create_api_key(customerId="c1")
    changed = aws.update_api_key(apiKey=made["id"], patchOperations=[replaced("/customerId", "")])
    assert "customerId" not in changed
    assert "customerId" not in aws.get_api_key(apiKey=made["id"])
    assert ids(aws.get_api_keys(customerId="c1")) == []


def test_enabled_is_true_or_false(aws: Any) -> None:
    made = aws.create_api_key()
    changed = aws.update_api_key(apiKey=made["id"], patchOperations=[replaced("/enabled", "true")])
    assert changed["enabled"] is True
    assert changed["tags"] == {}
    assert "value" not in changed
    assert changed["lastUpdatedDate"] >= changed["createdDate"]
    changed = aws.update_api_key(apiKey=made["id"], patchOperations=[replaced("/enabled", "not-a-boolean")])
    assert changed["enabled"] is False


def test_a_patch_of_a_path_that_cannot_be_replaced_is_refused(aws: Any) -> None:
    operations = [replaced("/name", "new"), replaced("/id", "x")]
    key = aws.create_api_key(name="old")["id"]
    assert refusal(aws.update_api_key, apiKey=key, patchOperations=operations) == (
        "BadRequestException: Invalid patch path  '/id' specified for op 'replace'. "
        "Must be one of: [/description, /enabled, /name, /customerId]"
    )
    assert aws.get_api_key(apiKey=key)["name"] == "old"


def test_a_description_too_long(aws: Any) -> None:
    key, text = aws.create_api_key()["id"], "d" * 125_001
    expected = "BadRequestException: Invalid API Key description specified."
    assert refusal(aws.update_api_key, apiKey=key, patchOperations=[replaced("/description", text)]) == expected
    assert refusal(aws.create_api_key, description=text) == expected


def test_an_unknown_patch_operation_is_refused(control: Control, aws: Any) -> None:
    body = {"patchOperations": [{"op": "wrong-op", "path": "/name", "value": "x"}]}
    reply = raw(control, "PATCH", f"/apikeys/{aws.create_api_key()['id']}", body)
    assert (reply.status, reply.code) == (400, "ValidationException")
    assert reply.json() == {
        "message": "1 validation error detected: Value 'wrong-op' at 'updateApiKeyInput.patchOperations.1.member.op' "
        "failed to satisfy constraint: Member must satisfy enum value set: [add, remove, move, test, replace, copy]"
    }


def test_an_unknown_key_is_neither_updated_nor_deleted(aws: Any) -> None:
    assert refusal(aws.update_api_key, apiKey="unknown", patchOperations=[]) == NO_KEY
    assert refusal(aws.delete_api_key, apiKey="unknown") == NO_KEY


def test_a_deleted_key_leaves_its_plans(aws: Any) -> None:
    key, plan = aws.create_api_key(value=VALUE, name="n")["id"], aws.create_usage_plan(name="p")["id"]
    aws.create_usage_plan_key(usagePlanId=plan, keyId=key, keyType="API_KEY")
    assert aws.delete_api_key(apiKey=key)["ResponseMetadata"]["HTTPStatusCode"] == 202
    assert refusal(aws.get_api_key, apiKey=key) == NO_KEY
    assert ids(aws.get_usage_plan_keys(usagePlanId=plan)) == []
    assert ids(aws.get_api_keys(nameQuery="n")) == []
    assert aws.create_api_key(value=VALUE)["value"] == VALUE


def test_a_file_of_three_keys(aws: Any) -> None:
    rows = [f"name{n},{n:030}" for n in range(3)]
    answer = imported(aws, "Name,Key", *rows)
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 201
    assert (len(answer["ids"]), answer["warnings"]) == (3, [])
    keys = [aws.get_api_key(apiKey=key, includeValue=True) for key in answer["ids"]]
    assert [(key["name"], key["value"], key["enabled"]) for key in keys] == [
        (f"name{n}", f"{n:030}", True) for n in range(3)
    ]


def test_columns_in_any_order_and_case(aws: Any) -> None:
    answer = imported(
        aws, "\ufeffkey , colour,NAME, description,Enabled", f' {VALUE} ,red, a , "b, c",tRuE', "", f"{VALUE}2,,x,,no"
    )
    first, second = (aws.get_api_key(apiKey=key) for key in answer["ids"])
    assert (first["name"], first["description"], first["enabled"]) == ("a", "b, c", True)
    assert (second["name"], second["enabled"]) == ("x", False)


@pytest.mark.parametrize("quote_mark", ['"', "'"])
def test_a_file_names_plans(aws: Any, quote_mark: str) -> None:
    plans = [aws.create_usage_plan(name=name)["id"] for name in "pq"]
    listed = f"{quote_mark}{plans[0]}, {plans[1]},unknown{quote_mark}"
    (key,) = imported(aws, "name,key,usageplanIds,enabled", f"a,{VALUE},{listed},true")["ids"]
    assert [ids(aws.get_usage_plan_keys(usagePlanId=plan)) for plan in plans] == [[key], [key]]
    assert aws.get_api_key(apiKey=key)["enabled"] is True


def test_a_known_value_is_overwritten(aws: Any) -> None:
    old = aws.create_api_key(value=VALUE, name="old", customerId="c")["id"]
    assert imported(aws, "Name,Key", f"new,{VALUE}")["ids"] == [old]
    key = aws.get_api_key(apiKey=old, includeValue=True)
    assert (key["name"], key["enabled"], key["customerId"], key["value"]) == ("new", True, "c", VALUE)
    assert ids(aws.get_api_keys(nameQuery="old")) == []


def test_the_last_row_of_a_value_wins(aws: Any) -> None:
    answer = imported(aws, "Name,Key", f"first,{VALUE}", f"last,{VALUE}")
    assert len(set(answer["ids"])) == 1
    assert [item["name"] for item in aws.get_api_keys()["items"]] == ["last"]


@pytest.mark.parametrize("column", ["Name", "Key"])
def test_a_required_column_is_missing(aws: Any, column: str) -> None:
    header = {"Name": "Key", "Key": "Name"}[column]
    expected = f"BadRequestException: Missing required column '{column.lower()}'"
    assert refusal(aws.import_api_keys, format="csv", body=header.encode()) == expected


def test_a_bad_row(aws: Any) -> None:
    rows = ["Name,Key", "short,x", f"good,{VALUE}"]
    warning = "Skipped invalid record: 1. API Key value should be at least 20 characters"
    answer = imported(aws, *rows)
    assert (len(answer["ids"]), answer["warnings"]) == (1, [warning])
    refused = refusal(lambda: imported(aws, *rows, failOnWarnings=True))
    assert refused == f"BadRequestException: Warnings found during import:\n\t{warning}"


def test_an_unknown_plan_has_a_warning(aws: Any) -> None:
    """Its key would be refused for ever, without a reason."""
    rows = ["Name,Key,UsagePlanIds", f"a,{VALUE},nowhere", f"b,{VALUE}b,"]
    warning = "Record 1: There is no usage plan 'nowhere'"
    assert refusal(lambda: imported(aws, *rows, failOnWarnings=True)).endswith(f"\n\t{warning}")
    assert aws.get_api_keys()["items"] == []
    answer = imported(aws, *rows)
    assert (len(answer["ids"]), answer["warnings"]) == (2, [warning])


def test_a_missing_quotation_mark_shows_no_key_to_a_reader(control: Control) -> None:
    """The records below would be the description of the one above, which read-only callers see."""
    rows = ["Name,Key,Description", f'acme,{VALUE},"unclosed', f"next,{'w' * 30},fine"]
    for flag in ("", "&failonwarnings=true"):
        reply = raw(control, "POST", f"/apikeys?mode=import&format=csv{flag}", "\n".join(rows).encode())
        assert (reply.status, reply.code) == (400, "BadRequestException")
        assert reply.json()["message"].startswith("The file cannot be read: line 2: ")
    assert boto(control.as_reader()).get_api_keys()["items"] == []


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_file_may_be_written_in_any_unicode_encoding(aws: Any, encoding: str) -> None:
    body = f"Name,Key\nMüller,{VALUE}".encode(encoding)
    (key,) = aws.import_api_keys(format="csv", body=body)["ids"]
    assert aws.get_api_key(apiKey=key)["name"] == "Müller"


def test_the_answer_to_a_file_of_invalid_records_is_short(control: Control) -> None:
    """The loop goes on meanwhile: health checks are answered while the file is read in a thread."""
    body = b"Name,Key\n" + b"'a,a,a\n" * 20_000
    reply = raw(control, "POST", "/apikeys?mode=import&format=csv", body)
    assert reply.status == 201
    assert len(reply.json()["warnings"]) == 101
    assert len(reply.body) < 20_000


@pytest.mark.parametrize("body", [b"\xff\xfe", b"", b'Name,Key\n"' + b"x" * 140_000, b"Name,Key\na,\0" + b"x" * 30])
def test_a_file_that_is_none_is_refused_or_warned_of(control: Control, body: bytes) -> None:
    reply = raw(control, "POST", "/apikeys?mode=import&format=csv&failonwarnings=true", body)
    assert (reply.status, reply.code) == (400, "BadRequestException")


def test_only_csv_is_imported(control: Control) -> None:
    reply = raw(control, "POST", "/apikeys?mode=import&format=xml", b"")
    assert (reply.status, reply.code) == (400, "ValidationException")
    assert "Member must satisfy enum value set: [csv]" in reply.json()["message"]


def test_a_large_import_is_several_writes(aws: Any) -> None:
    rows = [f"n{n},{n:030}" for n in range(1200)]
    assert len(set(imported(aws, "Name,Key", *rows)["ids"])) == 1200


def test_the_account(aws: Any) -> None:
    account = aws.get_account()
    assert account["throttleSettings"] == {"burstLimit": 5000, "rateLimit": 10000.0}
    assert (account["features"], account["apiKeyVersion"]) == (["UsagePlans"], "4")
    assert "cloudwatchRoleArn" not in account


def test_the_account_is_patched(aws: Any) -> None:
    operations = [
        replaced("/cloudwatchRoleArn", "arn:x"),
        replaced("/throttleSettings/rateLimit", "5"),
        {"op": "add", "path": "/features", "value": "UsagePlans"},
    ]
    changed = aws.update_account(patchOperations=operations)
    assert changed["throttleSettings"] == {"burstLimit": 5000, "rateLimit": 5.0}
    assert aws.get_account()["cloudwatchRoleArn"] == "arn:x"
    bad = [replaced("/apiKeyVersion", "5")]
    assert refusal(aws.update_account, patchOperations=bad).endswith("Must be one of: [/cloudwatchRoleArn]")


def test_usage_plans_cannot_be_disabled(aws: Any) -> None:
    operations = [{"op": "remove", "path": "/features", "value": "UsagePlans"}]
    expected = "BadRequestException: Usage Plans cannot be disabled once enabled"
    assert refusal(aws.update_account, patchOperations=operations) == expected


@pytest.mark.parametrize("family", ["apikeys", "usageplans"])
def test_tags_by_arn(aws: Any, family: str) -> None:
    made = aws.create_api_key() if family == "apikeys" else aws.create_usage_plan(name="p")
    arn = f"arn:aws:apigateway:eu-central-1::/{family}/{made['id']}"
    assert aws.tag_resource(resourceArn=arn, tags={"a": "1", "b": "2"})["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert aws.tag_resource(resourceArn=arn, tags={"b": "3"})
    assert aws.get_tags(resourceArn=arn)["tags"] == {"a": "1", "b": "3"}
    assert aws.untag_resource(resourceArn=arn, tagKeys=["a", "x"])["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert aws.get_tags(resourceArn=arn)["tags"] == {"b": "3"}
    assert refusal(aws.tag_resource, resourceArn=arn, tags={"aws:x": "1"}).startswith("BadRequestException")
    assert refusal(aws.get_tags, resourceArn=f"{arn}x").startswith("NotFoundException")
    assert refusal(aws.get_tags, resourceArn="arn:nonsense").startswith("BadRequestException")


def test_tags_show_in_the_plan_and_not_in_the_list(aws: Any) -> None:
    plan = aws.create_usage_plan(name="p", tags={"a": "1"})
    assert plan["tags"] == {"a": "1"}
    assert aws.get_usage_plan(usagePlanId=plan["id"])["tags"] == {"a": "1"}
    assert not any("tags" in item for item in aws.get_usage_plans()["items"])


def test_the_wire(control: Control, aws: Any) -> None:
    key = aws.create_api_key()["id"]
    listed = raw(control, "GET", "/apikeys").json()
    assert list(listed) == ["item"]
    assert isinstance(listed["item"][0]["createdDate"], int)
    reply = raw(control, "GET", f"/apikeys/{key}x")
    assert (reply.status, reply.code) == (404, "NotFoundException")
    assert reply.json() == {"message": "Invalid API Key identifier specified"}
    arn = quote("arn:aws:apigateway:eu-central-1::/apikeys/" + key, safe="")
    assert raw(control, "GET", f"/tags/{arn}").json() == {"tags": {}}


def test_a_key_may_expire(control: Control) -> None:
    """`expiresAt` is ours: RFC 3339 in and out."""
    made = raw(control, "POST", "/apikeys", {"expiresAt": "2030-01-02T03:04:05+01:00"}).json()
    assert made["expiresAt"] == "2030-01-02T02:04:05Z"
    operations = {"patchOperations": [{"op": "remove", "path": "/expiresAt"}]}
    assert "expiresAt" not in raw(control, "PATCH", f"/apikeys/{made['id']}", operations).json()
    assert raw(control, "POST", "/apikeys", {"expiresAt": "tomorrow"}).status == 400
    assert raw(control, "POST", "/apikeys", {"expiresAt": "2030-01-02T03:04:05"}).status == 400


def test_the_legacy_stages_of_a_key(aws: Any) -> None:
    made = aws.create_api_key(stageKeys=[{"restApiId": "a", "stageName": "prod"}])
    assert made["stageKeys"] == ["a/prod"]
    operations = [
        {"op": "add", "path": "/stages", "value": "a/test"},
        {"op": "remove", "path": "/stages", "value": "a/prod"},
    ]
    assert aws.update_api_key(apiKey=made["id"], patchOperations=operations)["stageKeys"] == ["a/test"]


def test_a_reader_sees_no_value(control: Control, aws: Any) -> None:
    key, plan = aws.create_api_key()["id"], aws.create_usage_plan(name="p")["id"]
    aws.create_usage_plan_key(usagePlanId=plan, keyId=key, keyType="API_KEY")
    reader = boto(control.as_reader())
    assert refusal(reader.get_api_key, apiKey=key, includeValue=True).startswith("AccessDeniedException")
    assert "value" not in reader.get_usage_plan_key(usagePlanId=plan, keyId=key)
    assert "value" not in reader.get_usage_plan_keys(usagePlanId=plan)["items"][0]


def test_without_a_sealing_key_a_value_is_shown_once(shared_redis: RedisServer, account: str) -> None:
    with running(shared_redis.url, account, sealer=Sealer(), no_auth=True) as plane:
        made = raw(plane, "POST", "/apikeys", {"value": VALUE}, sign=False).json()
        assert made["value"] == VALUE
        assert "value" not in raw(plane, "GET", f"/apikeys/{made['id']}?includeValue=true", sign=False).json()
        assert raw(plane, "POST", "/apikeys", {"value": VALUE}, sign=False).status == 409


def test_what_the_file_has_is_read_and_not_written(shared_redis: RedisServer, account: str) -> None:
    key = StoredKey(ApiKey(id="filekey"), index="00", created_date=0, last_updated_date=0, plans=("fileplan",))
    plan = StoredPlan(UsagePlan(id="fileplan", name="of the file"))
    items: Items = {("apikey", "filekey"): key, ("usageplan", "fileplan"): plan}
    with running(shared_redis.url, account, fixed=lambda: items) as plane:
        aws = boto(plane)
        mine, other = aws.create_api_key()["id"], aws.create_usage_plan(name="p")["id"]
        assert ids(aws.get_api_keys()) == [mine, "filekey"]
        assert ids(aws.get_usage_plan_keys(usagePlanId="fileplan")) == ["filekey"]
        assert ids(aws.get_usage_plans(keyId="filekey")) == ["fileplan"]
        refused = [
            refusal(aws.delete_api_key, apiKey="filekey"),
            refusal(aws.delete_usage_plan, usagePlanId="fileplan"),
            refusal(aws.update_api_key, apiKey="filekey", patchOperations=[replaced("/name", "x")]),
            refusal(aws.create_usage_plan_key, usagePlanId="fileplan", keyId=mine, keyType="API_KEY"),
            refusal(aws.create_usage_plan_key, usagePlanId=other, keyId="filekey", keyType="API_KEY"),
        ]
        assert {text.partition(":")[0] for text in refused} == {"ConflictException"}


def test_no_value_reaches_the_store(control: Control, aws: Any) -> None:
    aws.create_api_key(value="a-value-that-stands-out")
    imported(aws, "Name,Key", "n,another-value-that-stands-out")

    async def everything(context: Context) -> str:
        page = await context.store.page("apikey", "apikey", 10, None)
        return f"{page} {await audit(control.store.database, 100)}"

    assert "stands-out" not in control.run(everything)


def test_the_audit_names_created_objects(control: Control, aws: Any) -> None:
    key, plan = aws.create_api_key()["id"], aws.create_usage_plan(name="p")["id"]
    brought = imported(aws, "name,key", f"a,{VALUE}")["ids"][0]
    told = [line.what for line in control.run(lambda _: audit(control.store.database, 3))]
    assert [what.split()[0] for what in told] == ["CreateApiKey", "CreateUsagePlan", "ImportApiKeys"]
    assert all(made in what for made, what in zip((key, plan, brought), told, strict=True))
