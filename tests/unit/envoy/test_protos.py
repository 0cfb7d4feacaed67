"""The generated files are what protos/ gives, and get along with every other generated file in the process."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from authz.envoy.pb import ext_authz_pb2 as pb
from authz.envoy.pb import ext_authz_pb2_grpc

ROOT = Path(__file__).parents[3]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of all that the generator reads and writes."""
    for folder in ("protos", "authz/envoy/pb"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    return tmp_path


def check(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "protos/generate.py", "--check"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)


def test_the_committed_files_are_fresh() -> None:
    outcome = check(ROOT)
    assert outcome.returncode == 0, outcome.stderr


def test_a_changed_proto_makes_the_files_stale(checkout: Path) -> None:
    """The complaint names the files and the command that mends them."""
    proto = checkout / "protos/authz/envoy/pb/ext_authz.proto"
    proto.write_text(proto.read_text().replace("headers_to_remove = 5", "headers_to_remove = 50"))
    outcome = check(checkout)
    assert outcome.returncode == 1
    assert "ext_authz_pb2.py" in outcome.stderr
    assert "run protos/generate.py" in outcome.stderr


def test_a_missing_file_is_stale(checkout: Path) -> None:
    (checkout / "authz/envoy/pb/ext_authz_pb2.pyi").unlink()
    outcome = check(checkout)
    assert outcome.returncode == 1
    assert "(ext_authz_pb2.pyi)" in outcome.stderr


def test_no_name_of_ours_is_another_librarys() -> None:
    """One process holds one pool: our `Status` too is in Envoy's service package, beside a library's `google.rpc`."""
    assert (pb.DESCRIPTOR.name, pb.DESCRIPTOR.package) == ("authz/envoy/pb/ext_authz.proto", "envoy.service.auth.v3")
    assert {health_pb2.DESCRIPTOR.package, reflection_pb2.DESCRIPTOR.package}.isdisjoint({pb.DESCRIPTOR.package})


def test_the_stub_speaks_envoys_service_path() -> None:
    [method] = pb.DESCRIPTOR.services_by_name["Authorization"].methods
    assert method.full_name == "envoy.service.auth.v3.Authorization.Check"
    assert ext_authz_pb2_grpc.AuthorizationServicer.Check.__name__ == method.name


def test_an_explicit_ok_is_not_the_empty_answer() -> None:
    """Envoy reads zero bytes as ALLOW, so even an allow that carries nothing else has to say so."""
    assert pb.CheckResponse().SerializeToString() == b""
    assert pb.CheckResponse(status=pb.Status(code=0)).SerializeToString() != b""


def test_a_status_without_a_name_travels_as_its_number() -> None:
    """An operator may answer 418; the enum of names is trimmed, and open."""
    denied = pb.DeniedHttpResponse(status={"code": 418})
    assert pb.DeniedHttpResponse.FromString(denied.SerializeToString()).status.code == 418
