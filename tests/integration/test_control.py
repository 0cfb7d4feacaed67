"""The control plane's frame: who may call, how calls are refused, and that no input of a client makes a 500."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import quote

import botocore.session
import pytest
import redis
import yaml
from botocore.exceptions import ClientError
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from msgspec import structs

from authz.aws.convert import from_resources
from authz.cli.main import cli
from authz.control import bodies, connections
from authz.control.api import operations
from authz.control.app import BODY_BYTES
from authz.control.call import Context
from authz.control.operations.absent import OPERATIONS as ABSENT
from authz.control.operations.unsupported import UNSUPPORTED
from authz.control.server import ControlOptions
from authz.core.resources import ApiKey, Resources, UsagePlan
from authz.store.consistency import differences
from authz.store.sealing import Sealer
from tests.support.control import PEPPER, SEALER, Control, Reply, boto, patiently, raw, running
from tests.support.control import control as control
from tests.support.servers import Kind, RedisServer, redis_server, until

JSON = {"Content-Type": "application/json"}


def bearer(control: Control, verb: str, path: str, body: Any = None, **headers: str) -> Reply:
    token = {"Authorization": f"Bearer {control.token.secret}"}
    return raw(control, verb, path, body, {**token, **headers}, sign=False)


def refused(reply: Reply, status: int, code: str) -> str:
    """The message of a refusal that is as AWS's are."""
    assert (reply.status, reply.code) == (status, code), reply
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-amzn-requestid"]
    assert list(reply.json()) == ["message"]
    message: str = reply.json()["message"]
    return message


# The served API


def test_every_operation_of_aws_is_served_or_says_that_it_is_not() -> None:
    """By botocore's own model: name, verb, path."""
    model = botocore.session.get_session().get_service_model("apigateway")
    theirs = {}
    for name in model.operation_names:
        http = model.operation_model(name).http
        theirs[name] = (http["method"], http["requestUri"].partition("?")[0])
    ours = {operation.name: (operation.verb, operation.path) for operation in operations()}
    assert {name: route for name, route in ours.items() if name in theirs} == theirs


def test_names_are_served_once() -> None:
    routes = [(operation.verb, operation.path, operation.mode) for operation in operations()]
    assert len(set(routes)) == len(routes)


@pytest.mark.parametrize("operation", UNSUPPORTED, ids=lambda operation: operation.name)
def test_an_operation_that_is_not_here_names_itself(operation: Any, plane: Control) -> None:
    path = operation.path.replace("{", "").replace("}", "")
    message = refused(bearer(plane, operation.verb, path), 501, "NotImplementedException")
    assert operation.name in message


@pytest.fixture(scope="module")
def plane(shared_redis: RedisServer) -> Iterator[Control]:
    """One for all tests that write nothing."""
    with running(shared_redis.url, f"frame{os.getpid()}") as running_plane:
        yield running_plane


# Who may call


def test_boto3_is_let_in(plane: Control) -> None:
    answer = boto(plane).get_account()
    assert answer["ResponseMetadata"]["RequestId"]


def test_a_bearer_token_is_let_in(plane: Control) -> None:
    assert bearer(plane, "GET", "/account").status == 200


def test_a_call_without_credentials_is_refused(plane: Control) -> None:
    message = refused(raw(plane, "GET", "/account", sign=False), 403, "MissingAuthenticationTokenException")
    assert message == "Missing Authentication Token"


def test_an_unknown_access_key_is_refused(plane: Control) -> None:
    refused(raw(replace_id(plane), "GET", "/account"), 403, "UnrecognizedClientException")


def replace_id(plane: Control) -> Control:
    assert plane.admin is not None
    return replace(
        plane, admin=replace(plane.admin, credential=structs.replace(plane.admin.credential, id="AKIAUNKNOWN"))
    )


def test_a_wrong_secret_is_refused(plane: Control) -> None:
    assert plane.admin is not None
    wrong = replace(plane, admin=replace(plane.admin, secret="wrong"))
    with pytest.raises(ClientError) as raised:
        boto(wrong).get_account()
    assert raised.value.response["Error"]["Code"] == "InvalidSignatureException"
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


def test_an_unknown_token_is_refused_and_not_repeated(plane: Control) -> None:
    reply = raw(plane, "GET", "/account", headers={"Authorization": "Bearer nobodys-token"}, sign=False)
    assert "nobodys" not in refused(reply, 403, "UnrecognizedClientException")


def test_a_session_token_belongs_to_no_key_of_ours(plane: Control) -> None:
    reply = raw(plane, "GET", "/account", headers={"X-Amz-Security-Token": "session"})
    refused(reply, 403, "UnrecognizedClientException")


@pytest.mark.parametrize("authorization", ["Basic YTpi", "AWS4-HMAC-SHA256 nonsense", "AWS4-HMAC-SHA256", "x"])
def test_a_malformed_signature_is_incomplete(plane: Control, authorization: str) -> None:
    reply = raw(plane, "GET", "/account", headers={"Authorization": authorization}, sign=False)
    refused(reply, 403, "IncompleteSignatureException")


