"""The `TrainJob`s of a cluster, with what its API server says in the words of this project.

The Kubernetes client is kept on a lead: short time-outs and no retries of its own, since whoever asks knows how long an
answer can be waited for.
"""

import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from sa2net.errors import ClusterError, ConfigError
from sa2net.training.nodes import API_VERSION, NODE

logger = logging.getLogger(__name__)
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
LOG_LINES = 25
_TIMEOUT = (5, 20)
"""Seconds to connect, and to answer."""
_PLACE = dict(zip(("group", "version"), API_VERSION.split("/"), strict=True)) | {"plural": "trainjobs"}
_NEWER = "Install Kubeflow Trainer 2.3 or newer"
Answer = TypeVar("Answer")


class AwayError(ClusterError):
    """The API server does not answer, or is not itself."""


class TrainJobs:
    """The `TrainJob`s of one namespace. Every method raises `AwayError` if the server does not answer.

    Args:
        namespace: Empty = the one of this pod, or of the kubeconfig.

    Raises:
        ClusterError: Neither in a cluster nor with a kubeconfig.
    """

    def __init__(self, namespace: str = "") -> None:
        try:
            from kubernetes import client, config
        except ImportError as error:
            raise ConfigError(
                "training on several nodes needs the Kubernetes client",
                evidence=str(error),
                action="Install it with `pip install 'sa2net[nodes]'`, or build the image with that extra.",
            ) from error
        settings = client.Configuration()
        try:
            if (ACCOUNT / "token").is_file():
                config.load_incluster_config(client_configuration=settings)
                here = (ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
            else:
                file = os.environ.get("KUBECONFIG") or None
                config.load_kube_config(config_file=file, client_configuration=settings, persist_config=False)
                here = config.list_kube_config_contexts(config_file=file)[1]["context"].get("namespace", "default")
        except (config.ConfigException, OSError) as error:
            raise ClusterError(
                "no Kubernetes cluster is known here",
                evidence=str(error),
                action="Run this in a pod of the cluster, or set KUBECONFIG.",
            ) from error
        settings.retries = False  # the callers here know how long to wait
        api = client.ApiClient(settings)
        self.namespace = namespace or here
        self._jobs, self._pods = client.CustomObjectsApi(api), client.CoreV1Api(api)

    def get(self, name: str) -> dict[str, Any] | None:
        """A job; None if there is none of that name."""
        ask = self._jobs.get_namespaced_custom_object
        return self._asked("get", lambda: dict(ask(**self._at(name))), absent=None)

    def create(self, job: Mapping[str, Any]) -> bool:
        """Create a job; False if there is one of that name. A field that the server does not know is an error.

        Raises:
            ClusterError: The server refuses it.
        """
        send = self._jobs.create_namespaced_custom_object
        place = {**self._at(), "body": job, "field_validation": "Strict"}
        return self._asked("create", lambda: bool(send(**place)), taken=False)

    def delete(self, name: str) -> None:
        """Delete a job; its object stays until its pods are gone. No error if there is none."""
        send = self._jobs.delete_namespaced_custom_object
        self._asked("delete", lambda: send(**self._at(name), propagation_policy="Foreground"), absent=None)

    def pods(self, name: str) -> list[Any]:
        """The training pods of a job, by name."""
        selector = f"jobset.sigs.k8s.io/jobset-name={name},jobset.sigs.k8s.io/replicatedjob-name={NODE}"
        ask = self._pods.list_namespaced_pod
        listed = self._asked(
            "list the pods of", lambda: ask(self.namespace, label_selector=selector, _request_timeout=_TIMEOUT).items
        )
        return sorted(listed, key=lambda pod: pod.metadata.name)

    def log(self, pod: str, *, previous: bool) -> str:
        """The last lines of a pod's training container, or of the container that ran before it; "" if they are gone."""
        ask = self._pods.read_namespaced_pod_log
        options = {"container": NODE, "tail_lines": LOG_LINES, "previous": previous, "_request_timeout": _TIMEOUT}
        try:
            return str(self._asked("read the log of", lambda: ask(pod, self.namespace, **options), absent=""))
        except ClusterError as error:  # the log is evidence for another error, which counts more
            logger.warning("%s", error)
            return ""

    def _at(self, name: str = "") -> dict[str, Any]:
        named = {"name": name} if name else {}
        return {**_PLACE, "namespace": self.namespace, **named, "_request_timeout": _TIMEOUT}

    def _asked(self, verb: str, ask: Callable[[], Answer], **answers: Any) -> Answer:
        """The answer; `absent` and `taken` stand for "not found" and "exists" where they are given."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return ask()
        except (HTTPError, OSError, ValueError) as error:
            raise _away(type(error).__name__) from error
        except ApiException as error:
            code, said = error.status or 0, _message(error)
            if code == 404 and "absent" in answers and _names_an_object(error):
                return answers["absent"]  # type: ignore[no-any-return]
            if code == 409 and "taken" in answers:
                return answers["taken"]  # type: ignore[no-any-return]
            if code >= 500 or code in (0, 408, 429):
                raise _away(f"{code} {said}".strip()) from error
            unknown = code == 404 and not _names_an_object(error)
            raise _refused(verb, code, said, self.namespace, kind_is_unknown=unknown) from error


def _away(evidence: str) -> AwayError:
    return AwayError(
        "the Kubernetes API server does not answer", evidence=evidence, action="Check the cluster and the network."
    )


def _refused(verb: str, code: int, said: str, namespace: str, *, kind_is_unknown: bool) -> ClusterError:
    evidence = f"{code} {said}".strip()
    if code == 401:
        what, action = "the cluster does not know this account", "Check its token, or that of the kubeconfig."
    elif code == 403:
        what = f"this account may not {verb} a TrainJob in the namespace {namespace}"
        action = "Give the account of the runs the role of infra/kubernetes/components/trainjob."
    elif kind_is_unknown:
        what, action = "this cluster knows no TrainJob", f"{_NEWER}, or set gpu.nodes to 1."
    elif "unknown field" in said:
        what, action = "the cluster's Kubeflow Trainer is too old", f"{_NEWER}."
    else:
        what = f"the cluster refuses to {verb} the TrainJob"
        action = "Check its training runtime (`kubectl get clustertrainingruntimes`) and the environment's settings."
    return ClusterError(what, evidence=evidence, action=action)


def _body(error: Any) -> dict[str, Any]:
    """What the API says of an error; empty where the answer is not the API's, such as that for an unknown kind."""
    try:
        return dict(json.loads(error.body))
    except (TypeError, ValueError):
        return {}


def _message(error: Any) -> str:
    return " ".join(str(_body(error).get("message", "")).split())[:500]


def _names_an_object(error: Any) -> bool:
    """Whether it is an object that was not found: for a kind that nobody installed the answer names none."""
    return bool((_body(error).get("details") or {}).get("name"))
