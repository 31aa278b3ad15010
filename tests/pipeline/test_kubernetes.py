"""`infra/kubernetes`: it renders, is valid, holds the house's rules, and fits the pipeline and the compose stack.

No cluster is started here: what this proves is that the objects are sound and agree with one another.
"""

import base64
import copy
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from policy import NAMESPACE, SECRETS, Object, faults, pods

from pipelines import environments
from pipelines.runtime import OURS

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "infra" / "kubernetes"
OVERLAYS = sorted(folder.name for folder in (KUBERNETES / "overlays").iterdir())
VERSIONS = ("1.37", "1.34")
"""Of Kubernetes: the newest that the schemas know, and the oldest that is still likely to be met."""

RUN_PODS = (
    {"workflows.argoproj.io/workflow": "run-1"},
    {"workflows.argoproj.io/workflow": "run-1", **OURS},
    {"jobset.sigs.k8s.io/jobset-name": "train-1", **OURS},
)
"""Labels of the pods that runs make here: the driver's, a step's, a node's of a training over several."""

TREES = {"Deployment/mlflow": "mlflow", "StatefulSet/postgres": "postgres", "StatefulSet/s3": "s3"}
"""Controller -> service of the compose file that is the same server."""


@pytest.fixture(scope="module", params=OVERLAYS)
def rendered(request: pytest.FixtureRequest) -> list[Object]:
    """The objects of an overlay."""
    return render(request.param)