def test_an_unsigned_payload_is_let_in(plane: Control) -> None:
    reply = raw(plane, "GET", "/account", headers={"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"})
    assert reply.status == 200


def test_an_encoded_path_is_signed_and_routed_as_it_was_sent(plane: Control) -> None:
    arn = quote("arn:aws:apigateway:eu-central-1::/apikeys/none", safe="")
    assert raw(plane, "GET", f"/tags/{arn}").status in (400, 404)
    assert raw(plane, "GET", f"/tags/{arn}").code == "NotFoundException"


def test_a_deleted_credential_is_refused_at_once(control: Control, shared_redis: RedisServer) -> None:
    assert control.admin is not None
    client = boto(control)
    client.get_account()
    place = ["--redis-url", shared_redis.url, "--account-id", control.account]
    done = CliRunner().invoke(cli, ["credentials", "delete", control.admin.credential.id, *place])
    assert done.exit_code == 0, done.output
    with pytest.raises(ClientError, match="UnrecognizedClientException"):
        client.get_account()


# Roles


def test_a_reader_reads_but_neither_writes_nor_sees_a_value(control: Control) -> None:
    admin, reader = boto(control), boto(control.as_reader())
    made = admin.create_api_key(name="one", value="a-value-that-is-long-enough")
    assert admin.get_api_key(apiKey=made["id"], includeValue=True)["value"] == "a-value-that-is-long-enough"
    assert "value" not in reader.get_api_key(apiKey=made["id"])
    assert "value" not in reader.get_api_keys()["items"][0]
    calls: tuple[Callable[[], Any], ...] = (
        lambda: reader.get_api_key(apiKey=made["id"], includeValue=True),
        lambda: reader.get_api_keys(includeValues=True),
        lambda: reader.create_api_key(name="two"),
        lambda: reader.delete_api_key(apiKey=made["id"]),
    )
    for call in calls:
        with pytest.raises(ClientError) as raised:
            call()
        assert raised.value.response["Error"]["Code"] == "AccessDeniedException"


def test_a_write_tells_its_version_and_is_audited(control: Control, shared_redis: RedisServer) -> None:
    reply = raw(control, "POST", "/apikeys", {"name": "audited", "value": "a-secret-value-of-a-key"})
    assert int(reply.headers["x-authz-version"]) > 0
    place = ["--redis-url", shared_redis.url, "--account-id", control.account]
    told = CliRunner().invoke(cli, ["audit", *place])
    assert told.exit_code == 0, told.output
    version, _, who, what = told.output.splitlines()[-1].split("  ")
    assert (version, who) == (reply.headers["x-authz-version"], "admin")
    assert what.startswith("CreateApiKey")
    assert "a-secret-value" not in told.output


def test_the_audit_is_read_by_the_id_that_it_names_over_many_lines(control: Control) -> None:
    """A page looks at 2,000 lines at most, so the lines of an old key may stand on a later page."""
    made = raw(control, "POST", "/apikeys", {"name": "old", "value": "v" * 20}).json()["id"]

    async def fill(context: Context) -> None:
        store = control.store.database
        last = (await context.store.head()).version
        for version in range(last + 1, last + 2_003):
            await store.ask("XADD", store.store_key("audit"), f"{version}-0", "at", 1, "who", "x", "what", "Filler")

    control.run(fill)
    first = raw(control, "GET", f"/audit?id={made}").json()
    assert first["item"] == []
    rest = raw(control, "GET", f"/audit?id={made}&position={first['position']}").json()
    assert [line["what"] for line in rest["item"]] == [f"CreateApiKey apikey/{made}"]
    assert "position" not in rest


def test_a_warning_is_in_the_answer_and_in_the_audit(control: Control, shared_redis: RedisServer) -> None:
    client = boto(control)
    api = client.create_rest_api(name="pets")
    named = {"restApiId": api["id"], "resourceId": api["rootResourceId"], "httpMethod": "GET"}
    put = client.put_method(**named, authorizationType="AWS_IAM")
    warning = "authorizationType AWS_IAM is stored and not carried out: every caller passes"
    assert put["ResponseMetadata"]["HTTPHeaders"]["x-authz-warning"] == warning
    place = ["--redis-url", shared_redis.url, "--account-id", control.account]
    assert warning in CliRunner().invoke(cli, ["audit", *place]).output.splitlines()[-1]

    patch = [{"op": "replace", "path": "/authorizationType", "value": "NONE"}]
    patched = client.update_method(**named, patchOperations=patch)
    assert "x-authz-warning" not in patched["ResponseMetadata"]["HTTPHeaders"]


# Without authentication


def test_without_authentication_everybody_on_this_machine_is_let_in(shared_redis: RedisServer, account: str) -> None:
    with running(shared_redis.url, account, no_auth=True) as plane:
        assert raw(plane, "GET", "/account", sign=False).status == 200
        assert raw(plane, "GET", "/account", headers={"Authorization": "AWS4 nonsense"}, sign=False).status == 200


