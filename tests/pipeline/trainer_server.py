"""A local server that speaks the Kubernetes routes which a TrainJob needs, and a stand-in for the Trainer behind them.

Each posted job is held against the typed models of the API (an unknown field is refused) and against the rules of the
Trainer's admission. Then its command really runs here: one torchrun agent a node, with the `PET_*` variables of the
Trainer's torch runtime. What a cluster does beyond that (scheduling, images, volumes, network) is not in it.
"""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

JOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/team/trainjobs"
PODS = "/api/v1/namespaces/team/pods"
RESERVED = {"PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT"}
TOKEN = "token-of-the-test"


def admission_faults(body: dict[str, Any]) -> list[str]:
    """What the API server or the Trainer's admission would refuse."""
    faults = []
    if TrainerV1alpha1TrainJob.from_dict(body).to_dict() != body:
        faults.append("strict decoding error: unknown field")
    spec = body["spec"]
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", body["metadata"]["name"]):
        faults.append("metadata.name must match RFC 1035 DNS label format")
    names = [item["name"] for item in spec["trainer"]["env"]]
    if RESERVED & set(names) or len(names) != len(set(names)):
        faults.append("spec.trainer.env: reserved or twice")
    for patch in spec["runtimePatches"]:
        assert re.fullmatch(r"[a-z0-9.-]+/[A-Za-z0-9._-]+", patch["manager"])
        for job in patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]:
            pod = job["template"]["spec"]["template"]["spec"]
            volumes = {volume["name"] for volume in pod["volumes"]}
            for container in pod["containers"]:
                if (job["name"], container["name"]) != ("node", "node") or "env" in container:
                    faults.append("runtimePatches: a job or container that the runtime lacks, or variables")
                if not {mount["name"] for mount in container["volumeMounts"]} <= volumes:
                    faults.append("runtimePatches: a mount without its volume")
    return faults


@dataclass
class Job:
    """A job as the server keeps it."""

    body: dict[str, Any]
    script: list[str]
    looks: int = 0
    lingers: int = -1  # looks until a deleted one is gone; -1 = not deleted
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def state(self) -> str:
        """created, pending, running, complete or failed."""
        planned = self.script[min(self.looks, len(self.script)) - 1] if self.looks else "created"
        if planned != "follow":
            return planned
        codes = [process.poll() for process in self.processes]
        if None in codes:
            return "running"
        return "failed" if any(codes) else "complete"


