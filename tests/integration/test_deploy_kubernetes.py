"""The Kubernetes manifests: each fits its kind's schema, and they agree with each other and with the code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.servers import HOST, Gearmand, wait_until
from support.wire import Wire

from gearworker.config import load_config
from gearworker.protocol.packets import PacketType

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
BASE = KUBERNETES / "base"
KUSTOMIZATIONS = sorted(KUBERNETES.rglob("kustomization.yaml"))
MANIFESTS = sorted(set(KUBERNETES.rglob("*.yaml")) - set(KUSTOMIZATIONS) - {BASE / "config.yaml"})
OLDEST = "1.29.0"

Manifest = dict[str, Any]


def _strict(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    """A JSON schema of an object with these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


TEXT = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 0}
DURATION = {"type": "string", "pattern": r"^\d+(ms|s|m|h)$"}
LABELS = {"type": "object", "additionalProperties": TEXT}
METADATA = _strict({"name": TEXT, "labels": LABELS}, "name")
SCALING_RULES = _strict(
    {
        "stabilizationWindowSeconds": {"type": "integer", "minimum": 0, "maximum": 3600},
        "selectPolicy": {"enum": ["Max", "Min", "Disabled"]},
        "policies": {
            "type": "array",
            "items": _strict(
                {
                    "type": {"enum": ["Pods", "Percent"]},
                    "value": {"type": "integer", "minimum": 1},
                    "periodSeconds": {"type": "integer", "minimum": 1, "maximum": 1800},
                },
                "type", "value", "periodSeconds",
            ),
        },
    }
)  # fmt: skip

CUSTOM_SCHEMAS: dict[tuple[str, str], dict[str, Any]] = {
    ("keda.sh/v1alpha1", "ScaledObject"): _strict(
        {
            "scaleTargetRef": _strict({"apiVersion": TEXT, "kind": TEXT, "name": TEXT}, "name"),
            "minReplicaCount": COUNT,
            "maxReplicaCount": COUNT,
            "pollingInterval": COUNT,
            "cooldownPeriod": COUNT,
            "fallback": _strict({"failureThreshold": COUNT, "replicas": COUNT}, "failureThreshold", "replicas"),
            "advanced": _strict(
                {
                    "horizontalPodAutoscalerConfig": _strict(
                        {"behavior": _strict({"scaleDown": SCALING_RULES, "scaleUp": SCALING_RULES})}
                    )
                }
            ),
            "triggers": {
                "type": "array",
                "minItems": 1,
                "items": _strict(
                    {
                        "type": {"const": "prometheus"},
                        "metadata": _strict(
                            # KEDA takes text only, numbers too.
                            {
                                "serverAddress": {"type": "string", "pattern": "^https?://"},
                                "query": TEXT,
                                "threshold": {"type": "string", "pattern": r"^\d+(\.\d+)?$"},
                                "activationThreshold": {"type": "string", "pattern": r"^\d+(\.\d+)?$"},
                            },
                            "serverAddress", "query", "threshold",
                        ),
                    },
                    "type", "metadata",
                ),
            },
        },
        "scaleTargetRef", "triggers",
    ),
    ("monitoring.coreos.com/v1", "PodMonitor"): _strict(
        {
            "jobLabel": TEXT,
            "selector": _strict({"matchLabels": LABELS}, "matchLabels"),
            "podMetricsEndpoints": {
                "type": "array",
                "minItems": 1,
                "items": _strict(
                    {"port": TEXT, "path": {"type": "string", "pattern": "^/"}, "interval": DURATION,
                     "scrapeTimeout": DURATION},
                    "port",
                ),
            },
        },
        "selector", "podMetricsEndpoints",
    ),
}  # fmt: skip

KUSTOMIZATION_SCHEMA = _strict(
    {
        "apiVersion": {"const": "kustomize.config.k8s.io/v1beta1"},
        "kind": {"const": "Kustomization"},
        "resources": {"type": "array", "items": TEXT, "minItems": 1, "uniqueItems": True},
        "configMapGenerator": {
            "type": "array",
            "items": _strict({"name": TEXT, "files": {"type": "array", "items": TEXT}}, "name", "files"),
        },
        "patches": {
            "type": "array",
            "items": _strict({"target": _strict({"kind": TEXT, "name": TEXT}, "kind", "name"), "patch": TEXT}),
        },
    },
    "apiVersion", "kind", "resources",
)  # fmt: skip


