"""Cluster files are what Ray and KubeRay take. Nothing here talks to a cloud; tests/hosts/test_ray_up.py runs a cluster.

Checked of kuberay.yaml: apiVersion and kind; that the fields of RayCluster, its groups and autoscaler options are among
those of KubeRay's reference [docs.ray.io, KubeRay CRD API reference], and those of pods and containers among the ones
listed below; that required ones are there; that rayStartParams are strings and options of `ray start`; that volume
mounts have volumes; that replicas lie within their limits.
"""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.loader import BUILT_IN

ROOT = Path(__file__).parents[2]
CLUSTERS = BUILT_IN / "clusters"
RAY_FILES = [ROOT / "ray_cluster.yaml", CLUSTERS / "aws.yaml", CLUSTERS / "gcp.yaml"]
GROUP = "rayStartParams template resources labels "
FIELDS = {
    "": "apiVersion kind metadata spec",
    "spec": "rayVersion enableInTreeAutoscaling autoscalerOptions authOptions headGroupSpec suspend workerGroupSpecs managedBy "
    "headServiceAnnotations gcsFaultToleranceOptions upgradeStrategy",
    "autoscalerOptions": "resources image imagePullPolicy env envFrom volumeMounts securityContext idleTimeoutSeconds "
    "upscalingMode version",
    "head": GROUP + "serviceType headService enableIngress",
    "worker": GROUP + "groupName replicas minReplicas maxReplicas numOfHosts idleTimeoutSeconds suspend scaleStrategy",
    "pod": "containers volumes nodeSelector tolerations affinity serviceAccountName imagePullSecrets",
    "container": "name image env resources volumeMounts ports lifecycle securityContext imagePullPolicy",
}


def read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return content


def check_by_ray(config: dict[str, Any]) -> None:
    """As `ray up` does before it talks to anyone: the schema first for what is written, then for what Ray makes of it."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config({"cluster_synced_files": [], **copy.deepcopy(config)})
    validate_config(prepare_config(copy.deepcopy(config)))


def ray_start_options() -> set[str]:
    from ray.scripts.scripts import start

    return {option.removeprefix("--") for parameter in start.params for option in parameter.opts}


def problems_of_kuberay(cluster: dict[str, Any]) -> list[str]:
    found: list[str] = []

    def only(where: str, given: dict[str, Any], *required: str) -> None:
        found.extend(f"{where}.{key}: no such field" for key in given if key not in FIELDS[where].split())
        found.extend(f"{where}.{key}: is missing" for key in required if key not in given)

    only("", cluster, "metadata", "spec")
    if (cluster.get("apiVersion"), cluster.get("kind")) != ("ray.io/v1", "RayCluster"):
        found.append("is no RayCluster of ray.io/v1")
    spec = cluster["spec"]
    only("spec", spec, "headGroupSpec")
    only("autoscalerOptions", spec.get("autoscalerOptions", {}))
    only("head", spec["headGroupSpec"], "rayStartParams", "template")
    for group in spec["workerGroupSpecs"]:
        only("worker", group, "groupName", "rayStartParams", "template", "minReplicas", "maxReplicas")
        if not group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
            found.append(f"{group['groupName']}: replicas are not within their limits")
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        for option, value in group["rayStartParams"].items():
            if option not in ray_start_options() or not isinstance(value, str):
                found.append(f"rayStartParams.{option}: no option of `ray start`, or no string")
        pod = group["template"]["spec"]
        only("pod", pod, "containers")
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        for container in pod["containers"]:
            only("container", container, "name", "image")
            found += [f"no volume {m['name']}" for m in container.get("volumeMounts", []) if m["name"] not in volumes]
            found += [f"env {e}: no string" for e in container.get("env", []) if not isinstance(e["value"], str)]
    return found


@pytest.mark.parametrize("file", RAY_FILES, ids=lambda file: file.name)
def test_ray_takes_the_file_and_refuses_a_wrong_key(file: Path) -> None:
    from jsonschema import ValidationError

    config = read(file)
    check_by_ray(config)
    config["auth"]["ssh_key"] = "anything"
    with pytest.raises(ValidationError):
        check_by_ray(config)


@pytest.mark.parametrize("file", RAY_FILES, ids=lambda file: file.name)
def test_mounted_files_are_there_and_the_actors_code_is_among_them(file: Path) -> None:
    mounts = read(file)["file_mounts"]
    assert {"configs", "alexnet", "workers", "cluster", "pyproject.toml", "constraints.txt"} <= set(mounts.values())
    token = "~/.ray/auth_token"
    assert mounts.pop(token) == token
    assert all((ROOT / source).exists() for source in mounts.values())
    assert all(target == f"~/two-column-alexnet/{source}" for target, source in mounts.items())


def test_aws_nodes_are_what_ec2_can_launch() -> None:
    session = pytest.importorskip("botocore.session", reason="moto brings botocore, which knows EC2's parameters")
    from botocore.validate import ParamValidator

    shape = session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    types = read(CLUSTERS / "aws.yaml")["available_node_types"]
    assert set(types) == {"gpu_head", "gpu_worker", "data"}
    for node in types.values():
        request = {**node["node_config"], "MinCount": 1, "MaxCount": 1}
        assert not ParamValidator().validate(request, shape).has_errors()
        wrong = {**request, "InstanceMarketOption": {}}
        assert "InstanceMarketOption" in ParamValidator().validate(wrong, shape).generate_report()


def test_kuberay_takes_the_fields_and_wrong_ones_are_found() -> None:
    cluster = read(CLUSTERS / "kuberay.yaml")
    assert not problems_of_kuberay(cluster)
    head, data = cluster["spec"]["headGroupSpec"], cluster["spec"]["workerGroupSpecs"][1]
    cluster["apiVersion"] = "ray.io/v1alpha1"
    cluster["spec"]["workerGroups"] = []
    head["rayStartParams"] = {"dashboard_host": "127.0.0.1", "metrics-export-port": 8090}
    data["maxReplica"] = 3
    data["replicas"] = 9
    data["template"]["spec"]["containers"][0]["volumeMount"] = []
    data["template"]["spec"]["volumes"] = []
    assert set(problems_of_kuberay(cluster)) >= {
        "is no RayCluster of ray.io/v1",
        "spec.workerGroups: no such field",
        "rayStartParams.dashboard_host: no option of `ray start`, or no string",
        "rayStartParams.metrics-export-port: no option of `ray start`, or no string",
        "worker.maxReplica: no such field",
        "data: replicas are not within their limits",
        "container.volumeMount: no such field",
        "no volume shared",
    }


@pytest.mark.parametrize("file", [*RAY_FILES, CLUSTERS / "kuberay.yaml"], ids=lambda file: file.name)
def test_workarounds_are_in_every_file(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    for setting in (
        "RAY_raylet_death_check_interval_milliseconds",
        "RAY_free_objects_period_milliseconds",
        "RAY_USAGE_STATS_ENABLED",
        "RAY_health_check_failure_threshold",
        "metrics-export-port",
        "object-store-memory",
    ):
        assert setting in text
    assert text.count("RAY_AUTH_MODE=token RAY_USAGE") == 2 or "authOptions: {mode: token}" in text
    assert "0.0.0.0" not in text