class TrainerServer:
    """The server; `url` is its address. Attributes below are turned by the tests.

    Attributes:
        script: States of the next job, one a look; the last one stays. `follow` = that of its processes.
        refusal: Status and body of every answer, instead of the right one.
        away: Connections are closed without an answer.
        lingers: Looks for which a deleted job is still there, as with pods that take their time.
    """

    def __init__(self, folder: Path, secrets: dict[str, dict[str, str]] | None = None) -> None:
        self.folder, self.secrets = folder, secrets or {}
        self.jobs: dict[str, Job] = {}
        self.posted: list[dict[str, Any]] = []
        self.deleted: list[str] = []
        self.logs: dict[str, str] = {}
        self.script = ["created", "pending", "follow"]
        self.refusal: tuple[int, dict[str, Any] | str] | None = None
        self.away, self.lingers = False, 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        for job in self.jobs.values():
            self._stop(job)
        self._server.shutdown()
        self._server.server_close()

    def kubeconfig(self) -> Path:
        """A file that leads here."""
        file = self.folder / "kubeconfig"
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "here", "cluster": {"server": self.url}}],
            "users": [{"name": "me", "user": {"token": TOKEN}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": "team"}}],
            "current-context": "here",
        }
        file.write_text(json.dumps(content))
        return file

    def answer(self, method: str, url: str, body: bytes) -> tuple[int, dict[str, Any] | str]:
        path, query = urlsplit(url).path, {key: values[0] for key, values in parse_qs(urlsplit(url).query).items()}
        if self.refusal:
            return self.refusal
        if path == JOBS and method == "POST":
            return self._create(json.loads(body), query)
        if path.startswith(f"{JOBS}/"):
            return self._one(method, path.removeprefix(f"{JOBS}/"), query)
        if path == PODS and method == "GET":
            name = query["labelSelector"].split(",")[0].partition("=")[2]
            assert query["labelSelector"].split(",")[1] == "jobset.sigs.k8s.io/replicatedjob-name=node"
            items = self._pods(self.jobs[name]) if name in self.jobs else []
            return 200, {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}
        found = re.fullmatch(rf"{PODS}/([^/]+)/log", path)
        if found and method == "GET":
            assert query["container"] == "node"
            log = self.folder / f"{found[1]}.log"
            text = self.logs.get(found[1], log.read_text() if log.is_file() else "")
            return 200, "\n".join(text.splitlines()[-int(query["tailLines"]) :])
        return 404, "404 page not found\n"

    def _create(self, body: dict[str, Any], query: dict[str, str]) -> tuple[int, dict[str, Any]]:
        assert query["fieldValidation"] == "Strict"
        name = body["metadata"]["name"]
        if name in self.jobs:
            return 409, _status(409, f'trainjobs.trainer.kubeflow.org "{name}" already exists', name)
        faults = admission_faults(body)
        if faults:
            return 400, _status(400, "; ".join(faults), name)
        self.posted.append(body)
        self.jobs[name] = job = Job(body, list(self.script))
        if "follow" in job.script:
            self._start(job)
        return 201, body

    def _one(self, method: str, name: str, query: dict[str, str]) -> tuple[int, dict[str, Any]]:
        job = self.jobs.get(name)
        if job is None:
            return 404, _status(404, f'trainjobs.trainer.kubeflow.org "{name}" not found', name)
        if method == "DELETE":
            assert query["propagationPolicy"] == "Foreground"
            self.deleted.append(name)
            self._stop(job)
            job.lingers = self.lingers
            if not job.lingers:
                del self.jobs[name]
            return 200, {"kind": "Status", "apiVersion": "v1", "status": "Success"}
        content = json.loads(json.dumps(job.body))
        if job.lingers >= 0:
            job.lingers -= 1
            content["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            if job.lingers < 0:
                del self.jobs[name]
            return 200, content
        job.looks += 1
        conditions = [_condition("Suspended", "False", "Resumed", "")]
        if job.state == "suspended":
            conditions = [_condition("Suspended", "True", "Suspended", "queued")]
        if job.state == "complete":
            conditions.append(_condition("Complete", "True", "AllJobsCompleted", "jobset completed successfully"))
        if job.state == "failed":
            conditions.append(
                _condition("Failed", "True", "FailedJobs", "jobset failed due to one or more job failures")
            )
        return 200, content | {"status": {"conditions": conditions}}

    def _pods(self, job: Job) -> list[dict[str, Any]]:
        if job.state in ("created", "suspended"):
            return []
        name, count = job.body["metadata"]["name"], job.body["spec"]["trainer"]["numNodes"]
        codes: list[int | None] = [process.poll() for process in job.processes] or [None] * count
        if not job.processes and job.state == "failed":
            codes = [1, 137][:count]
        return [_pod(f"{name}-node-0-{index}", job.state, code) for index, code in enumerate(codes)]

    def _start(self, job: Job) -> None:
        """One torchrun agent a node, with what the Trainer's torch runtime gives it."""
        trainer = job.body["spec"]["trainer"]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        plain = {item["name"]: item["value"] for item in trainer["env"] if "value" in item}
        references = {item["name"]: item["valueFrom"]["secretKeyRef"] for item in trainer["env"] if "valueFrom" in item}
        secret = {name: self.secrets[ref["name"]][ref["key"]] for name, ref in references.items()}
        for node in range(trainer["numNodes"]):
            given = {
                "PET_NNODES": str(trainer["numNodes"]),
                "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
                "PET_NODE_RANK": str(node),
                "PET_MASTER_ADDR": "127.0.0.1",
                "PET_MASTER_PORT": str(port),
            }
            image = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(self.folder)}
            log = self.folder / f"{job.body['metadata']['name']}-node-0-{node}.log"
            with log.open("wb") as stream:
                process = subprocess.Popen(
                    [*trainer["command"], *trainer["args"]],
                    env={**image, **plain, **secret, **given},
                    cwd=self.folder,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                )
            job.processes.append(process)

    @staticmethod
    def _stop(job: Job) -> None:
        for process in job.processes:
            process.terminate()
        for process in job.processes:
            process.wait(60)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                if server.away:
                    self.connection.close()
                    return
                assert self.headers["authorization"] == f"Bearer {TOKEN}"
                code, content = server.answer(self.command, self.path, body)
                raw = content.encode() if isinstance(content, str) else json.dumps(content).encode()
                self.send_response(code)
                self.send_header("content-type", "text/plain" if isinstance(content, str) else "application/json")
                self.send_header("content-length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            do_GET = do_POST = do_DELETE = _serve  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


def _status(code: int, message: str, name: str) -> dict[str, Any]:
    details = {"name": name, "kind": "trainjobs"}
    return {"kind": "Status", "status": "Failure", "message": message, "details": details, "code": code}


def _condition(kind: str, status: str, reason: str, message: str) -> dict[str, str]:
    at = "2026-01-01T00:00:00Z"
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": at}


def _pod(name: str, state: str, code: int | None) -> dict[str, Any]:
    phase = {"pending": "Pending"}.get(state, "Running" if code is None else "Failed" if code else "Succeeded")
    statuses, conditions = [], []
    if state == "pending":
        message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
        conditions = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]
    else:
        ended = {
            "exitCode": code,
            "reason": "OOMKilled" if code == 137 else "Error" if code else "Completed",
            "finishedAt": "2026-01-01T00:00:01Z" if code == 137 else "2026-01-01T00:00:02Z",
            "containerID": f"here://{name}",
        }
        now = {"running": {}} if code is None else {"terminated": ended}
        facts = {"image": "i", "imageID": "i", "ready": False, "restartCount": 0}
        statuses = [{"name": "node", "state": now, **facts}]
    return {
        "metadata": {"name": name, "uid": f"uid-{name}"},
        "status": {"phase": phase, "conditions": conditions, "containerStatuses": statuses},
    }
