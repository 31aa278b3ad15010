"""The KServe component: it renders, its pod is valid and holds the house's rules, and its commands are ours.

No cluster was there to try it on; KServe's own fields are checked here by what this project relies on.
"""

import copy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from mlflow.models.cli import serve
from policy import NAMESPACE, Object, faults

from pipelines import environments
from pipelines.runtime import OURS

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "infra" / "kubernetes"
VERSIONS = ("1.37", "1.34")
OF_KSERVE = {"minReplicas", "maxReplicas", "labels"}
"""Fields of a predictor beside those of a pod."""

RUN_PODS = (
    {"workflows.argoproj.io/workflow": "run-1"},
    {"workflows.argoproj.io/workflow": "run-1", **OURS},
    {"jobset.sigs.k8s.io/jobset-name": "train-1", **OURS},
)


def render(folder: Path, overlay: str, more: str = "") -> list[Object]:
    """An overlay of one's own that takes the component, as the how-to says."""
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl here (kubectl 1.27 or newer renders without a cluster)")
    shutil.copytree(KUBERNETES, folder / "kubernetes")
    file = folder / "kubernetes/overlays" / overlay / "kustomization.yaml"
    content = yaml.safe_load(file.read_text())
    content["components"] = [*content.get("components", []), "../../components/serving"]
    content["images"] += yaml.safe_load(more) if more else []
    file.write_text(yaml.safe_dump(content))
    done = subprocess.run(["kubectl", "kustomize", str(file.parent)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return [item for item in yaml.safe_load_all(done.stdout) if item]


@pytest.fixture(scope="module", params=["small", "team"])
def rendered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    return render(tmp_path_factory.mktemp("serving"), request.param)


def service(objects: list[Object]) -> Any:
    [found] = [item for item in objects if item["kind"] == "InferenceService"]
    return found


def pod_of(objects: list[Object]) -> Object:
    """The pod that KServe makes of the predictor."""
    predictor = copy.deepcopy(service(objects)["spec"]["predictor"])
    labels = predictor["labels"]
    spec = {name: value for name, value in predictor.items() if name not in OF_KSERVE}
    metadata = {"name": "sa2net-predictor", "namespace": NAMESPACE, "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_pod_and_the_policies_are_valid(rendered: list[Object], version: str) -> None:
    for item in [pod_of(rendered), *(item for item in rendered if item["kind"] == "NetworkPolicy")]:
        assert kubernetes_validate.validate(item, version, strict=True) == version
    broken = pod_of(rendered)
    broken["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readinesProbe"):
        kubernetes_validate.validate(broken, version, strict=True)


def test_the_rules_hold(rendered: list[Object]) -> None:
    assert faults([*rendered, pod_of(rendered)], RUN_PODS) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda spec: spec["securityContext"].update(runAsNonRoot=False), "may run as root"),
        (lambda spec: spec["containers"][0]["securityContext"].update(readOnlyRootFilesystem=False), "writes to its root"),
        (lambda spec: spec["initContainers"][0]["resources"].pop("limits"), "no limits of"),
        (lambda spec: spec["containers"][0].pop("readinessProbe"), "no readinessProbe"),
        (lambda spec: spec["containers"][0].update(image="torch:latest"), "not an exact version"),
        (lambda spec: spec["containers"][0]["ports"][0].update(name="web"), "has no port http"),
        (lambda spec: spec["volumes"].pop(0), "mounts the volume models"),
    ],
)  # fmt: skip
def test_the_rules_see_faults_of_this_pod(rendered: list[Object], change: Any, said: str) -> None:
    pod = pod_of(rendered)
    change(pod["spec"])
    assert any(said in line for line in faults([*rendered, pod], RUN_PODS))


def test_what_kserve_reads(rendered: list[Object]) -> None:
    found = service(rendered)
    assert (found["apiVersion"], found["metadata"]["namespace"]) == ("serving.kserve.io/v1beta1", NAMESPACE)
    assert found["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Standard"
    assert found["metadata"]["labels"]["networking.kserve.io/visibility"] == "cluster-local"
    predictor = found["spec"]["predictor"]
    assert list(found["spec"]) == ["predictor"] and set(predictor) >= OF_KSERVE
    assert predictor["minReplicas"] == predictor["maxReplicas"] == 1
    [container] = predictor["containers"]
    assert container["name"] == "kserve-container"
    assert [port["containerPort"] for port in container["ports"]] == [8080]
    assert {container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")} == {"/ping"}


def test_the_commands_are_those_of_the_how_to(rendered: list[Object]) -> None:
    """MLflow takes the words; what `fetch` writes is what is served, and it asks for the champion."""
    spec = pod_of(rendered)["spec"]
    [fetch], [container] = spec["initContainers"], spec["containers"]
    assert fetch["command"][:4] == ["python3", "-m", "sa2net.serving", "models:/sa2net@champion"]
    assert container["command"] == ["mlflow", "models", "serve"]
    words = serve.make_context("serve", list(container["args"])).params
    assert words["model_uri"] == fetch["command"][4]
    assert (words["env_manager"], words["host"], words["port"], words["timeout"]) == ("local", "0.0.0.0", 8080, 120)
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert mounts["/models"]["readOnly"] is True


def test_the_server_has_no_credentials_and_the_other_those_of_the_pipeline(rendered: list[Object]) -> None:
    spec = pod_of(rendered)["spec"]
    environment = environments.load("cluster", ROOT / "infra/environments.yaml")
    [fetch], [container] = spec["initContainers"], spec["containers"]
    assert fetch["image"] == container["image"] == environment.images.torch
    assert container["env"] == [{"name": "MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "value": "false"}]
    plain = {item["name"]: item["value"] for item in fetch["env"] if "value" in item}
    assert plain == {"MLFLOW_TRACKING_URI": environment.variables["MLFLOW_TRACKING_URI"]}
    secret = {item["valueFrom"]["secretKeyRef"]["key"]: item["name"] for item in fetch["env"] if "valueFrom" in item}
    assert secret == environment.secrets["sa2net-mlflow"]


def test_an_overlay_names_the_image_once(tmp_path: Path) -> None:
    digest = "sha256:" + "a" * 64
    image = f"[{{name: registry.example.org/sa2net/torch, newName: hospital.example/torch, digest: '{digest}'}}]"
    spec = pod_of(render(tmp_path, "small", image))["spec"]
    for container in (*spec["initContainers"], *spec["containers"]):
        assert container["image"] == f"hospital.example/torch@{digest}"
