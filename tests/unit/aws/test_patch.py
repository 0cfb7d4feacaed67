"""The patch engine and the rules of plans and keys, as tables."""

from __future__ import annotations

from typing import Any

import pytest

from authz.aws.errors import ApiError
from authz.aws.patch import Document, Op, PatchOperation, PatchRule, Type, apply
from authz.aws.plans import KEY_TABLE, PLAN_TABLE, checked_plan, checked_tags, checked_value, join, plan_document
from authz.core.resources import ApiKey, UsagePlan
from authz.core.stored import StoredKey, StoredPlan

PLAN = StoredPlan(UsagePlan(id="p", name="plan"), nonce="n")
THROTTLE = "/apiStages/a:prod/throttle"


def operation(op: Op, path: str, value: str | None = None) -> PatchOperation:
    return PatchOperation(op, path, value)


def patched(*operations: PatchOperation, **members: Any) -> Document:
    """The plan that has stage a:prod, after the operations, as AWS prints it."""
    stages = [{"apiId": "a", "stage": "prod"}]
    document = apply(PLAN_TABLE, {"id": "p", "name": "plan", "apiStages": stages} | members, operations)
    return plan_document(checked_plan(document, PLAN))


def refusal(*operations: PatchOperation, **members: Any) -> str:
    with pytest.raises(ApiError) as refused:
        patched(*operations, **members)
    return f"{refused.value.code}: {refused.value.message}"


def stage(plan: Document) -> Document:
    found: Document = plan["apiStages"][0]
    return found


@pytest.mark.parametrize(
    "path",
    [
        f"{THROTTLE}//pets/GET/rateLimit",
        f"{THROTTLE}/pets/GET/rateLimit",
        f"{THROTTLE}/~1pets/GET/rateLimit",
        f"{THROTTLE}/~1pets~1GET/rateLimit",
    ],
)
@pytest.mark.parametrize("op", ["add", "replace"])
def test_a_method_is_patched_in_every_spelling(op: Op, path: str) -> None:
    assert stage(patched(operation(op, path, "0.1")))["throttle"] == {"/pets/GET": {"rateLimit": 0.1}}


@pytest.mark.parametrize("path", ["//GET", "///GET", "/~1/GET"])
def test_the_root_is_patched_in_every_spelling(path: str) -> None:
    assert stage(patched(operation("replace", f"{THROTTLE}{path}/burstLimit", "3")))["throttle"] == {
        "//GET": {"burstLimit": 3}
    }


def test_a_deep_path_with_parameters_is_one_method() -> None:
    done = patched(operation("add", f"{THROTTLE}//a/{{id}}/b/GET/rateLimit", "2"))
    assert stage(done)["throttle"] == {"/a/{id}/b/GET": {"rateLimit": 2.0}}


def test_one_spelling_finds_what_another_set() -> None:
    done = patched(
        operation("replace", THROTTLE, '{"/pets/GET": {"rateLimit": 1, "burstLimit": 1}, "//GET": {"rateLimit": 2}}'),
        operation("replace", f"{THROTTLE}/~1pets/GET/rateLimit", "5"),
        operation("remove", f"{THROTTLE}//GET"),
    )
    assert stage(done)["throttle"] == {"/pets/GET": {"rateLimit": 5.0, "burstLimit": 1}}


@pytest.mark.parametrize("key", ["pets/GET", "~1pets/GET", "*/*", "GET", "pets"])
def test_a_key_without_its_first_slash_is_refused(key: str) -> None:
    """Shown with one, it would be another key than a tool wrote: Terraform would plan a change for ever."""
    text = f'{{"{key}": {{"rateLimit": 1}}}}'
    assert refusal(operation("replace", THROTTLE, text)).startswith(
        "BadRequestException: Invalid method {resourcePath: "
    )


@pytest.mark.parametrize(
    "value", ["[]", "1", "null", "{", '{"/a/GET": 1}', '{"/a/GET": {"rateLimit": "x"}}', "[" * 9999]
)
def test_a_map_of_methods_that_is_none_is_refused(value: str) -> None:
    assert refusal(operation("replace", THROTTLE, value)).startswith("BadRequestException: Invalid ")


@pytest.mark.parametrize("value", ["", "x", "1_0", "nan", "inf", "-1", "0x1", "1e999", "0.0000001", "9" * 400, None])
def test_a_rate_that_is_none_is_refused(value: str | None) -> None:
    assert refusal(operation("replace", "/throttle/rateLimit", value)).startswith("BadRequestException: Invalid ")


@pytest.mark.parametrize("value", ["", "1.5", "-1", "2147483648", "1_0", "9" * 5000])
def test_a_burst_that_is_none_is_refused(value: str) -> None:
    assert refusal(operation("replace", "/throttle/burstLimit", value)).startswith("BadRequestException: Invalid ")