@pytest.mark.parametrize("headers", [{"Origin": "http://page.example"}, {"Host": "page.example:8085"}])
def test_a_page_in_a_browser_is_not_let_in(shared_redis: RedisServer, account: str, headers: dict[str, str]) -> None:
    with running(shared_redis.url, account, no_auth=True) as plane:
        refused(raw(plane, "GET", "/account", headers=headers, sign=False), 403, "AccessDeniedException")


@pytest.mark.parametrize("listen", ["0.0.0.0:8085", "192.0.2.1:8085", "[::]:8085", "example.com:80"])
def test_no_authentication_is_for_loopback_only(listen: str) -> None:
    assert "loopback" in (ControlOptions(listen=listen, no_auth=True).problem() or "")
    assert ControlOptions(listen=listen).problem() is None


# Malformed, huge and slow


@pytest.mark.parametrize(
    "target", ["/", "/nothing", "/apikeys/", "//apikeys", "/apikeys/a/b/c", "/usageplans/../account"]
)
def test_an_unknown_path_is_not_found(plane: Control, target: str) -> None:
    refused(bearer(plane, "GET", target), 404, "NotFoundException")


@pytest.mark.parametrize("verb", ["PUT", "HEAD", "OPTIONS", "TRACE", "FROBNICATE"])
def test_an_unknown_verb_is_not_found(plane: Control, verb: str) -> None:
    reply = bearer(plane, verb, "/apikeys")
    assert (reply.status, reply.code) == (404, "NotFoundException")


@pytest.mark.parametrize(
    "target", ["/apikeys/%FF", "/apikeys/a%00b", "/apikeys?name=%00", "/apikeys?limit=x", "/apikeys?position=x"]
)
def test_an_odd_encoding_is_a_bad_request(plane: Control, target: str) -> None:
    refused(bearer(plane, "GET", target), 400, "BadRequestException")


def test_a_body_that_is_too_large_is_refused(plane: Control) -> None:
    refused(bearer(plane, "POST", "/apikeys", b"x" * (BODY_BYTES + 1)), 413, "RequestTooLargeException")


BODIES = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"1",
    b'"x"',
    b"\xff\x00",
    b"[" * 50_000,
    b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    b'{"patchOperations":null}',
    b'{"patchOperations":{}}',
    b'{"patchOperations":[1,null,"x",{"op":1,"path":[],"value":{}}]}',
    b'{"patchOperations":[{"op":"replace"}]}',
    b'{"patchOperations":[{"op":"replace","path":"","value":null}]}',
    b'{"patchOperations":[{"op":"wrong","path":"/name","value":"x"}]}',
    b'{"patchOperations":[{"op":"replace","path":"/~/~2//","value":"x"}]}',
    b'{"patchOperations":[{"op":"copy","from":"/x","path":"/name"}]}',
    b'{"patchOperations":[{"op":"replace","path":"/name","value":"\\ud800"}]}',
    json.dumps({"patchOperations": [{"op": "replace", "path": "/name", "value": "x"}] * 101}).encode(),
    json.dumps({"name": {"a": 1}, "value": [], "tags": 3, "enabled": "x", "throttle": 1, "quota": []}).encode(),
    json.dumps({"name": "x" * 100_000, "value": "y" * 100_000}).encode(),
    json.dumps({"name": "n", "throttle": {"rateLimit": 1e308, "burstLimit": 2**31}}).encode(),
    json.dumps({"name": "n", "quota": {"limit": -1, "period": "YEAR", "offset": 99}}).encode(),
    json.dumps({"id": "x\0", "overrides": {"\0": {}}, "quotas": [{"period": "\0"}], "methods": {"\0": {}}}).encode(),
    b'{"id":"\\ud800","overrides":{"\\ud800":{}},"methods":{"\\ud800":{}},"tags":{"\\ud800":""}}',
    json.dumps(
        {"id": "c", "billingDay": 1e300, "quotas": [[]], "methods": {"GET": {}, "//": {}, "/~1/GET": {}}}
    ).encode(),
    json.dumps({"quotas": [{"limit": 1e400, "period": "DAY"}], "costFrom": {"metadata": [], "max": -1}}).encode(),
    json.dumps({"quotas": [{"limit": 9, "period": "MONTH", "timeZone": "../../etc/passwd"}]}).encode(),
    json.dumps({"restApiId": "x", "stageName": "\0", "deploymentId": 1, "keyId": "k", "keyType": "?"}).encode(),
]
FILE: dict[str, Any] = {
    "apis": [{"id": "fixed", "stages": [{"name": "prod"}]}],
    "apiKeys": [{"id": "fixed-key", "value": "the-value-of-a-key-of-the-file"}],
    "usagePlans": [
        {"id": "p", "name": "P", "keys": ["fixed-key"], "apiStages": [{"apiId": "fixed", "stage": "prod"}]},
    ],
}
ENV = {"AUTHZ_PEPPER": PEPPER}
ENDINGS = ("", "?mode=import&format=csv", "?mode=%ff", "?limit=-1&position=%2F%2F", "?limit=" + "9" * 50)


