"""The manifests say what KubeRay's own schemas allow, and what our documents say of them."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cluster.placement import SANDBOX_RESOURCE, bundles_of
from cluster.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[1]
MANIFESTS = ROOT / "deploy" / "kubernetes"
SCHEMAS = ROOT.parent / "shared" / "data" / "kuberay"


def manifest(name: str) -> Any:
    return yaml.safe_load((MANIFESTS / name).read_text())


def schema(plural: str) -> Any:
    """The schema of v1. Kubernetes refuses or drops unknown fields, which JSON Schema allows unless told otherwise."""
    path = SCHEMAS / f"ray.io_{plural}.yaml"
    if not path.exists():
        pytest.skip(f"{path.name} is not beside the checkout")
    versions = yaml.safe_load(path.read_text())["spec"]["versions"]
    (found,) = [version["schema"]["openAPIV3Schema"] for version in versions if version["name"] == "v1"]
    return closed(found)


def closed(node: Any) -> Any:
    if isinstance(node, list):
        return [closed(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: closed(value) for key, value in node.items()}
    if node.pop("x-kubernetes-int-or-string", False):
        return {"type": ["integer", "string"]}
    if isinstance(node.get("properties"), dict) and "additionalProperties" not in node and node["properties"]:
        node["additionalProperties"] = node.get("x-kubernetes-preserve-unknown-fields", False)
    return node


def complaints(plural: str, document: Any) -> list[str]:
    """Of everything under ``spec``; the rest (apiVersion, metadata) is Kubernetes' own."""
    whole = schema(plural)["properties"]["spec"]
    errors = jsonschema.Draft202012Validator(whole).iter_errors(document["spec"])
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in errors]


@pytest.mark.parametrize(("plural", "name"), [("rayclusters", "raycluster.yaml"), ("rayjobs", "rayjob.yaml")])
def test_a_manifest_is_what_the_schema_allows(plural: str, name: str) -> None:
    assert complaints(plural, manifest(name)) == []


def test_the_check_finds_a_misspelt_field_and_a_wrong_type() -> None:
    document = manifest("raycluster.yaml")
    group = document["spec"]["workerGroupSpecs"][2]
    group["template"]["spec"]["containers"][0]["securityContext"]["privilged"] = False
    group["minReplicas"] = "none"
    found = complaints("rayclusters", document)
    assert len(found) == 2
    assert any("'privilged' was unexpected" in text for text in found)


def test_gvisors_group_can_stand_in_the_others_place() -> None:
    document = manifest("raycluster.yaml")
    document["spec"]["workerGroupSpecs"][2] = manifest("executor-gvisor.yaml")
    assert complaints("rayclusters", document) == []


def test_the_job_brings_the_same_cluster() -> None:
    assert manifest("rayjob.yaml")["spec"]["rayClusterSpec"] == manifest("raycluster.yaml")["spec"]


def groups() -> dict[str, Any]:
    return {group["groupName"]: group for group in manifest("raycluster.yaml")["spec"]["workerGroupSpecs"]}


def test_only_executors_offer_the_sandbox_and_nothing_else_of_ours_comes_to_them() -> None:
    found = groups()
    assert set(found) == {"learner", "generator", "executor"}
    offered = {name: group["rayStartParams"] for name, group in found.items()}
    assert json.loads(json.loads(offered["executor"]["resources"])) == {SANDBOX_RESOURCE: 1}
    assert offered["executor"]["num-cpus"] == "0"
    assert "resources" not in offered["learner"] | offered["generator"]


def test_where_programs_run_there_is_no_secret_no_token_and_no_shared_volume() -> None:
    for group in (groups()["executor"], manifest("executor-gvisor.yaml")):
        pod = group["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert "volumes" not in pod
        (container,) = pod["containers"]
        assert not {"env", "envFrom", "volumeMounts"} & container.keys()
        assert container["securityContext"]["privileged"] is False
        assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
    assert groups()["executor"]["template"]["spec"]["hostUsers"] is False


def test_secrets_reach_the_heads_pod_alone() -> None:
    document = manifest("raycluster.yaml")["spec"]
    assert "envFrom" in document["headGroupSpec"]["template"]["spec"]["containers"][0]
    workers = [group["template"]["spec"]["containers"][0] for group in document["workerGroupSpecs"]]
    assert not any("envFrom" in container for container in workers)


def test_whoever_publishes_weights_has_shared_memory_for_them() -> None:
    """The driver on the head publishes what a stage begins with; a container's own shared memory is 64 MiB."""
    found = groups()
    for group in (manifest("raycluster.yaml")["spec"]["headGroupSpec"], found["learner"], found["generator"]):
        pod = group["template"]["spec"]
        memory = {volume["name"] for volume in pod["volumes"] if volume.get("emptyDir", {}).get("medium") == "Memory"}
        mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounts["/dev/shm"] in memory


def test_every_actor_of_the_job_s_recipe_fits_a_pod_of_its_group() -> None:
    entrypoint = manifest("rayjob.yaml")["spec"]["entrypoint"]
    (recipe,) = (word for word in entrypoint.split() if word.endswith(".yaml"))
    named = {"trainer": "learner", "generator": "generator", "executor": "executor"}
    for bundle in bundles_of(load_recipe(ROOT / "recipes" / Path(recipe).name)):
        group = groups()[named[bundle.who.partition("-")[0]]]
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        offered = {"CPU": float(limits["cpu"]), "GPU": float(limits.get("nvidia.com/gpu", 0))}
        offered |= json.loads(json.loads(group["rayStartParams"].get("resources", '"{}"')))
        assert all(offered.get(name, 0) >= amount for name, amount in bundle.resources.items()), bundle


def test_ray_is_the_locked_version() -> None:
    version = manifest("raycluster.yaml")["spec"]["rayVersion"]
    for lock in ("cpu.lock", "gpu.lock"):
        assert f"\nray=={version} " in (ROOT / "requirements" / lock).read_text().replace("ray[default]==", "ray==")