def read(path: Path) -> list[Manifest]:
    """The documents of a file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


@cache
def manifest(path: str) -> Manifest:
    """The only document of a file under deploy/kubernetes."""
    (document,) = read(KUBERNETES / path)
    return document


def all_manifests() -> Iterator[Manifest]:
    for path in MANIFESTS:
        yield from read(path)


def worker() -> Manifest:
    """The worker's pod."""
    pod: Manifest = manifest("base/deployment.yaml")["spec"]["template"]["spec"]
    return pod


def container(pod: Manifest) -> Manifest:
    """The only container of a pod."""
    (only,) = pod["containers"]
    return dict(only)


def check_schema(document: Manifest, version: str) -> None:
    """Raise unless a manifest fits the schema of its kind; unknown fields are errors too."""
    import jsonschema
    import kubernetes_validate

    custom = CUSTOM_SCHEMAS.get((document["apiVersion"], document["kind"]))
    if custom is None:
        kubernetes_validate.validate(document, version, strict=True)
        return
    whole = _strict({"apiVersion": TEXT, "kind": TEXT, "metadata": METADATA, "spec": custom}, "metadata", "spec")
    jsonschema.validate(document, whole)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: str(path.relative_to(KUBERNETES)))
def test_every_manifest_fits_the_schema_of_its_kind(path: Path) -> None:
    import kubernetes_validate

    for document in read(path):
        check_schema(document, OLDEST)
        check_schema(document, kubernetes_validate.latest_version())


@pytest.mark.parametrize("path", ["base/deployment.yaml", "overlays/keda/scaledobject.yaml"])
def test_a_field_that_there_is_not_would_be_found(path: str) -> None:
    import jsonschema

    document = {**manifest(path), "spec": {**manifest(path)["spec"], "replicaz": 2}}
    with pytest.raises(jsonschema.ValidationError, match="replicaz"):
        check_schema(document, OLDEST)


@pytest.mark.parametrize("path", KUSTOMIZATIONS, ids=lambda path: str(path.parent.relative_to(KUBERNETES)))
def test_a_kustomization_lists_every_file_beside_it_and_nothing_that_is_not_there(path: Path) -> None:
    import jsonschema

    (kustomization,) = read(path)
    jsonschema.validate(kustomization, KUSTOMIZATION_SCHEMA)
    generated = [file for made in kustomization.get("configMapGenerator", []) for file in made["files"]]
    listed = [path.parent / name for name in [*kustomization["resources"], *generated]]
    for each in listed:
        assert (each / "kustomization.yaml").is_file() if each.is_dir() else each.is_file(), each
    beside = set(path.parent.glob("*.yaml")) - {path}
    assert {each for each in listed if each.suffix == ".yaml"} == beside


def test_patches_have_their_targets() -> None:
    known = {(document["kind"], document["metadata"]["name"]): document for document in all_manifests()}
    patches = [patch for path in KUSTOMIZATIONS for patch in read(path)[0].get("patches", [])]
    assert patches
    for patch in patches:
        target = known[patch["target"]["kind"], patch["target"]["name"]]
        for operation in yaml.safe_load(patch["patch"]):
            assert operation["op"] == "remove"
            value: Any = target
            for key in operation["path"].strip("/").split("/"):
                value = value[key]


def test_the_worker_finds_its_configuration_where_the_volume_brings_it() -> None:
    (generator,) = manifest("base/kustomization.yaml")["configMapGenerator"]
    volumes = {volume["name"]: volume for volume in worker()["volumes"]}
    mounts = {mount["name"]: mount for mount in container(worker())["volumeMounts"]}
    assert volumes.keys() == mounts.keys()
    assert volumes["config"]["configMap"]["name"] == generator["name"]
    (file,) = generator["files"]
    assert container(worker())["args"] == ["run", f"{mounts['config']['mountPath']}/{file}"]


def test_the_configuration_is_one_and_leaves_the_drain_its_time() -> None:
    config = load_config(BASE / "config.yaml")
    assert config.shutdown.grace_s + 10 <= worker()["terminationGracePeriodSeconds"]
    assert config.tasks == ["myapp.tasks"]