SERVED = [operation for operation in operations() if operation not in UNSUPPORTED]


def refuse_rubbish(
    plane: Control, body: bytes, ending: str, part: Callable[[str], str], operations_: list[Any]
) -> None:
    """Each operation, its path made of these parts, answers what AWS may answer and is still there afterwards."""
    targets = [
        (operation.verb, re.sub(r"{(\w+)}", lambda found: quote(part(found[1]), safe=""), operation.path) + ending)
        for operation in operations_
    ]
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda target: patiently(plane, target[0], target[1], body, send=bearer), targets))
    faults = [(target, reply) for target, reply in zip(targets, replies, strict=True) if reply.status >= 500]
    assert not faults
    assert all(reply.json().keys() == {"message"} for reply in replies if reply.status >= 400)


@pytest.mark.parametrize("number", range(len(BODIES)))
def test_no_operation_answers_rubbish_with_a_fault_of_its_own(plane: Control, number: int) -> None:
    junk = ("nothing", "a~b/ü", "~1")[number % 3]
    refuse_rubbish(plane, BODIES[number], ENDINGS[number % len(ENDINGS)], lambda _: junk, SERVED)


@pytest.fixture(scope="module")
def furnished(shared_redis: RedisServer) -> Iterator[tuple[Control, dict[str, str]]]:
    """A control plane that has one of everything, and their ids by the names of the paths' parameters."""
    with running(shared_redis.url, f"furnished{os.getpid()}") as plane:
        client = boto(plane)
        api = client.create_rest_api(name="api")["id"]
        root = client.get_resources(restApiId=api)["items"][0]["id"]
        resource = client.create_resource(restApiId=api, parentId=root, pathPart="pets")["id"]
        client.put_method(
            restApiId=api, resourceId=resource, httpMethod="GET", authorizationType="NONE", apiKeyRequired=True
        )
        client.put_integration(restApiId=api, resourceId=resource, httpMethod="GET", type="MOCK")
        client.put_method_response(restApiId=api, resourceId=resource, httpMethod="GET", statusCode="200")
        client.put_integration_response(restApiId=api, resourceId=resource, httpMethod="GET", statusCode="200")
        validator = client.create_request_validator(restApiId=api, name="all")["id"]
        deployment = client.create_deployment(restApiId=api, stageName="prod")["id"]
        stages = [{"apiId": api, "stage": "prod"}]
        quota = {"limit": 10, "period": "DAY"}
        plan = client.create_usage_plan(name="plan", apiStages=stages, quota=quota)["id"]
        key = client.create_api_key(name="key", enabled=True)["id"]
        client.create_usage_plan_key(usagePlanId=plan, keyId=key, keyType="API_KEY")
        assert bearer(plane, "PUT", "/customers/acme", b"{}").status == 200
        target = b'{"name":"hook","url":"https://hook.invalid/"}'
        made = bearer(plane, "POST", "/alerts/targets", target)
        assert made.status == 201
        client.create_domain_name(domainName="a.example")
        client.create_base_path_mapping(domainName="a.example", basePath="v1", restApiId=api, stage="prod")
        absent = {name: "none" for one in ABSENT for name in re.findall(r"{(\w+)}", one.path)}
        yield (
            plane,
            absent
            | {
                "restapi_id": api,
                "model_name": "Empty",
                "requestvalidator_id": validator,
                "resource_id": resource,
                "parent_id": resource,
                "http_method": "GET",
                "status_code": "200",
                "deployment_id": deployment,
                "stage_name": "prod",
                "export_type": "oas30",
                "response_type": "THROTTLED",
                "usageplanId": plan,
                "keyId": key,
                "api_Key": key,
                "customerId": "acme",
                "targetId": made.json()["id"],
                "deliveryId": "none",
                "domain_name": "a.example",
                "base_path": "v1",
                "resource_arn": f"arn:aws:apigateway:eu-central-1::/restapis/{api}",
            },
        )


@pytest.mark.parametrize("number", range(len(BODIES)))
def test_no_operation_answers_rubbish_about_existing_objects_with_a_fault_of_its_own(
    furnished: tuple[Control, dict[str, str]], number: int
) -> None:
    plane, ids = furnished
    kept = [operation for operation in SERVED if operation.verb != "DELETE"]
    refuse_rubbish(plane, BODIES[number], ENDINGS[number % 2 and number % len(ENDINGS)], ids.__getitem__, kept)
    assert plane.run(lambda _: differences(plane.store)) == []


def test_a_slow_client_harms_no_other(plane: Control) -> None:
    slow = [socket.create_connection(("127.0.0.1", plane.port)) for _ in range(50)]
    try:
        for number, connection in enumerate(slow):
            connection.sendall(
                b"POST /apikeys HTTP/1.1\r\nHost: x\r\n" + (b"Content-Length: 9\r\n\r\n" if number % 2 else b"")
            )
        assert bearer(plane, "GET", "/account").status == 200
    finally:
        for connection in slow:
            connection.close()


