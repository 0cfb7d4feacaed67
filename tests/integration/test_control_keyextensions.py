"""`/apikeys/{id}/extension`: what a key has beside AWS's members, which AWS's own operations leave alone."""

from __future__ import annotations

from typing import Any

import pytest

from authz.core.resources import ApiKey
from authz.core.stored import Items, StoredKey
from tests.support.control import Control, Reply, boto, raw, running
from tests.support.control import control as control
from tests.support.servers import RedisServer

OFFICE = {"allowedSources": ["203.0.113.0/24", "2001:db8::7"]}


def a_key(plane: Control) -> str:
    made: str = boto(plane).create_api_key(name="acme", value="v" * 20, enabled=True, tags={"team": "a"})["id"]
    return made


def extension(plane: Control, key_id: str) -> Any:
    return raw(plane, "GET", f"/apikeys/{key_id}/extension").json()


def put(plane: Control, key_id: str, body: object = OFFICE) -> Any:
    return raw(plane, "PUT", f"/apikeys/{key_id}/extension", body)


def refused(reply: Reply, status: int, code: str) -> str:
    """The message of a refusal with this status and code."""
    assert (reply.status, reply.code) == (status, code), reply
    message: str = reply.json()["message"]
    return message


def test_a_key_has_no_extension_unless_one_is_put(control: Control) -> None:
    key_id = a_key(control)
    assert extension(control, key_id) == {}
    assert put(control, key_id).json() == OFFICE
    assert extension(control, key_id) == OFFICE


@pytest.mark.parametrize("body", [{}, {"allowedSources": None}])
def test_a_put_replaces_the_whole(control: Control, body: object) -> None:
    key_id = a_key(control)
    put(control, key_id)
    assert put(control, key_id, body).json() == {}
    assert extension(control, key_id) == {}


def test_what_a_get_showed_can_be_put_back(control: Control) -> None:
    """`lastUsedDate` changes by calls alone."""
    key_id = a_key(control)
    assert put(control, key_id, OFFICE | {"lastUsedDate": "2026-01-31"}).json() == OFFICE
    assert extension(control, key_id) == OFFICE


def test_the_value_before_a_rotation_is_shown_while_it_is_valid_and_can_be_ended(control: Control) -> None:
    key_id = a_key(control)
    until = raw(control, "POST", f"/apikeys/{key_id}/rotate", {"overlapSeconds": 60}).json()["previousExpiresAt"]
    assert extension(control, key_id) == {"previousExpiresAt": until}
    assert put(control, key_id, OFFICE | {"previousExpiresAt": 7}).json() == OFFICE | {"previousExpiresAt": until}
    for _ in range(2):
        assert raw(control, "DELETE", f"/apikeys/{key_id}/previous-value").status == 202
        assert extension(control, key_id) == OFFICE
    assert boto(control).create_api_key(name="b", value="v" * 20)["id"], "another key may have the ended value"


def test_a_delete_removes_all_of_it(control: Control) -> None:
    key_id = a_key(control)
    put(control, key_id, OFFICE | {"billingDay": 15})
    assert raw(control, "DELETE", f"/apikeys/{key_id}/extension").status == 202
    assert extension(control, key_id) == {}


def test_a_billing_day_is_kept_beside_the_sources(control: Control) -> None:
    key_id = a_key(control)
    assert put(control, key_id, OFFICE | {"billingDay": 15}).json() == OFFICE | {"billingDay": 15}
    refused(put(control, key_id, {"billingDay": 29}), 400, "BadRequestException")
    assert put(control, key_id).json() == OFFICE


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"allowedSources": []}, "Invalid $.allowedSources: expected at least one range"),
        (
            {"allowedSources": ["10.1.2.3/8"]},
            "Invalid $.allowedSources[0]: expected the first address of the range: 10.0",
        ),
        (
            {"allowedSources": ["10.0.0.1", "x"]},
            "Invalid $.allowedSources[1]: expected an IPv4 or IPv6 address or range",
        ),
        ({"allowedSources": ["10.0.0.1"] * 101}, "Invalid $.allowedSources: expected at most 100 ranges, got 101"),
        ({"allowedsources": ["10.0.0.1"]}, "Invalid $.allowedsources: unknown field; did you mean allowedSources?"),
    ],
)
def test_a_mistake_is_named_and_changes_nothing(control: Control, body: object, says: str) -> None:
    key_id = a_key(control)
    put(control, key_id)
    assert says in refused(put(control, key_id, body), 400, "BadRequestException")
    assert extension(control, key_id) == OFFICE


@pytest.mark.parametrize("body", [{"allowedSources": "10.0.0.1"}, {"allowedSources": [7]}, []])
def test_another_shape_is_refused(control: Control, body: object) -> None:
    assert put(control, a_key(control), body).status == 400


def test_a_key_that_is_not_there_has_none(control: Control) -> None:
    refused(raw(control, "GET", "/apikeys/none/extension"), 404, "NotFoundException")
    refused(put(control, "none"), 404, "NotFoundException")


def test_a_reader_may_read_and_not_write(control: Control) -> None:
    key_id = a_key(control)
    assert extension(control.as_reader(), key_id) == {}
    refused(put(control.as_reader(), key_id), 403, "AccessDeniedException")


def test_awss_operations_neither_show_nor_lose_it(control: Control) -> None:
    """So that Terraform sees no difference, and a change of a name does not open the key to everybody."""
    key_id, aws = a_key(control), boto(control)
    before = aws.get_api_key(apiKey=key_id)
    put(control, key_id)
    after = aws.get_api_key(apiKey=key_id)
    names = before.keys() - {"ResponseMetadata", "lastUpdatedDate"}
    assert {name: after[name] for name in names} == {name: before[name] for name in names}
    assert before.keys() == after.keys()
    aws.update_api_key(apiKey=key_id, patchOperations=[{"op": "replace", "path": "/name", "value": "other"}])
    aws.tag_resource(resourceArn=f"arn:aws:apigateway:us-east-1::/apikeys/{key_id}", tags={"a": "b"})
    aws.import_api_keys(format="csv", body=("name,key\nnew," + "v" * 20).encode())
    raw(control, "POST", f"/apikeys/{key_id}/rotate", {})
    assert extension(control, key_id) == OFFICE
    assert aws.get_api_key(apiKey=key_id)["tags"] == {"team": "a", "a": "b"}


def test_a_key_of_the_file_shows_its_own_and_is_read_only(shared_redis: RedisServer) -> None:
    key = ApiKey("k1", allowed_sources=("203.0.113.0/24",))
    items: Items = {("apikey", "k1"): StoredKey(key, "0" * 64, 1, 1)}
    with running(shared_redis.url, "keyextensions", fixed=lambda: items) as plane:
        assert extension(plane, "k1") == {"allowedSources": ["203.0.113.0/24"]}
        assert "configuration file" in refused(put(plane, "k1"), 409, "ConflictException")


def test_the_answer_to_a_request_is_explained_for_an_address(control: Control) -> None:
    key_id = a_key(control)
    put(control, key_id)
    body = {"url": "https://a1.example/prod/pets", "headers": {"x-api-key": "v" * 20}, "source": "somewhere"}
    assert "Invalid source" in refused(raw(control, "POST", "/explain", body), 400, "BadRequestException")
