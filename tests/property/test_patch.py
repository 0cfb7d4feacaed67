"""Laws of the patch engine: a plain dictionary model, untouched input, and an answer for every path there is."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from authz.aws.errors import ApiError
from authz.aws.patch import Document, PatchOperation, apply
from authz.aws.plans import KEY_TABLE, PLAN_TABLE, checked_plan, plan_document
from authz.core.resources import UsagePlan
from authz.core.stored import StoredPlan

BARE = StoredPlan(UsagePlan(id="p", name="plan"), nonce="n")

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
rates = st.floats(0.01, 1000).map(repr)
bursts = st.integers(0, 1000).map(str)
stages = st.sampled_from(["a:x", "a:y", "b:x"])
methods = st.sampled_from(["/pets/GET", "//GET", "/a/{id}/PUT"])


def operation(op: Any, path: Any, value: Any) -> st.SearchStrategy[PatchOperation]:
    return st.builds(PatchOperation, st.sampled_from(op), path, value)


def under_stage(end: str) -> st.SearchStrategy[str]:
    return st.builds(lambda stage, method: f"/apiStages/{stage}/throttle/{method}{end}", stages, methods)


valid = st.one_of(
    operation(["replace"], st.sampled_from(["/name", "/description"]), texts),
    operation(["add", "replace"], st.just("/throttle/rateLimit"), rates),
    operation(["add", "replace"], st.just("/throttle/burstLimit"), bursts),
    operation(["remove"], st.sampled_from(["/throttle", "/quota", "/productCode"]), st.none()),
    operation(["add", "replace"], st.just("/quota/limit"), bursts),
    operation(["add", "replace"], st.just("/quota/offset"), bursts),
    operation(["add", "replace"], st.just("/quota/period"), st.sampled_from(["DAY", "WEEK", "MONTH", "YEAR"])),
    operation(["add", "replace"], st.just("/productCode"), texts),
    operation(["add", "remove"], st.just("/apiStages"), stages),
    operation(["add", "replace"], under_stage("/rateLimit"), rates),
    operation(["add", "replace"], under_stage("/burstLimit"), bursts),
    operation(["remove"], under_stage(""), st.none()),
    operation(["remove"], stages.map(lambda stage: f"/apiStages/{stage}/throttle"), st.none()),
)
wild = st.builds(
    PatchOperation,
    st.sampled_from(["add", "remove", "replace", "move", "test", "copy"]),
    texts | texts.map(lambda text: f"/apiStages/{text}") | under_stage("/") | valid.map(lambda one: one.path),
    st.none() | texts,
)


class RefusedError(Exception):
    """What the model does not allow."""


def modelled(document: Document, operations: list[PatchOperation]) -> dict[tuple[str, ...], Any]:
    """The model of a patch on a flat dictionary: a member's whole path is its key."""
    flat: dict[tuple[str, ...], Any] = {("name",): "plan"}
    for one in operations:
        _model(flat, one)
    return flat | {("id",): document["id"]}


def _model(flat: dict[tuple[str, ...], Any], one: PatchOperation) -> None:
    if one.path == "/apiStages":
        place = ("apiStages", one.value or "")
        if (one.op == "add") == (place in flat):
            raise RefusedError
        _drop(flat, place) if one.op == "remove" else flat.update({place: True})
        return
    path = _path(one.path)
    if path[0] == "apiStages" and path[:2] not in flat:
        raise RefusedError
    if one.op == "remove":
        _drop(flat, path)
    else:
        flat[path] = {"rateLimit": float, "burstLimit": int, "limit": int, "offset": int}.get(path[-1], str)(one.value)


def _path(text: str) -> tuple[str, ...]:
    """The parts of a path, a method being one."""
    if not text.startswith("/apiStages"):
        return tuple(text.split("/")[1:])
    _, kind, stage, throttle, *rest = text.split("/", 4)
    number = [end for end in ("rateLimit", "burstLimit") if rest and rest[0].endswith(end)]
    return (kind, stage, throttle, *(part.removesuffix(f"/{''.join(number)}") for part in rest), *number)


def _drop(flat: dict[tuple[str, ...], Any], path: tuple[str, ...]) -> None:
    for member in [member for member in flat if member[: len(path)] == path]:
        del flat[member]


def flattened(document: Document) -> dict[tuple[str, ...], Any]:
    """A plan as the model keeps it."""
    flat: dict[tuple[str, ...], Any] = {}
    for name, value in document.items():
        if name == "apiStages":
            for stage in value:
                place = ("apiStages", f"{stage['apiId']}:{stage['stage']}")
                flat[place] = True
                for method, numbers in stage.get("throttle", {}).items():
                    flat |= {(*place, "throttle", method, number): numbers[number] for number in numbers}
        elif isinstance(value, dict):
            flat |= {(name, member): value[member] for member in value}
        else:
            flat[(name,)] = value
    return flat


@given(st.lists(valid, max_size=12))
def test_a_plan_is_patched_as_a_dictionary_would_be(operations: list[PatchOperation]) -> None:
    document = plan_document(BARE)
    try:
        expected = modelled(document, operations)
    except RefusedError:
        expected = {}
    try:
        found = flattened(apply(PLAN_TABLE, document, operations))
    except ApiError:
        found = {}
    assert found == expected
    assert document == plan_document(BARE)


@given(st.lists(valid, max_size=12))
def test_an_accepted_patch_is_printed_and_accepted_again(operations: list[PatchOperation]) -> None:
    try:
        taken = checked_plan(apply(PLAN_TABLE, plan_document(BARE), operations), BARE)
    except ApiError:
        return
    assert checked_plan(plan_document(taken), taken) == taken


@given(st.lists(wild, max_size=4))
@example([PatchOperation("remove", "/throttle"), PatchOperation("replace", "/throttle/rateLimit", "x")])
def test_every_operation_is_applied_or_refused_by_name(operations: list[PatchOperation]) -> None:
    refused: list[str] = []
    for table, document in ((PLAN_TABLE, plan_document(BARE)), (KEY_TABLE, {"id": "k", "stageKeys": []})):
        before = deepcopy(document)
        try:
            changed = apply(table, document, operations)
            if table is PLAN_TABLE:
                checked_plan(changed, BARE)
        except ApiError as error:
            refused.append(error.message)
        assert document == before
    assert all(refused)