def test_headers_that_do_not_end_are_not_waited_for(plane: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.05)
    with socket.create_connection(("127.0.0.1", plane.port), timeout=30) as connection:
        connection.sendall(b"GET /account HTTP/1.1\r\nHost:")
        assert connection.recv(100) == b""


def test_a_body_that_does_not_end_is_not_waited_for(plane: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.05)
    with socket.create_connection(("127.0.0.1", plane.port), timeout=30) as connection:
        connection.sendall(
            b"POST /apikeys HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n"
            b"Authorization: Bearer " + plane.token.secret.encode() + b"\r\n\r\n{"
        )
        answer = b"".join(iter(lambda: connection.recv(10_000), b""))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"did not arrive in time" in answer


def test_headers_that_are_too_large_are_refused(plane: Control) -> None:
    assert bearer(plane, "GET", "/account", **{"X-Large": "x" * 40_000}).status == 400


def test_without_redis_the_answer_is_unavailable(redis_kind: Kind, account: str) -> None:
    with redis_server(redis_kind) as redis_, running(redis_.url, account) as plane:
        redis_.kill()
        reply = raw(plane, "GET", "/account")
        refused(reply, 503, "ServiceUnavailableException")
        assert reply.headers["retry-after"] == "1"


# Extensions


def test_waiting_for_a_version_needs_no_sidecar_where_there_is_none(control: Control) -> None:
    version = raw(control, "POST", "/apikeys", {"name": "a"}).headers["x-authz-version"]
    reply = raw(control, "GET", f"/catalog/version?wait={version}")
    assert reply.json()["version"] == int(version)
    assert reply.json()["sidecars"] == []
    refused(raw(control, "GET", "/catalog/version?wait=99999"), 400, "BadRequestException")
    refused(raw(control, "GET", "/catalog/version?wait=x"), 400, "BadRequestException")


def test_waiting_names_the_sidecar_that_lags(control: Control) -> None:
    version = int(raw(control, "POST", "/apikeys", {"name": "a"}).headers["x-authz-version"])
    head = control.run(lambda context: context.store.head())
    control.run(lambda _: control.store.renew_presence("w1", replace(head, version=version - 1)))
    reply = raw(control, "GET", f"/catalog/version?wait={version}&timeout=0.1")
    assert "w1" in refused(reply, 409, "ConflictException")
    control.run(lambda _: control.store.renew_presence("w1", head))
    reply = raw(control, "GET", f"/catalog/version?wait={version}&timeout=0.1")
    assert reply.json()["sidecars"] == [{"id": "w1", "epoch": head.epoch, "version": version}]


def test_the_system_is_shown_with_its_store_its_sidecars_and_its_redis(control: Control) -> None:
    raw(control, "POST", "/apikeys", {"name": "a"})
    head = control.run(lambda context: context.store.head())
    control.run(lambda _: control.store.renew_presence("w1", head, "2.0"))
    system = raw(control, "GET", "/system").json()
    assert system["store"] == {"version": head.version, "plans": 0, "keys": 1, "customers": 0, "apis": 0}
    assert system["sidecars"] == [{"id": "w1", "version": head.version, "isCurrent": True, "release": "2.0"}]
    redis = system["redis"]
    assert (redis["role"], redis["evictionPolicy"], redis["kind"]) == ("master", "noeviction", "server")
    assert {"version", "usedMemory", "maxMemory", "appendOnly", "answerMilliseconds"} <= redis.keys()
    assert {"counter-without-expiry", "reads-a-replica"}.isdisjoint(finding["id"] for finding in system["findings"])
    refused(raw(control, "GET", "/system?x=1"), 400, "BadRequestException")


def test_the_keys_with_most_use_are_listed(furnished: tuple[Control, dict[str, str]]) -> None:
    plane, ids = furnished
    reply = raw(plane, "GET", f"/usage/top?usagePlanId={ids['usageplanId']}")
    assert reply.json() == {"usagePlanId": ids["usageplanId"], "item": []}
    refused(raw(plane, "GET", "/usage/top"), 400, "BadRequestException")
    refused(raw(plane, "GET", "/usage/top?usagePlanId=none"), 404, "NotFoundException")


def test_a_request_is_explained_and_nothing_is_spent(furnished: tuple[Control, dict[str, str]]) -> None:
    plane, ids = furnished
    key = boto(plane).get_api_key(apiKey=ids["api_Key"], includeValue=True)
    body = {"url": f"https://{ids['restapi_id']}.example/prod/pets", "headers": {"X-Api-Key": key["value"]}}
    for _ in range(2):
        lines = raw(plane, "POST", "/explain", body).json()["item"]
        assert f"key       {key['id']}" in lines
        assert any("quota" in line and ", 9 left after it" in line for line in lines), lines
        assert key["value"] not in str(lines)
    refused(raw(plane, "POST", "/explain", {"url": "http://[x"}), 400, "BadRequestException")
    refused(raw(plane, "POST", "/explain", {"url": "/pets"}), 400, "BadRequestException")


