"""What the API has answered holds on every sidecar that serves its version, and nothing on the way keeps a secret."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import redis as client
from botocore.exceptions import ClientError

from authz.core.resources import Resources
from authz.envoy.pb import ext_authz_pb2_grpc
from tests.e2e.stack import TIMEOUT_SECONDS, ControlServer, credentials, managed
from tests.e2e.test_tour import SIDECARS, Tour
from tests.support.servers import AuthzServer, EchoServer, Host, RedisServer
from tests.support.world import check_request, read

OFF = [{"op": "replace", "path": "/enabled", "value": "false"}]
ON = [{"op": "replace", "path": "/enabled", "value": "true"}]
EVERYWHERE_IN, EVERYWHERE_OUT = ["OK"] * SIDECARS, ["F"] * SIDECARS
VALUES = ("a-customers-value-made-here", "a-customers-value-imported-1", "a-customers-value-imported-2")
NEVER_ISSUED = "a-customers-value-never-made"


@pytest.fixture(scope="module")
def tour(redis: RedisServer, echo: EchoServer, served_by: Host) -> Iterator[Tour]:
    with managed(Resources(), redis, echo.address, SIDECARS, served_by) as stack:
        yield Tour(stack)


def ask(sidecar: AuthzServer, api_id: str, value: str) -> str:
    """The short name (tests/support/world.py) of the answer that this very sidecar sends to Envoy."""
    with grpc.insecure_channel(sidecar.grpc) as channel:
        stub = ext_authz_pb2_grpc.AuthorizationStub(channel)  # type: ignore[no-untyped-call]
        asked = check_request("GET", f"https://{api_id}.test/prod/pets", {"x-api-key": value})
        return read(stub.Check(asked, timeout=TIMEOUT_SECONDS)).name


def everywhere(tour: Tour, api_id: str, value: str) -> list[str]:
    """Each sidecar's answer, and Envoy's agrees with them."""
    answers = [ask(sidecar, api_id, value) for sidecar in tour.stack.sidecars]
    statuses = {status for status, _ in tour.calls(api_id, value)}
    assert statuses == {200 if answer == "OK" else 403 for answer in answers}
    return answers


# --- order ----------------------------------------------------------------------------------------------------------


def test_a_key_goes_off_and_on_on_every_sidecar_time_and_again(tour: Tour) -> None:
    api_id = tour.api()
    key_id, value = tour.key(tour.plan(api_id))
    for _ in range(5):
        assert everywhere(tour, api_id, value) == EVERYWHERE_IN
        tour.wait(tour.aws.update_api_key(apiKey=key_id, patchOperations=OFF))
        assert everywhere(tour, api_id, value) == EVERYWHERE_OUT
        tour.wait(tour.aws.update_api_key(apiKey=key_id, patchOperations=ON))


def test_keys_that_every_sidecar_knows_are_deleted_in_a_row_and_one_wait_is_for_all(tour: Tour) -> None:
    api_id = tour.api()
    plan_id = tour.plan(api_id)
    keys = [tour.key(plan_id) for _ in range(5)]
    assert all(everywhere(tour, api_id, value) == EVERYWHERE_IN for _, value in keys)
    tour.wait([tour.aws.delete_api_key(apiKey=key_id) for key_id, _ in keys][-1])
    assert all(everywhere(tour, api_id, value) == EVERYWHERE_OUT for _, value in keys)


def test_a_value_refused_a_moment_before_is_let_in_and_after_its_key_has_gone_refused_again(tour: Tour) -> None:
    api_id, value = tour.api(), "a-value-that-comes-and-goes"
    plan_id = tour.plan(api_id)
    tour.stack.secrets |= {value}
    for _ in range(3):
        assert everywhere(tour, api_id, value) == EVERYWHERE_OUT
        key_id, _ = tour.key(plan_id, value=value)
        assert everywhere(tour, api_id, value) == EVERYWHERE_IN
        tour.wait(tour.aws.delete_api_key(apiKey=key_id))


def test_a_stopped_sidecar_is_named_and_admits_no_key_from_its_stale_memory(tour: Tour) -> None:
    """A sidecar that has not read the store lately looks keys up. So a wait may leave it out, and still holds."""
    api_id = tour.api()
    key_id, value = tour.key(tour.plan(api_id))
    assert everywhere(tour, api_id, value) == EVERYWHERE_IN
    still = tour.stack.sidecars[1]
    still.pause()
    try:
        deleted = tour.aws.delete_api_key(apiKey=key_id)
        version = deleted["ResponseMetadata"]["HTTPHeaders"]["x-authz-version"]
        late = tour.control.get(f"/catalog/version?wait={version}&timeout=0")
        assert late.status_code == 409, late.text
        assert "Not every sidecar serves version" in late.text
        tour.wait(deleted)  # until the presence of the one that stands still has expired
        awake = [sidecar for sidecar in tour.stack.sidecars if sidecar is not still]
        assert [ask(sidecar, api_id, value) for sidecar in awake] == ["F"] * (SIDECARS - 1)
    finally:
        still.resume()
    assert ask(still, api_id, value) == "F"


# --- secrets --------------------------------------------------------------------------------------------------------


def forms(secret: str) -> set[bytes]:
    """How a secret may lie about: as it is, encoded, or as a digest that a guess could be held against."""
    raw = secret.encode()
    plain = hashlib.sha256(raw)
    return {raw, raw.hex().encode(), base64.b64encode(raw), plain.digest(), plain.hexdigest().encode()}


def contents(redis: RedisServer) -> dict[bytes, bytes]:
    """All that Redis holds, of whatever type, key by key as text."""
    reader: Any = client.Redis.from_url(redis.url)
    readers = {
        b"string": reader.get,
        b"hash": reader.hgetall,
        b"list": lambda key: reader.lrange(key, 0, -1),
        b"set": reader.smembers,
        b"zset": lambda key: reader.zrange(key, 0, -1, withscores=True),
        b"stream": reader.xrange,
        b"none": lambda _: b"",  # gone since the scan, as a lease that was given back
    }
    with reader:
        return {key: b"\0".join([key, *flat(readers[reader.type(key)](key))]) for key in reader.scan_iter(count=1000)}


def flat(found: Any) -> Iterator[bytes]:
    """The bytes in an answer of Redis, however deep."""
    if isinstance(found, bytes):
        yield found
    elif isinstance(found, dict):
        yield from flat([*found.items()])
    elif isinstance(found, (list, tuple, set)):
        for one in found:
            yield from flat(one)


def refusals(tour: Tour, plan_id: str, key_id: str) -> list[str]:
    """The bodies and headers of errors, each of a call with a secret in it."""
    control, value = tour.control, VALUES[0]
    wrong = [
        ("POST", "/apikeys", f'{{"name":"twice","value":"{value}"}}'),
        ("POST", "/apikeys", f'{{"name":"no JSON","value":"{value}"'),
        ("POST", "/apikeys", f'{{"name":["{value}"],"value":{{"{value}":1}}}}'),
        ("POST", "/apikeys?mode=import&format=csv&failonwarnings=true", f"Name,key\na,{value}\nb,{value}\0"),
        ("POST", f"/apikeys/{key_id}/rotate", f'{{"value":"{value}","overlapSeconds":-1}}'),
        ("POST", f"/apikeys/{key_id}/rotate", f'{{"value":"{value}"}}'),
        (
            "PATCH",
            f"/apikeys/{key_id}",
            f'{{"patchOperations":[{{"op":"replace","path":"/value","value":"{value}"}}]}}',
        ),
        ("POST", f"/usageplans/{plan_id}/keys", f'{{"keyId":"none","keyType":{{"value":"{value}"}}}}'),
    ]
    answers = [control.call(verb, path, body.encode()) for verb, path, body in wrong]
    answers.append(control.call("GET", "/apikeys", secret=NEVER_ISSUED))
    bearer = {"authorization": f"Bearer {NEVER_ISSUED}"}
    answers.append(httpx.get(f"{control.url}/apikeys", headers=bearer, trust_env=False))
    assert [answer.status_code // 100 for answer in answers] == [4] * len(answers), answers
    with pytest.raises(ClientError) as fault:
        tour.aws.create_api_key(name="twice", value=value)
    return [f"{answer.headers!r}\n{answer.text}" for answer in answers] + [repr(fault.value.response)]


def test_no_secret_is_in_redis_a_log_a_metric_an_error_or_the_audit_trail(tour: Tour, redis: RedisServer) -> None:
    api_id = tour.api()
    plan_id = tour.plan(api_id)
    key_id, _ = tour.key(plan_id, value=VALUES[0])
    rows = f"Name,key,enabled,usageplanIds\none,{VALUES[1]},true,{plan_id}\ntwo,{VALUES[2]},true,{plan_id}\n"
    imported = tour.aws.import_api_keys(body=rows.encode(), format="csv")
    assert len(imported["ids"]) == 2
    rotated = tour.control.call("POST", f"/apikeys/{imported['ids'][0]}/rotate", b'{"overlapSeconds":3600}')
    assert rotated.status_code == 200, rotated.text
    tour.control.wait_for({"ResponseMetadata": {"HTTPHeaders": dict(rotated.headers)}})
    new_value = rotated.json()["value"]
    place = words_of(tour.control, "--redis-url", "--account-id")
    own = words_of(tour.control, "--pepper-file", "--sealing-key-file")
    operators = credentials(*place, *own)[1]
    tour.stack.secrets |= {*VALUES, NEVER_ISSUED, new_value, operators}

    assert [everywhere(tour, api_id, value) for value in (*VALUES, new_value)] == [EVERYWHERE_IN] * 4
    assert everywhere(tour, api_id, NEVER_ISSUED) == EVERYWHERE_OUT
    tour.aws.get_api_key(apiKey=key_id, includeValue=True)
    refused = refusals(tour, plan_id, key_id)
    files = [Path(file).read_text().strip() for file in own[1::2]]
    trail = subprocess.run((sys.executable, "-m", "authz", "audit", *place), capture_output=True, text=True, check=True)
    assert "ImportApiKeys" in trail.stdout

    spoken = [*VALUES, new_value, NEVER_ISSUED, operators, tour.control.secret, *files]
    told = [text.encode() for text in (*refused, trail.stdout, tour.control.log_text)]
    told += [text.encode() for sidecar in tour.stack.sidecars for text in exposed(sidecar)]
    kept = [*told, *contents(redis).values()]
    assert [text for text in kept if any(form in text for secret in spoken for form in forms(secret))] == []
    assert tour.stack.leaks() == []


def words_of(control: ControlServer, *flags: str) -> list[str]:
    """These flags of the control plane's command line, each with its value."""
    words = list(control.command)
    return [word for flag in flags for word in words[words.index(flag) : words.index(flag) + 2]]


def exposed(sidecar: AuthzServer) -> Iterator[str]:
    yield sidecar.log_text
    for path in ("/metrics", "/healthz", "/readyz"):
        yield httpx.get(sidecar.http + path, timeout=TIMEOUT_SECONDS, trust_env=False).text