@pytest.mark.parametrize("op", ["move", "test", "copy"])
def test_an_operation_that_nothing_supports_lists_nothing(op: Op) -> None:
    refused = f"BadRequestException: Invalid patch path  '/name' specified for op '{op}'. "
    assert refusal(operation(op, "/name", "x")) == refused + "Please choose supported operations"


def test_hidden_rows_work_and_are_not_listed() -> None:
    table = (PatchRule(("replace",), "/a"), PatchRule(("replace",), "/b", Type.BOOL, hidden=True))
    assert apply(table, {}, [operation("replace", "/b", "TRUE")]) == {"b": True}
    with pytest.raises(ApiError, match=r"Must be one of: \[/a\]$"):
        apply(table, {}, [operation("replace", "/c", "x")])


def test_the_style_words_the_refusal() -> None:
    with pytest.raises(ApiError, match="no /x among /a"):
        apply(
            (PatchRule(("add",), "/a"),), {}, [operation("add", "/x")], lambda op, rows: f"no {op.path} among {rows[0]}"
        )


def test_nothing_of_a_refused_patch_lands() -> None:
    document: Document = {"stageKeys": [], "name": "old"}
    with pytest.raises(ApiError):
        apply(KEY_TABLE, document, [operation("replace", "/name", "new"), operation("replace", "/id", "x")])
    assert document == {"stageKeys": [], "name": "old"}


def test_a_quota_is_judged_when_all_operations_are_done() -> None:
    done = patched(
        operation("add", "/quota/offset", "6"),
        operation("add", "/quota/period", "WEEK"),
        operation("add", "/quota/limit", "5"),
    )
    assert done["quota"] == {"limit": 5, "offset": 6, "period": "WEEK"}
    assert "quota limit" in refusal(operation("add", "/quota/period", "DAY"))


def test_our_own_members_are_shown_where_they_are_set() -> None:
    done = patched(operation("replace", "/mode", "shadow"), operation("replace", "/failurePolicy", "deny"))
    assert (done["mode"], done["failurePolicy"]) == ("shadow", "deny")
    assert not {"mode", "failurePolicy"} & patched(operation("replace", "/mode", "enforce")).keys()
    assert "Must be one of [enforce, shadow]" in refusal(operation("replace", "/mode", "x"))


def test_a_stage_that_is_attached_twice_is_refused() -> None:
    assert refusal(operation("add", "/apiStages", "a:prod")).startswith("ConflictException")


@pytest.mark.parametrize("value", ["", ":", "a:", ":prod", "a:prod:x", "prod"])
@pytest.mark.parametrize("op", ["add", "remove"])
def test_a_malformed_stage_is_refused(op: Op, value: str) -> None:
    assert refusal(operation(op, "/apiStages", value)) == "BadRequestException: Invalid API Stage specified"


def key(*plans: str) -> StoredKey:
    return StoredKey(ApiKey(id="k"), index="i", created_date=0, last_updated_date=0, plans=plans)


def plan(plan_id: str, *stages: str) -> StoredPlan:
    documents = [{"apiId": "a", "stage": name} for name in stages]
    return checked_plan({"name": "x", "apiStages": documents}, StoredPlan(UsagePlan(id=plan_id, name=""), nonce="n"))


def test_a_key_joins_plans_of_different_stages_and_forgets_dead_ones() -> None:
    assert join(key("dead.n", "p.n"), plan("q", "test"), [plan("p", "prod")]) == ("p.n", "q.n")


@pytest.mark.parametrize(
    ("others", "code"),
    [
        ([plan("q", "test")], "ConflictException"),
        ([plan("p", "prod")], "ConflictException"),
        ([plan(f"p{number}", f"s{number}") for number in range(10)], "LimitExceededException"),
    ],
)
def test_what_a_key_cannot_join(others: list[StoredPlan], code: str) -> None:
    with pytest.raises(ApiError) as refused:
        join(key(), plan("q", "prod"), others)
    assert refused.value.code == code


@pytest.mark.parametrize("value", ["x" * 19 + ",", "x" * 19 + " ", "x" * 19 + "ß", "x" * 20 + "\n"])
def test_a_value_that_no_header_can_hold_is_refused(value: str) -> None:
    with pytest.raises(ApiError):
        checked_value(value)


@pytest.mark.parametrize(
    "tags", [{"aws:x": ""}, {"": "x"}, {"x" * 129: ""}, {"x": "y" * 257}, {str(n): "" for n in range(51)}]
)
def test_tags_that_break_a_rule_are_refused(tags: dict[str, str]) -> None:
    with pytest.raises(ApiError):
        checked_tags(tags)