def test_the_cost_of_a_request_is_explained_by_its_metadata(furnished: tuple[Control, dict[str, str]]) -> None:
    plane, ids = furnished
    api = ids["restapi_id"]
    key = boto(plane).get_api_key(apiKey=ids["api_Key"], includeValue=True)
    priced = {"methods": {"/pets/GET": {"cost": 5, "costFrom": {"metadata": ["shop", "units"], "max": 8}}}}
    assert raw(plane, "PUT", f"/restapis/{api}/extension", priced).status == 200
    boto(plane).create_deployment(restApiId=api, stageName="prod")

    def cost(**metadata: Any) -> str:
        body = {"url": f"https://{api}.example/prod/pets", "headers": {"x-api-key": key["value"]}, "metadata": metadata}
        lines = raw(plane, "POST", "/explain", body).json()["item"]
        return next(str(line).removeprefix("cost      ") for line in lines if line.startswith("cost"))

    assert cost(shop={"units": 3}) == "3, from the metadata shop:units"
    assert cost(shop={"units": "9"}) == "8, the max of costFrom: the metadata shop:units is greater"
    assert cost().startswith("5, the method's")


def test_the_command_explains_a_request_from_the_store(
    furnished: tuple[Control, dict[str, str]],
    shared_redis: RedisServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the control plane does; a file need not be there, and its resources count too."""
    plane, ids = furnished
    monkeypatch.chdir(tmp_path)
    value = boto(plane).get_api_key(apiKey=ids["api_Key"], includeValue=True)["value"]
    url = f"https://{ids['restapi_id']}.example/prod/pets"

    def said(url: str, value: str, *words: str) -> list[str]:
        told = command(
            shared_redis, plane.account, "explain", "GET", url, "-H", f"x-api-key: {value}", *words, environ=ENV
        )
        return told[1].splitlines()

    by_the_plane = raw(plane, "POST", "/explain", {"url": url, "headers": {"X-Api-Key": value}})
    assert said(url, value, "--store") == by_the_plane.json()["item"]
    Path("plans.yaml").write_text(yaml.safe_dump(FILE | {"settings": {"store": True}}))
    assert f"key       {ids['api_Key']}" in said(url, value)
    assert "key       fixed-key" in said("https://fixed.example/prod/", FILE["apiKeys"][0]["value"])
    assert "reason    key_unknown" in said("https://fixed.example/prod/", value, "--store", "false")


def test_a_line_of_the_access_log_is_explained_by_its_keys_id(furnished: tuple[Control, dict[str, str]]) -> None:
    plane, ids = furnished
    told = {"api": ids["restapi_id"], "stage": "prod", "key_id": ids["api_Key"], "reason": "plan_throttle"}
    line = {"method": "GET", "host": "elsewhere.example", "path": "/prod/pets", "status": 429, "authz": told}
    lines = raw(plane, "POST", "/explain", {"logLine": line}).json()["item"]
    assert lines[0] == f"then      429, plan_throttle, key {ids['api_Key']}"
    assert f"key       {ids['api_Key']}" in lines
    assert any("quota" in line and ", 9 left after it" in line for line in lines), lines
    gone = raw(plane, "POST", "/explain", {"logLine": line | {"authz": told | {"key_id": "gone"}}}).json()["item"]
    assert {"note      no key has the id gone now", "reason    key_unknown"} <= set(gone)
    bodies: list[dict[str, Any]] = [{}, {"logLine": {}}, {"logLine": line, "url": "http://a.example/"}]
    for body in (*bodies, {"logLine": line | {"path": "\n"}}):
        refused(raw(plane, "POST", "/explain", body), 400, "BadRequestException")


def test_a_rotated_key_has_two_secrets_while_they_overlap(control: Control) -> None:
    old, new = "the-old-value-of-the-key", "the-new-value-of-the-key"
    key = boto(control).create_api_key(name="a", value=old)
    reply = raw(control, "POST", f"/apikeys/{key['id']}/rotate", {"value": new, "overlapSeconds": 3600})
    assert reply.json()["value"] == new
    assert reply.json()["previousExpiresAt"] > time.time()
    for value in (old, new):
        with pytest.raises(ClientError, match="ConflictException"):
            boto(control).create_api_key(name="b", value=value)
    raw(control, "POST", f"/apikeys/{key['id']}/rotate", {})
    boto(control).create_api_key(name="b", value=old)
    boto(control).create_api_key(name="c", value=new)


def test_a_rotation_draws_a_value_and_refuses_one_in_use(control: Control) -> None:
    key = boto(control).create_api_key(name="a", value="the-old-value-of-the-key")
    other = boto(control).create_api_key(name="b")
    drawn = raw(control, "POST", f"/apikeys/{key['id']}/rotate").json()["value"]
    assert re.fullmatch("upk_[0-9A-Za-z]{33}", drawn)
    body = {"value": other["value"]}
    refused(raw(control, "POST", f"/apikeys/{key['id']}/rotate", body), 409, "ConflictException")
    refused(raw(control, "POST", "/apikeys/none/rotate", {}), 404, "NotFoundException")
    body = {"overlapSeconds": -1}
    refused(raw(control, "POST", f"/apikeys/{key['id']}/rotate", body), 400, "ValidationException")


# The commands


def command(redis: RedisServer, account: str, *words: str, environ: dict[str, str] | None = None) -> tuple[int, str]:
    place = ["--redis-url", redis.url, "--account-id", account]
    done = CliRunner().invoke(cli, [*words, *place], env=environ)
    return done.exit_code, done.output


def test_credentials_are_made_listed_and_deleted(shared_redis: RedisServer, account: str) -> None:
    environ = {"AUTHZ_SEALING_KEY": "00" * 32}
    status, told = command(shared_redis, account, "credentials", "create", "ann", "--read-only", environ=environ)
    assert status == 0, told
    id_ = told.split("AWS_ACCESS_KEY_ID=")[1].split()[0]
    secret = told.split("AWS_SECRET_ACCESS_KEY=")[1].split()[0]
    assert command(shared_redis, account, "credentials", "create", "bob", "--token")[0] == 0
    listed = command(shared_redis, account, "credentials", "list")[1]
    assert sorted(line.split()[-1] for line in listed.splitlines()) == ["ann", "bob"]
    assert "read-only" in listed
    assert secret not in listed
    assert command(shared_redis, account, "credentials", "delete", id_)[0] == 0
    assert command(shared_redis, account, "credentials", "delete", id_)[0] == 2


def test_an_access_key_needs_a_sealing_key(shared_redis: RedisServer, account: str) -> None:
    status, told = command(shared_redis, account, "credentials", "create", "ann")
    assert status == 2
    assert "--token" in told


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\x1b[2J"])
def test_a_credential_has_a_name_that_fits_a_line(name: str, shared_redis: RedisServer, account: str) -> None:
    status, told = command(shared_redis, account, "credentials", "create", name, "--token")
    assert status == 2
    assert "expected printable characters" in told
    assert command(shared_redis, account, "credentials", "list") == (0, "")


def test_the_audit_begins_after_a_version(shared_redis: RedisServer, account: str) -> None:
    status, told = command(shared_redis, account, "audit", "--after", "-5")
    assert status == 2
    assert "Invalid value for '--after'" in told


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--listen", "x"), "expected host:port"),
        (("--listen", "127.0.0.1:"), "expected host:port"),
        (("--listen", ":8085"), "expected host:port"),
        (("--tls-cert", "missing.pem", "--tls-key", "missing.pem"), "missing.pem cannot be served"),
    ],
)
def test_the_command_refuses_settings_that_cannot_work(
    words: tuple[str, ...], expected: str, shared_redis: RedisServer, account: str
) -> None:
    status, told = command(shared_redis, account, "control", *words)
    assert status == 2
    assert expected in told


def test_the_command_follows_its_file(shared_redis: RedisServer, account: str, tmp_path: Path) -> None:
    file = tmp_path / "plans.yaml"
    file.write_text("usagePlans: [{id: p1, name: Before}]")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--listen", f"127.0.0.1:{port}", "--redis-url", shared_redis.url, "--account-id", account, "--no-auth"]
    process = subprocess.Popen(
        [sys.executable, "-m", "authz", "control", "--config", str(file), *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def tells(name: str) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request("GET", "/usageplans/p1")
            return bool(json.loads(connection.getresponse().read()).get("name") == name)
        except OSError:
            return False
        finally:
            connection.close()

    try:
        until(lambda: tells("Before"), "the control plane does not tell what its file holds")
        file.write_text("usagePlans: [{id: p1, name: After}]")
        until(lambda: tells("After"), "the control plane does not follow its file")
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_the_command_serves_until_a_signal_stops_it(shared_redis: RedisServer, account: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["--listen", f"127.0.0.1:{port}", "--redis-url", shared_redis.url, "--account-id", account, "--no-auth"]
    process = subprocess.Popen(
        [sys.executable, "-m", "authz", "control", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    until(answers, "the control plane does not answer")
    process.terminate()
    output = process.communicate(timeout=30)[0].decode()
    assert process.returncode == 0, output
    assert "EVERY PROGRAM ON THIS MACHINE" in output


def test_what_the_file_holds_is_shown_and_read_only(shared_redis: RedisServer, account: str) -> None:
    key, plan = ApiKey(id="k1", name="from-file", value="a-value-from-the-file"), UsagePlan(id="p1", name="Plan")
    items = from_resources(Resources(usage_plans=(plan,), api_keys=(key,)), index=SEALER.index)
    with running(shared_redis.url, account, fixed=lambda: items) as plane:
        client = boto(plane)
        assert [found["id"] for found in client.get_api_keys()["items"]] == ["k1"]
        assert [found["id"] for found in client.get_usage_plans()["items"]] == ["p1"]
        for change in (
            partial(client.delete_api_key, apiKey="k1"),
            partial(client.delete_usage_plan, usagePlanId="p1"),
            partial(client.create_api_key, name="b", value="a-value-from-the-file"),
        ):
            with pytest.raises(ClientError, match="ConflictException"):
                change()


def test_it_is_served_by_tls(shared_redis: RedisServer, account: str, tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    with running(shared_redis.url, account, tls=(certificate, key)) as plane:
        trusted = ssl.create_default_context(cafile=certificate)
        connection = http.client.HTTPSConnection("127.0.0.1", plane.port, context=trusted, timeout=30)
        connection.request("GET", "/account", headers={"Authorization": f"Bearer {plane.token.secret}"})
        assert connection.getresponse().status == 200
        connection.close()


def self_signed(directory: Path) -> tuple[str, str]:
    """A certificate for 127.0.0.1 and its key, as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "control")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (directory / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / "key.pem").write_bytes(private)
    return str(directory / "cert.pem"), str(directory / "key.pem")


