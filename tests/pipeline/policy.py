"""Rules that every object of `infra/kubernetes` holds, as functions from rendered objects to faults.

Kubernetes accepts a pod that runs as root, a Service that selects nothing and a secret that nobody ever makes: none of
it is a fault of the schema. These rules find it before a cluster does, and each is itself tested with an object broken
on purpose.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]
Faults = Iterator[str]

NAMESPACE = "sa2net"
SECRETS = {
    "sa2net-s3": {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"},
    "sa2net-mlflow": {"MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"},
    "sa2net-postgres": {"POSTGRES_PASSWORD"},
    "sa2net-mlflow-server": {
        "MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY", "MLFLOW_CRYPTO_KEK_PASSPHRASE",
    },
}  # fmt: skip
"""Secrets that the documentation says how to make -> their keys."""

WITH_TOKEN = {"sa2net-pipeline"}
"""Accounts whose pods speak to the Kubernetes API."""

_EXACT_TAG = re.compile(r":v?\d+\.\d+(\.\d+)?([-.][\w.-]+)?$")
_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
_SECRET_NAME = re.compile(r"PASSWORD|PASSPHRASE|SECRET|TOKEN|ACCESS_KEY|CREDENTIAL|API_KEY", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"AKIA[0-9A-Z]{12,}|-----BEGIN [A-Z ]*PRIVATE KEY|://[^/\s:@]+:[^/\s@]+@")


@dataclass(frozen=True)
class Pod:
    """The pods of one controller.

    Attributes:
        owner: `Kind/name` of the controller.
        labels: Labels of the pods.
        spec: Their specification.
        runs_on: Whether they are to run for ever.
        claims: Names of the volumes that each pod gets of its own.
    """

    owner: str
    labels: Mapping[str, str]
    spec: Object
    runs_on: bool = True
    claims: frozenset[str] = frozenset()

    @property
    def containers(self) -> list[Object]:
        """All containers, those of initialisation first."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def pods(objects: Sequence[Object]) -> list[Pod]:
    """The pods that the objects make."""
    found = []
    for item in objects:
        spec, kind = item.get("spec", {}), item["kind"]
        owner = f"{kind}/{item['metadata']['name']}"
        if kind == "CronJob":
            template, runs_on = spec["jobTemplate"]["spec"]["template"], False
        elif kind in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
            template, runs_on = spec["template"], kind != "Job"
        elif kind == "Pod":
            template, runs_on = item, True
        else:
            continue
        claims = frozenset(claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", []))
        found.append(Pod(owner, template["metadata"].get("labels", {}), template["spec"], runs_on, claims))
    return found


def faults(objects: Sequence[Object], run_pods: Sequence[Mapping[str, str]] = ()) -> list[str]:
    """All faults of a set of rendered objects.

    Args:
        objects: Everything that is applied together.
        run_pods: Labels of pods that others make in this namespace: those of pipeline runs.
    """
    rules: list[Callable[[], Faults]] = [
        lambda: _objects(objects),
        lambda: (fault for pod in pods(objects) for fault in _pod(pod)),
        lambda: (fault for pod in pods(objects) for item in pod.containers for fault in _container(pod, item)),
        lambda: _secrets(objects),
        lambda: _references(objects),
        lambda: _accounts(objects),
        lambda: _services(objects),
        lambda: _policies(objects, run_pods),
    ]
    return [fault for rule in rules for fault in rule()]


def _objects(objects: Sequence[Object]) -> Faults:
    """Namespace, its level of pod security, and the quota."""
    by_name = _named(objects)
    labels = by_name.get(("Namespace", NAMESPACE), {}).get("metadata", {}).get("labels", {})
    for mode in ("enforce", "audit", "warn"):
        if labels.get(f"pod-security.kubernetes.io/{mode}") != "restricted":
            yield f"Namespace/{NAMESPACE}: pod security does not {mode} `restricted`"
    for item in objects:
        where = item["metadata"].get("namespace")
        if item["kind"] in ("ClusterRole", "ClusterRoleBinding"):
            yield f"{_name(item)}: rights over the whole cluster"
        elif item["kind"] != "Namespace" and where != NAMESPACE:
            yield f"{_name(item)}: in the namespace {where}"
    quotas = [item["spec"]["hard"] for item in objects if item["kind"] == "ResourceQuota"]
    if not any("requests.nvidia.com/gpu" in hard for hard in quotas):
        yield "no ResourceQuota for GPUs"
    if not any(item["kind"] == "LimitRange" for item in objects):
        yield "no LimitRange"


def _pod(pod: Pod) -> Faults:
    spec, safety = pod.spec, pod.spec.get("securityContext", {})
    for setting in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(setting):
            yield f"{pod.owner}: {setting}"
    for volume in spec.get("volumes", []):
        if "hostPath" in volume:
            yield f"{pod.owner}: hostPath {volume['name']}"
    if safety.get("runAsNonRoot") is not True or not safety.get("runAsUser"):
        yield f"{pod.owner}: may run as root"
    if safety.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield f"{pod.owner}: no seccomp profile"
    if spec.get("enableServiceLinks") is not False:
        yield f"{pod.owner}: gets the addresses of Services as variables (enableServiceLinks)"
    account = spec.get("serviceAccountName", "default")
    if account == "default":
        yield f"{pod.owner}: runs under the default account"
    if account not in WITH_TOKEN and spec.get("automountServiceAccountToken") is not False:
        yield f"{pod.owner}: gets a token of the Kubernetes API"


def _container(pod: Pod, container: Object) -> Faults:
    where, safety = f"{pod.owner}/{container['name']}", container.get("securityContext", {})
    if safety.get("privileged") or safety.get("runAsUser") == 0 or safety.get("runAsNonRoot") is False:
        yield f"{where}: privileged, or root"
    if safety.get("allowPrivilegeEscalation") is not False:
        yield f"{where}: may gain privileges"
    capabilities = safety.get("capabilities", {})
    if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
        yield f"{where}: has capabilities"
    if safety.get("readOnlyRootFilesystem") is not True:
        yield f"{where}: writes to its root file system"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield f"{where}: hostPort"
    resources = container.get("resources", {})
    for side in ("requests", "limits"):
        for resource in ("cpu", "memory"):
            if resource not in resources.get(side, {}):
                yield f"{where}: no {side} of {resource}"
    for probe in ("livenessProbe", "readinessProbe"):
        if pod.runs_on and container in pod.spec["containers"] and probe not in container:
            yield f"{where}: no {probe}"
    image = container.get("image", "")
    if not (_DIGEST.search(image) or _EXACT_TAG.search(image)):
        yield f"{where}: the image {image} is not an exact version"


def _secrets(objects: Sequence[Object]) -> Faults:
    for item in objects:
        if item["kind"] == "Secret":
            yield f"{_name(item)}: a Secret with values"
        for text in _texts(item):
            if _SECRET_VALUE.search(text):
                yield f"{_name(item)}: holds what looks like a secret"
    for pod in pods(objects):
        for container in pod.containers:
            where = f"{pod.owner}/{container['name']}"
            for variable in container.get("env", []):
                if "value" in variable and _SECRET_NAME.search(variable["name"]):
                    yield f"{where}: {variable['name']} is written out"
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                if reference and reference["key"] not in SECRETS.get(reference["name"], ()):
                    yield f"{where}: {reference['name']}/{reference['key']} is no documented secret"
                if reference and reference.get("optional"):
                    yield f"{where}: starts without {reference['name']}"
            if any("secretRef" in source for source in container.get("envFrom", [])):
                yield f"{where}: takes a whole secret into its environment"
        for volume in pod.spec.get("volumes", []):
            if "secret" in volume and volume["secret"].get("secretName") not in SECRETS:
                yield f"{pod.owner}: volume {volume['name']} is no documented secret"


def _references(objects: Sequence[Object]) -> Faults:
    known = set(_named(objects))
    for pod in pods(objects):
        wanted = [("ServiceAccount", pod.spec.get("serviceAccountName", "default"))]
        for volume in pod.spec.get("volumes", []):
            if "persistentVolumeClaim" in volume:
                wanted.append(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
            if "configMap" in volume:
                wanted.append(("ConfigMap", volume["configMap"]["name"]))
        for container in pod.containers:
            wanted += [
                ("ConfigMap", source["configMapRef"]["name"])
                for source in container.get("envFrom", [])
                if "configMapRef" in source
            ]
            wanted += [
                ("ConfigMap", variable["valueFrom"]["configMapKeyRef"]["name"])
                for variable in container.get("env", [])
                if "configMapKeyRef" in variable.get("valueFrom", {})
            ]
            volumes = {volume["name"] for volume in pod.spec.get("volumes", [])} | pod.claims
            for mount in container.get("volumeMounts", []):
                if mount["name"] not in volumes:
                    yield f"{pod.owner}/{container['name']}: mounts the volume {mount['name']}, which is not there"
        for kind, name in wanted:
            if (kind, name) not in known:
                yield f"{pod.owner}: {kind}/{name} is not there"


def _accounts(objects: Sequence[Object]) -> Faults:
    known = set(_named(objects))
    for item in objects:
        name = item["metadata"]["name"]
        if item["kind"] == "ServiceAccount":
            if bool(item.get("automountServiceAccountToken", True)) != (name in WITH_TOKEN):
                yield f"{_name(item)}: token of the Kubernetes API against the rule"
        elif item["kind"] == "RoleBinding":
            for kind, other in [
                (item["roleRef"]["kind"], item["roleRef"]["name"]),
                *((subject["kind"], subject["name"]) for subject in item["subjects"]),
            ]:
                if (kind, other) not in known:
                    yield f"{_name(item)}: {kind}/{other} is not there"
        elif item["kind"] == "Role":
            for rule in item["rules"]:
                if "*" in (*rule["apiGroups"], *rule["resources"], *rule["verbs"]):
                    yield f"{_name(item)}: rights without bounds"
                if {"secrets", "configmaps"} & set(rule["resources"]) and not rule.get("resourceNames"):
                    yield f"{_name(item)}: reads every one of {rule['resources']}"
                if {"pods/exec", "pods/attach", "serviceaccounts/token"} & set(rule["resources"]):
                    yield f"{_name(item)}: runs commands in pods, or makes tokens"


def _services(objects: Sequence[Object]) -> Faults:
    for item in objects:
        if item["kind"] == "Service":
            selected = [pod for pod in pods(objects) if _matches({"matchLabels": item["spec"]["selector"]}, pod.labels)]
            if not selected:
                yield f"{_name(item)}: selects no pod"
            if item["spec"].get("type", "ClusterIP") != "ClusterIP":
                yield f"{_name(item)}: reached from outside of the cluster"
            for pod in selected:
                for port in item["spec"]["ports"]:
                    if port.get("targetPort", port["port"]) not in _ports(pod):
                        yield f"{_name(item)}: {pod.owner} has no port {port.get('targetPort', port['port'])}"
        elif item["kind"] == "PodDisruptionBudget" and not any(
            _matches(item["spec"]["selector"], pod.labels) for pod in pods(objects)
        ):
            yield f"{_name(item)}: selects no pod"


def _policies(objects: Sequence[Object], run_pods: Sequence[Mapping[str, str]]) -> Faults:
    policies = [item for item in objects if item["kind"] == "NetworkPolicy"]
    if not any(item["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} for item in policies):
        yield "nothing denies what no NetworkPolicy allows"
    ours = pods(objects)
    everything = [*(pod.labels for pod in ours), *run_pods]
    for item in policies:
        spec = item["spec"]
        if not any(_matches(spec["podSelector"], labels) for labels in everything):
            yield f"{_name(item)}: selects no pod"
        for rule in spec.get("ingress", []):
            receivers = [pod for pod in ours if _matches(spec["podSelector"], pod.labels)]
            yield from _rule(item, rule, rule.get("from"), receivers, everything)
        for rule in spec.get("egress", []):
            selectors = [peer["podSelector"] for peer in rule.get("to", []) if set(peer) == {"podSelector"}]
            receivers = [pod for pod in ours if any(_matches(selector, pod.labels) for selector in selectors)]
            yield from _rule(item, rule, rule.get("to"), receivers, everything)


def _rule(
    item: Object,
    rule: Object,
    peers: Sequence[Object] | None,
    receivers: Sequence[Pod],
    everything: Sequence[Mapping[str, str]],
) -> Faults:
    """One rule of a policy: open to somebody, not to all, and only for ports that its receivers have."""
    if not peers:
        yield f"{_name(item)}: a rule is open to everybody"
    for peer in peers or ():
        if set(peer) == {"podSelector"} and not any(_matches(peer["podSelector"], labels) for labels in everything):
            yield f"{_name(item)}: {peer['podSelector']} is no pod"
        if peer.get("ipBlock", {}).get("cidr") in ("0.0.0.0/0", "::/0") or peer.get("namespaceSelector") == {}:
            yield f"{_name(item)}: a rule is open to everybody"
    for pod in receivers:
        for port in rule.get("ports", []):
            if port["port"] not in _ports(pod):
                yield f"{_name(item)}: {pod.owner} has no port {port['port']}"


def _matches(selector: Object, labels: Mapping[str, str]) -> bool:
    wanted = selector.get("matchLabels", {}).items()
    keys = [expression["key"] for expression in selector.get("matchExpressions", [])]
    unknown = [one["operator"] for one in selector.get("matchExpressions", []) if one["operator"] != "Exists"]
    if unknown:
        raise ValueError(f"this check does not know the operator {unknown[0]}")
    return all(labels.get(key) == value for key, value in wanted) and all(key in labels for key in keys)


def _ports(pod: Pod) -> set[str | int]:
    """Numbers and names of the ports of a pod."""
    ports = [port for container in pod.containers for port in container.get("ports", [])]
    return {port["containerPort"] for port in ports} | {port["name"] for port in ports if "name" in port}


def _named(objects: Sequence[Object]) -> dict[tuple[str, str], Object]:
    return {(item["kind"], item["metadata"]["name"]): item for item in objects}


def _name(item: Object) -> str:
    return f"{item['kind']}/{item['metadata']['name']}"


def _texts(node: Any) -> Iterator[str]:
    """Every text in a tree."""
    if isinstance(node, dict):
        for value in node.values():
            yield from _texts(value)
    elif isinstance(node, list):
        for value in node:
            yield from _texts(value)
    elif isinstance(node, str):
        yield node