def test_the_endpoint_has_one_port_everywhere() -> None:
    config = load_config(BASE / "config.yaml")
    assert config.http is not None
    (port,) = container(worker())["ports"]
    assert config.http.listen == f"0.0.0.0:{port['containerPort']}"
    for probe, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        assert container(worker())[probe]["httpGet"] == {"path": path, "port": port["name"]}
    (endpoint,) = manifest("overlays/podmonitor/podmonitor.yaml")["spec"]["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["path"]) == (port["name"], "/metrics")
    (ingress,) = manifest("base/networkpolicy.yaml")["spec"]["ingress"]
    assert [rule["port"] for rule in ingress["ports"]] == [port["name"]]


def test_the_job_server_has_one_name_and_port_everywhere() -> None:
    service = manifest("examples/gearmand/service.yaml")
    statefulset = manifest("examples/gearmand/statefulset.yaml")
    (port,) = service["spec"]["ports"]
    assert load_config(BASE / "config.yaml").job_servers == [f"{service['metadata']['name']}:{port['port']}"]
    gearmand = container(statefulset["spec"]["template"]["spec"])
    (container_port,) = gearmand["ports"]
    assert f"--port={container_port['containerPort']}" in gearmand["args"]
    assert port["targetPort"] == container_port["name"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert gearmand[probe]["tcpSocket"] == {"port": container_port["name"]}
    assert statefulset["spec"]["serviceName"] == service["metadata"]["name"]
    *_, egress = manifest("base/networkpolicy.yaml")["spec"]["egress"]
    assert [rule["port"] for rule in egress["ports"]] == [container_port["containerPort"]]
    labels = statefulset["spec"]["template"]["metadata"]["labels"]
    assert egress["to"] == [{"podSelector": {"matchLabels": labels}}]
    ingress = manifest("examples/gearmand/networkpolicy.yaml")["spec"]["ingress"][0]
    worker_labels = manifest("base/deployment.yaml")["spec"]["template"]["metadata"]["labels"]
    assert {"podSelector": {"matchLabels": worker_labels}} in ingress["from"]


def selectors(value: Any) -> Iterator[dict[str, str]]:
    """Every selector of pods in a manifest's spec."""
    if not isinstance(value, dict):
        return
    for key in ("selector", "podSelector", "labelSelector"):
        if key in value:
            yield value[key].get("matchLabels", value[key])
    for constraint in value.get("template", {}).get("spec", {}).get("topologySpreadConstraints", []):
        yield from selectors(constraint)


def test_every_selector_meets_the_pods_of_its_own_application() -> None:
    templates = [d["spec"]["template"] for d in all_manifests() if d["kind"] in ("Deployment", "StatefulSet")]
    labels = {t["metadata"]["labels"]["app.kubernetes.io/name"]: t["metadata"]["labels"] for t in templates}
    checked = 0
    for document in all_manifests():
        name = document["metadata"]["labels"]["app.kubernetes.io/name"]
        for selector in selectors(document.get("spec", {})):
            assert selector == labels[name], document["kind"]
            checked += 1
    assert checked >= 8


def test_what_refers_to_the_deployment_and_the_account_names_them() -> None:
    deployment = manifest("base/deployment.yaml")
    assert worker()["serviceAccountName"] == manifest("base/serviceaccount.yaml")["metadata"]["name"]
    target = manifest("overlays/keda/scaledobject.yaml")["spec"]["scaleTargetRef"]
    assert target == {
        "apiVersion": deployment["apiVersion"],
        "kind": deployment["kind"],
        "name": deployment["metadata"]["name"],
    }
    job_label = manifest("overlays/podmonitor/podmonitor.yaml")["spec"]["jobLabel"]
    job = deployment["spec"]["template"]["metadata"]["labels"][job_label]
    (trigger,) = manifest("overlays/keda/scaledobject.yaml")["spec"]["triggers"]
    assert re.findall(r'job="([^"]*)"', trigger["metadata"]["query"]) == [job]


def test_scaling_never_goes_to_none_and_keeps_its_bounds_in_order() -> None:
    spec = manifest("overlays/keda/scaledobject.yaml")["spec"]
    assert 1 <= spec["minReplicaCount"] <= spec["fallback"]["replicas"] <= spec["maxReplicaCount"]


@pytest.mark.parametrize("path", ["base/deployment.yaml", "examples/gearmand/statefulset.yaml"])
def test_pods_have_no_privileges_and_no_token(path: str) -> None:
    pod = manifest(path)["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(pod)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} <= container(pod)["resources"]["requests"].keys()
    assert "memory" in container(pod)["resources"]["limits"]
    assert re.search(r":\d+(\.\d+)+$", container(pod)["image"])


def test_pods_run_as_the_images_user() -> None:
    for path, file in (
        ("base/deployment.yaml", ROOT / "deploy" / "Dockerfile"),
        ("examples/gearmand/statefulset.yaml", KUBERNETES / "examples" / "gearmand" / "Dockerfile"),
    ):
        context = manifest(path)["spec"]["template"]["spec"]["securityContext"]
        assert f"USER {context['runAsUser']}:{context['runAsGroup']}\n" in file.read_text()


def test_a_rollout_never_takes_a_pod_away_before_its_successor_serves() -> None:
    strategy = manifest("base/deployment.yaml")["spec"]["strategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    assert manifest("base/poddisruptionbudget.yaml")["spec"]["maxUnavailable"] == 1


def build(directory: Path, home: Path) -> list[Manifest]:
    """What kustomize makes of a directory. It needs no cluster, and is kept from looking for one."""
    commands = {"kustomize": ["kustomize", "build"], "kubectl": ["kubectl", "kustomize"]}
    command = next((command for name, command in commands.items() if shutil.which(name)), None)
    if command is None:
        pytest.skip("neither kustomize nor kubectl is installed")
    environ = {"PATH": os.environ["PATH"], "HOME": str(home), "KUBECONFIG": os.devnull}
    built = subprocess.run([*command, str(directory)], env=environ, capture_output=True, text=True, timeout=60)
    assert built.returncode == 0, built.stderr
    return [document for document in yaml.safe_load_all(built.stdout) if document]


def check_built(documents: list[Manifest]) -> dict[str, Manifest]:
    """Check every manifest's schema; they by their kinds."""
    for document in documents:
        document = {**document, "metadata": {k: v for k, v in document["metadata"].items() if k != "namespace"}}
        check_schema(document, OLDEST)
    return {document["kind"]: document for document in documents}


@pytest.mark.parametrize("path", KUSTOMIZATIONS, ids=lambda path: str(path.parent.relative_to(KUBERNETES)))
def test_kustomize_builds_manifests_that_fit_their_schemas(path: Path, tmp_path: Path) -> None:
    assert len(check_built(build(path.parent, tmp_path))) >= 3


def test_autoscaling_takes_the_number_of_pods_out_of_the_deployment(tmp_path: Path) -> None:
    assert "replicas" in check_built(build(KUBERNETES / "overlays" / "podmonitor", tmp_path))["Deployment"]["spec"]
    assert "replicas" not in check_built(build(KUBERNETES / "overlays" / "keda", tmp_path))["Deployment"]["spec"]


def test_the_overlay_of_the_readme_sets_image_namespace_and_configuration(tmp_path: Path) -> None:
    examples = re.findall(r"```yaml\n(.*?)```", (ROOT / "deploy" / "README.md").read_text(), re.DOTALL)
    (overlay,) = [example for example in examples if "kind: Kustomization" in example]
    shutil.copytree(ROOT / "deploy", tmp_path / "gearworker" / "deploy")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kustomization.yaml").write_text(overlay)
    (tmp_path / "mine" / "config.yaml").write_text("tasks: [mine]\n")
    built = check_built(build(tmp_path / "mine", tmp_path))
    assert {document["metadata"]["namespace"] for document in built.values()} == {"images"}
    assert built["ConfigMap"]["data"] == {"config.yaml": "tasks: [mine]\n"}
    pod = built["Deployment"]["spec"]["template"]["spec"]
    assert container(pod)["image"] == "ghcr.io/me/images:1.4.2"
    assert pod["volumes"][0]["configMap"]["name"] == built["ConfigMap"]["metadata"]["name"] != "gearworker-config"


class GearmandOfTheExample(Gearmand):
    """Debian's gearmand with the manifest's arguments; the volumes' paths are the test's directory."""

    def command(self) -> list[str]:
        arguments = container(manifest("examples/gearmand/statefulset.yaml")["spec"]["template"]["spec"])["args"]
        replaced = {
            "0.0.0.0": HOST,
            "4730": str(self.port),
            "/tmp/": f"{self.directory}/",
            "/var/lib/gearman/": f"{self.directory}/",
        }
        command = [super().command()[0]]
        for argument in arguments:
            for old, new in replaced.items():
                argument = argument.replace(f"={old}", f"={new}")
            command.append(argument)
        return command


@pytest.mark.gearmand
def test_the_examples_gearmand_starts_and_keeps_background_jobs_over_a_restart(tmp_path: Path) -> None:
    server = GearmandOfTheExample(tmp_path / "gearmand")
    try:
        server.start()
        created = Wire(server.port).ask(PacketType.SUBMIT_JOB_BG, b"resize", b"unique", b"data")
        assert created.type == PacketType.JOB_CREATED
        server.restart()
        wait_until(lambda: server.queue("resize") == (1, 0, 0), what="the job to be there again")
    finally:
        server.stop()