def test_the_aws_cli_is_served(control: Control) -> None:
    assert control.admin is not None
    environ = {
        **os.environ,
        "AWS_ACCESS_KEY_ID": control.admin.credential.id,
        "AWS_SECRET_ACCESS_KEY": control.admin.secret,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_API_GATEWAY": control.url,
    }

    def aws(*words: str) -> Any:
        command = [str(Path(sys.executable).with_name("aws")), "apigateway", *words, "--output", "json"]
        return json.loads(subprocess.run(command, env=environ, capture_output=True, check=True, timeout=60).stdout)

    made = aws("create-api-key", "--name", "from the cli", "--enabled")
    assert [key["id"] for key in aws("get-api-keys", "--name-query", "from")["items"]] == [made["id"]]


def test_no_secret_is_kept_in_clear(control: Control, shared_redis: RedisServer) -> None:
    """All of Redis, grepped for every secret there is."""
    assert control.admin is not None
    boto(control).create_api_key(name="a", value="the-value-of-a-secret-key")
    kept = everything_in(shared_redis)
    for secret in (
        b"the-value-of-a-secret-key",
        control.admin.secret.encode(),
        control.token.secret.encode(),
        b"a pepper for",
    ):
        assert secret not in kept


def everything_in(server: RedisServer) -> bytes:
    with redis.Redis.from_url(server.url) as client:
        return b"".join(key + (client.dump(key) or b"") for key in client.scan_iter(count=1000))