def render(overlay: str) -> list[Object]:
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl here (kubectl 1.27 or newer renders without a cluster)")
    command = ["kubectl", "kustomize", str(KUBERNETES / "overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "kustomize has something to say: " + done.stderr
    return [item for item in yaml.safe_load_all(done.stdout) if item]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid(rendered: list[Object], version: str) -> None:
    assert len(rendered) > 20
    for item in rendered:
        assert kubernetes_validate.validate(item, version, strict=True) == version


def test_a_misspelt_field_is_seen(rendered: list[Object]) -> None:
    broken = copy.deepcopy(_find(rendered, "Deployment", "mlflow"))
    broken["spec"]["template"]["spec"]["containers"][0]["readOnlyRootFileSystem"] = True
    with pytest.raises(kubernetes_validate.ValidationError, match="readOnlyRootFileSystem"):
        kubernetes_validate.validate(broken, VERSIONS[0], strict=True)


def test_the_rules_hold(rendered: list[Object]) -> None:
    assert faults(rendered, RUN_PODS) == []


def _find(objects: list[Object], kind: str, name: str) -> Object:
    [found] = [item for item in objects if (item["kind"], item["metadata"]["name"]) == (kind, name)]
    return found


def _spec(objects: list[Object], kind: str = "Deployment", name: str = "mlflow") -> Any:
    return _find(objects, kind, name)["spec"]["template"]["spec"]


def _first(objects: list[Object]) -> Any:
    return _spec(objects)["containers"][0]


def _without(kind: str, name: str) -> Callable[[list[Object]], None]:
    return lambda objects: objects.remove(_find(objects, kind, name))


def _variable(**variable: Any) -> Callable[[list[Object]], None]:
    return lambda objects: _first(objects)["env"].append(variable)


def _volume(**volume: Any) -> Callable[[list[Object]], None]:
    return lambda objects: _spec(objects)["volumes"].append({"name": "more", **volume})


def _safety(**settings: Any) -> Callable[[list[Object]], None]:
    return lambda objects: _first(objects)["securityContext"].update(settings)


def _role(**rule: Any) -> Callable[[list[Object]], None]:
    whole = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"], **rule}
    return lambda objects: _find(objects, "Role", "sa2net-pipeline")["rules"].append(whole)


def _network(name: str, **spec: Any) -> Callable[[list[Object]], None]:
    return lambda objects: _find(objects, "NetworkPolicy", name)["spec"].update(spec)


def _open(**peer: Any) -> Callable[[list[Object]], None]:
    return lambda objects: _find(objects, "NetworkPolicy", "mlflow")["spec"]["ingress"][0]["from"].append(peer)


def _secret_object(objects: list[Object]) -> None:
    objects.append({"kind": "Secret", "metadata": {"name": "s", "namespace": NAMESPACE}, "data": {"a": "Yg=="}})


def _cluster_role(objects: list[Object]) -> None:
    objects.append({"kind": "ClusterRole", "metadata": {"name": "all"}, "rules": []})


def _reference(name: str, key: str) -> dict[str, Any]:
    return {"name": "MORE", "valueFrom": {"secretKeyRef": {"name": name, "key": key}}}


BROKEN: dict[str, tuple[Callable[[list[Object]], Any], str]] = {
    "host network": (lambda o: _spec(o).update(hostNetwork=True), "hostNetwork"),
    "host processes": (lambda o: _spec(o).update(hostPID=True), "hostPID"),
    "host path": (_volume(hostPath={"path": "/"}), "hostPath"),
    "host port": (lambda o: _first(o)["ports"][0].update(hostPort=5000), "hostPort"),
    "root": (lambda o: _spec(o)["securityContext"].update(runAsNonRoot=False), "may run as root"),
    "user 0": (lambda o: _spec(o)["securityContext"].update(runAsUser=0), "may run as root"),
    "root container": (_safety(runAsUser=0), "privileged, or root"),
    "privileged": (_safety(privileged=True), "privileged, or root"),
    "escalation": (_safety(allowPrivilegeEscalation=True), "may gain privileges"),
    "capabilities kept": (_safety(capabilities={"drop": ["NET_RAW"]}), "has capabilities"),
    "capability added": (_safety(capabilities={"drop": ["ALL"], "add": ["SYS_PTRACE"]}), "has capabilities"),
    "seccomp": (lambda o: _spec(o)["securityContext"].pop("seccompProfile"), "no seccomp profile"),
    "writable root": (_safety(readOnlyRootFilesystem=False), "writes to its root"),
    "no limit": (lambda o: _first(o)["resources"]["limits"].pop("memory"), "no limits of memory"),
    "no request": (lambda o: _first(o)["resources"]["requests"].pop("cpu"), "no requests of cpu"),
    "no liveness": (lambda o: _first(o).pop("livenessProbe"), "no livenessProbe"),
    "no readiness": (lambda o: _first(o).pop("readinessProbe"), "no readinessProbe"),
    "latest": (lambda o: _first(o).update(image="example.org/mlflow:latest"), "not an exact version"),
    "no tag": (lambda o: _first(o).update(image="example.org:5000/mlflow"), "not an exact version"),
    "major version": (lambda o: _first(o).update(image="postgres:17"), "not an exact version"),
    "short digest": (lambda o: _first(o).update(image="mlflow@sha256:abc"), "not an exact version"),
    "service links": (lambda o: _spec(o).pop("enableServiceLinks"), "enableServiceLinks"),
    "default account": (lambda o: _spec(o).pop("serviceAccountName"), "the default account"),
    "token in a pod": (lambda o: _spec(o).pop("automountServiceAccountToken"), "a token of the Kubernetes API"),
    "token of an account": (
        lambda o: _find(o, "ServiceAccount", "sa2net-servers").pop("automountServiceAccountToken"),
        "against the rule",
    ),
    "secret object": (_secret_object, "a Secret with values"),
    "written secret": (_variable(name="DB_PASSWORD", value="x"), "DB_PASSWORD is written out"),
    "secret in an address": (_variable(name="STORE", value="postgresql://a:b@c/d"), "looks like a secret"),
    "key in text": (_variable(name="STORE", value="AKIAIOSFODNN7EXAMPLE"), "looks like a secret"),
    "unknown secret": (lambda o: _first(o)["env"].append(_reference("other", "A")), "no documented secret"),
    "unknown key": (lambda o: _first(o)["env"].append(_reference("sa2net-s3", "A")), "no documented secret"),
    "whole secret": (lambda o: _first(o).update(envFrom=[{"secretRef": {"name": "sa2net-s3"}}]), "a whole secret"),
    "secret volume": (_volume(secret={"secretName": "other"}), "no documented secret"),
    "no claim": (_without("PersistentVolumeClaim", "sa2net-backup"), "sa2net-backup is not there"),
    "no account": (_without("ServiceAccount", "sa2net-servers"), "sa2net-servers is not there"),
    "no map": (_volume(configMap={"name": "other"}), "ConfigMap/other is not there"),
    "no volume": (
        lambda o: _first(o)["volumeMounts"].append({"name": "none", "mountPath": "/none"}),
        "volume none, which is not there",
    ),
    "no role": (_without("Role", "sa2net-pipeline"), "Role/sa2net-pipeline is not there"),
    "all verbs": (_role(verbs=["*"]), "rights without bounds"),
    "all secrets": (_role(resources=["secrets"]), "reads every one of"),
    "commands in pods": (_role(resources=["pods/exec"]), "runs commands in pods"),
    "cluster role": (_cluster_role, "over the whole cluster"),
    "service without pod": (
        lambda o: _find(o, "Service", "mlflow")["spec"]["selector"].update({"app.kubernetes.io/name": "x"}),
        "Service/mlflow: selects no pod",
    ),
    "service without port": (
        lambda o: _find(o, "Service", "s3")["spec"]["ports"][0].update(targetPort="web"),
        "has no port web",
    ),
    "service outside": (lambda o: _find(o, "Service", "s3")["spec"].update(type="NodePort"), "from outside"),
    "nothing denied": (_without("NetworkPolicy", "deny-all"), "nothing denies"),
    "policy without pod": (
        _network("postgres", podSelector={"matchLabels": {"app.kubernetes.io/name": "x"}}),
        "NetworkPolicy/postgres: selects no pod",
    ),
    "policy open to all": (_network("postgres", ingress=[{}]), "open to everybody"),
    "all namespaces": (_open(namespaceSelector={}), "open to everybody"),
    "all addresses": (_open(ipBlock={"cidr": "0.0.0.0/0"}), "open to everybody"),
    "policy of no client": (_open(podSelector={"matchLabels": {"a": "b"}}), "is no pod"),
    "policy of no port": (
        lambda o: _find(o, "NetworkPolicy", "pipeline")["spec"]["egress"][0]["ports"][0].update(port=5001),
        "has no port 5001",
    ),
    "other namespace": (
        lambda o: _find(o, "Service", "s3")["metadata"].update(namespace="default"),
        "in the namespace default",
    ),
    "pod security": (
        lambda o: _find(o, "Namespace", NAMESPACE)["metadata"]["labels"].pop("pod-security.kubernetes.io/enforce"),
        "does not enforce",
    ),
    "no quota": (_without("ResourceQuota", "sa2net"), "no ResourceQuota"),
    "no limit range": (_without("LimitRange", "sa2net"), "no LimitRange"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_each_rule_sees_its_fault(rendered: list[Object], fault: str) -> None:
    change, said = BROKEN[fault]
    broken = copy.deepcopy(rendered)
    change(broken)
    assert any(said in line for line in faults(broken, RUN_PODS)), faults(broken, RUN_PODS)


def test_a_disruption_budget_without_pods_is_seen() -> None:
    objects = render("team")
    _find(objects, "PodDisruptionBudget", "mlflow")["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"] = "x"
    assert faults(objects, RUN_PODS) == ["PodDisruptionBudget/mlflow: selects no pod"]


def test_the_pipeline_finds_what_it_is_told_to_use(rendered: list[Object]) -> None:
    """Names in `infra/environments.yaml` and objects here: account, volume, secrets, addresses."""
    cluster = environments.load("cluster", ROOT / "infra" / "environments.yaml")
    assert cluster.namespace == NAMESPACE
    assert _find(rendered, "ServiceAccount", cluster.service_account)["automountServiceAccountToken"]
    assert _find(rendered, "PersistentVolumeClaim", cluster.volume.claim)
    assert {name: set(keys) for name, keys in cluster.secrets.items()}.items() <= SECRETS.items()
    addresses = [cluster.variables["MLFLOW_TRACKING_URI"], str(cluster.fetch["endpoint_url"])]
    allowed = {item["name"]: item.get("value", "") for item in _first(rendered)["env"]}["ALLOWED_HOSTS"].split(",")
    for address in addresses:
        found = re.fullmatch(rf"http://([a-z0-9-]+)\.{NAMESPACE}\.svc:(\d+)", address)
        assert found is not None, address
        ports = [port["port"] for port in _find(rendered, "Service", found[1])["spec"]["ports"]]
        assert int(found[2]) in ports
    assert addresses[0].removeprefix("http://") in allowed
    quota = _find(rendered, "ResourceQuota", NAMESPACE)["spec"]["hard"]["requests.nvidia.com/gpu"]
    assert int(quota) >= cluster.gpu.count * cluster.gpu.nodes


def test_the_servers_are_those_of_the_compose_stack(rendered: list[Object]) -> None:
    """One command line, one image, one set of plain settings: what is tested of one holds for the other."""
    compose = yaml.safe_load((ROOT / "infra" / "compose" / "compose.yaml").read_text())["services"]
    here = {pod.owner: pod.spec for pod in pods(rendered)}
    for owner, name in TREES.items():
        [container], service = here[owner]["containers"], compose[name]
        args = [arg for arg in container.get("args", []) if not arg.startswith("--allowed-hosts=")]
        assert args == [arg for arg in service.get("command", []) if not arg.startswith("--allowed-hosts=")]
        assert (
            container["image"].rpartition("/")[2].replace("mlflow:", "sa2net-mlflow:")
            == service["image"].rpartition("/")[2]
        )
        user = here[owner]["securityContext"]
        assert f"{user['runAsUser']}:{user['runAsGroup']}" == service["user"]
        plain = {item["name"]: item["value"] for item in container["env"] if "value" in item}
        plain = {key: value.replace(f".{NAMESPACE}.svc:", ":") for key, value in plain.items()}
        plain.pop("ALLOWED_HOSTS", None)
        secret = {item["name"] for item in container["env"] if "valueFrom" in item}
        assert set(service["environment"]) == set(plain) | secret
        written = {key: value for key, value in service["environment"].items() if not value.startswith("${")}
        assert written.items() <= plain.items()
        assert not secret & set(written)


def test_the_script_makes_every_secret_that_is_referred_to(rendered: list[Object], tmp_path: Path) -> None:
    used = {
        (item["valueFrom"]["secretKeyRef"]["name"], item["valueFrom"]["secretKeyRef"]["key"])
        for pod in pods(rendered)
        for container in pod.containers
        for item in container.get("env", [])
        if "valueFrom" in item
    }
    made = _made_secrets(tmp_path, there="none")
    assert {name: set(values) for name, values in made.items()} == SECRETS
    assert used <= {(name, key) for name, keys in SECRETS.items() for key in keys}
    values = [value for keys in made.values() for key, value in keys.items() if key != "MLFLOW_TRACKING_USERNAME"]
    assert len(set(values)) == len(values)
    assert all(re.fullmatch("[0-9a-f]{48}", value) for value in values)
    assert set(_made_secrets(tmp_path, there="sa2net-s3")) == set(SECRETS) - {"sa2net-s3"}


def _made_secrets(folder: Path, *, there: str) -> dict[str, dict[str, str]]:
    """What `make-secrets.sh` has kubectl make: the real one, told to print it in place of asking a cluster."""
    kubectl = shutil.which("kubectl")
    front = folder / "kubectl"
    front.write_text(
        '#!/bin/sh\ncase " $* " in\n'
        f"*' get secret {there} '*) echo secret/{there} ;;\n*' get secret '*) ;;\n"
        f"*' create secret '*) exec {kubectl} \"$@\" --dry-run=client --output=json ;;\n*) exit 64 ;;\nesac\n"
    )
    front.chmod(0o755)
    command = ["sh", str(KUBERNETES / "make-secrets.sh"), "other"]
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "KUBECONFIG": os.devnull}
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=environment)
    text = done.stdout.replace(f"secret/{there} is there\n", "")
    decoder, found = json.JSONDecoder(), {}
    while text.strip():
        secret, length = decoder.raw_decode(text.lstrip())
        text = text.lstrip()[length:]
        assert secret["metadata"]["namespace"] == "other"
        found[secret["metadata"]["name"]] = {
            key: base64.b64decode(value).decode() for key, value in secret["data"].items()
        }
    return found


def test_the_read_only_root_is_asked_for_the_steps_of_the_pipeline(tmp_path: Path) -> None:
    # An overlay of one's own that takes the component, as docs/how-to/cluster.md says. The expression is not evaluated.
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl here (kubectl 1.27 or newer renders without a cluster)")
    shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    overlay = tmp_path / "kubernetes/overlays/small/kustomization.yaml"
    overlay.write_text(overlay.read_text() + "components: [../../components/read-only-root]\n")
    done = subprocess.run(
        ["kubectl", "kustomize", str(overlay.parent)], capture_output=True, text=True, check=True, timeout=60
    )
    objects = [item for item in yaml.safe_load_all(done.stdout) if item]
    policy = _find(objects, "MutatingAdmissionPolicy", "sa2net-read-only-root")
    binding = _find(objects, "MutatingAdmissionPolicyBinding", "sa2net-read-only-root")
    for version in VERSIONS:
        for item in (policy, binding):
            assert kubernetes_validate.validate(item, version, strict=True) == version
    assert binding["spec"]["policyName"] == policy["metadata"]["name"]
    constraints = policy["spec"]["matchConstraints"]
    assert constraints["objectSelector"]["matchLabels"] == OURS
    assert constraints["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": NAMESPACE}


def test_the_volume_of_the_run_pods_is_made_writable_for_their_user(rendered: list[Object]) -> None:
    environment = environments.load("cluster", ROOT / "infra/environments.yaml")
    pod = _spec(rendered, "Job", "prepare-checkpoints")
    assert pod["securityContext"]["fsGroup"] == environment.run_as_user
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == environment.volume.claim
    assert pod["containers"][0]["volumeMounts"][0]["mountPath"] == environment.volume.mount