def test_without_a_sealing_key_a_value_is_shown_once(shared_redis: RedisServer, account: str) -> None:
    with running(shared_redis.url, account, sealer=Sealer()) as plane:
        made = bearer(plane, "POST", "/apikeys", {"name": "a"}).json()
        assert made["value"]
        assert "value" not in bearer(plane, "GET", f"/apikeys/{made['id']}?includeValue=true").json()


def test_the_answer_to_a_write_says_if_a_failover_may_lose_it(shared_redis: RedisServer, account: str) -> None:
    """There is no replica that could have it. Reads say nothing; by default one server alone is enough."""
    with running(shared_redis.url, account, store_replicas=1) as plane:
        made = boto(plane).create_api_key(name="k")["ResponseMetadata"]
        assert (made["HTTPStatusCode"], made["HTTPHeaders"]["x-authz-warning"]) == (
            201,
            "written, and lost if the master of Redis fails now: 0 of 1 replicas have it so far",
        )
        assert "x-authz-warning" not in boto(plane).get_api_keys()["ResponseMetadata"]["HTTPHeaders"]
    with running(shared_redis.url, account) as plane:
        assert "x-authz-warning" not in boto(plane).create_api_key(name="l")["ResponseMetadata"]["HTTPHeaders"]


@pytest.mark.parametrize("writers", [4, 16])
def test_writers_of_one_api_wait_for_each_other(control: Control, writers: int) -> None:
    """Tools do not try a lost race again, only a 503, which a busy machine may give; all read and write one API."""
    client = boto(control)
    api = client.create_rest_api(name="busy")["id"]
    root = client.get_resources(restApiId=api)["items"][0]["id"]
    refused: list[str] = []

    def create(number: int) -> None:
        while True:
            try:
                client.create_resource(restApiId=api, parentId=root, pathPart=f"p{number}")
            except client.exceptions.ServiceUnavailableException:
                continue
            except client.exceptions.ConflictException as conflict:  # its own, made by a call of unknown fate, is right
                refused.extend([str(conflict)] if "concurrent" in str(conflict) else [])
            return

    with ThreadPoolExecutor(writers) as threads:
        list(threads.map(create, range(60)))
    assert refused == []
    assert len(client.get_resources(restApiId=api, limit=100)["items"]) == 61
