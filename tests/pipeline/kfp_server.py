"""A small server that speaks the v2beta1 routes of Kubeflow Pipelines, strictly, and misbehaves on request.

It keeps what it got. Every body is held against the models of `kfp_server_api`: unknown or mistyped fields are refused,
and a pipeline must be sound by `spec_check`. So a test that passes here says that the request is right by the published
API; it does not say that a cluster would run it.
"""

import json
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kfp_server_api
import yaml
from dateutil.parser import isoparse
from spec_check import faults

API = "/apis/v2beta1"
EPOCH = "1970-01-01T00:00:00Z"
"""What the real server says for a time that has not come."""

GIVEN_BY_SERVER = {"run_id", "state", "created_at", "finished_at", "run_details", "state_history", "recurring_run_id"}
INT64 = {"max_concurrency"}
"""Declared as text, since JSON has no 64-bit numbers; the gateway takes numbers too."""

PAGING = {"page_token", "page_size", "sort_by", "filter"}
QUERIES = {
    "GET /experiments": {*PAGING, "namespace"},
    "GET /runs": {*PAGING, "namespace", "experiment_id"},
    "GET /recurringruns": {*PAGING, "namespace", "experiment_id"},
    "GET /pipelines": {*PAGING, "namespace"},
    "POST /pipelines/upload": {"name", "display_name", "description", "namespace", "tags"},
    "POST /pipelines/upload_version": {"name", "display_name", "pipelineid", "description", "tags"},
}
Json = dict[str, Any]


@dataclass
class Request:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass
class Fault:
    """Something that goes wrong.

    Attributes:
        route: Pattern for `METHOD /path`, the path without the common prefix.
        status: Answer with this status and `body`; 0 to drop the connection.
        body: Text to answer with.
        kind: Content type of the body.
        headers: Further headers.
        seconds: Wait before the answer.
        after: Requests on this route that still work.
        times: Requests that go wrong after that.
    """

    route: str = ".*"
    status: int = 500
    body: str = ""
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0
    after: int = 0
    times: int = 10**9


@dataclass
class Stage:
    """What one look at a run shows.

    Attributes:
        state: Of the run; empty as a new run has none.
        tasks: Name -> state.
        messages: Name -> error; `""` is the run itself.
        known: The server says which pipeline it runs.
        raw: Over the whole answer, in the end.
    """

    state: str = ""
    tasks: Mapping[str, str] = field(default_factory=dict)
    messages: Mapping[str, str] = field(default_factory=dict)
    known: bool = True
    raw: Json = field(default_factory=dict)


class Refusal(Exception):  # noqa: N818 - an answer
    """An answer other than 200."""

    def __init__(self, status: int, message: str, code: int = 3) -> None:
        super().__init__(message)
        self.status, self.content = status, {"error": message, "code": code, "message": message, "details": []}


class KfpServer:
    """The server.

    Args:
        token: Bearer token that it wants; empty for none.
        cookies: Cookies that it wants; empty for none.
        namespace: The one namespace that may be used; empty for a single-user installation.
        tls: Wraps its socket.
    """

    def __init__(self, *, token: str = "", cookies: str = "", namespace: str = "", tls: Any = None) -> None:
        self.token, self.cookies, self.namespace, self.tls = token, cookies, namespace, tls
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.script: Sequence[Stage] = [Stage("SUCCEEDED")]
        self.leave_after: tuple[int, float] | None = None  # requests still to be answered, seconds away
        self.experiments: dict[str, Json] = {}
        self.runs: dict[str, Json] = {}
        self.recurring: dict[str, Json] = {}
        self.pipelines: dict[str, Json] = {}
        self.versions: dict[str, list[Json]] = {}
        self.looks: dict[str, int] = {}
        self._lock = threading.Lock()
        self._http: ThreadingHTTPServer | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}"

    def open(self) -> None:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None: ...

            def _any(self) -> None:
                server._answer(self)

            do_GET = do_POST = do_DELETE = _any  # noqa: N815

        self._http = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._http.daemon_threads = True
        self._http.handle_error = lambda *_: None  # type: ignore[method-assign] # broken connections are on purpose
        if self.tls:
            self._http.socket = self.tls.wrap_socket(self._http.socket, server_side=True)
        self.port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        if self._http:
            self._http.shutdown()
            self._http.server_close()
            self._http = None

    def sent(self, route: str) -> list[Request]:
        """Requests whose `METHOD /path` a pattern matches."""
        return [item for item in self.requests if re.fullmatch(route, f"{item.method} {item.path}")]

    def begin(self, document: Json) -> str:
        """Id of a run that was submitted before."""
        kept = _keep(self.runs, "run_id", {"display_name": "earlier", "pipeline_spec": document, "state": "PENDING"})
        return str(kept["run_id"])

    def _leave(self, seconds: float) -> None:
        self.close()
        time.sleep(seconds)
        self.open()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        split = urlsplit(handler.path)
        raw = handler.rfile.read(int(handler.headers.get("content-length") or 0))
        route = f"{handler.command} {split.path.removeprefix(API)}"
        with self._lock:
            request = Request(
                handler.command,
                split.path.removeprefix(API),
                {key: values[0] for key, values in parse_qs(split.query, keep_blank_values=True).items()},
                {key.lower(): value for key, value in handler.headers.items()},
                raw,
            )
            self.requests.append(request)
            fault = self._fault(route)
        if fault and fault.seconds:
            time.sleep(fault.seconds)
        if fault and not fault.status:
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        if fault:
            _send(handler, fault.status, fault.body.encode(errors="surrogateescape"), fault.kind, fault.headers)
        else:
            try:
                with self._lock:
                    content = self._serve(request, split.path)
                _send(handler, 200, json.dumps(content).encode())
            except Refusal as refusal:
                _send(handler, refusal.status, json.dumps(refusal.content).encode())
        if self.leave_after:
            left, seconds = self.leave_after
            self.leave_after = (left - 1, seconds) if left > 1 else None
            if left <= 1:
                threading.Thread(target=self._leave, args=(seconds,), daemon=True).start()

    def _fault(self, route: str) -> Fault | None:
        for fault in self.faults:
            if not re.fullmatch(fault.route, route):
                continue
            if fault.after:
                fault.after -= 1
            elif fault.times:
                fault.times -= 1
                return fault
        return None

    def _serve(self, request: Request, whole_path: str) -> Json:
        if not whole_path.startswith(API):
            raise Refusal(404, "page not found", 0)
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            raise Refusal(401, "Request header error: the token is not valid", 16)
        if self.cookies and request.headers.get("cookie") != self.cookies:
            raise Refusal(401, "no session", 16)
        route = f"{request.method} {request.path}"
        unknown = set(request.query) - QUERIES.get(route, set())
        if unknown:
            raise Refusal(400, f"unknown query parameters {sorted(unknown)}")
        kind = request.headers.get("content-type", "")
        if kind.startswith("multipart/"):
            request.body = _form(kind, request.body)
        elif request.body:
            try:
                request.body = json.loads(request.body)
            except ValueError:
                raise Refusal(400, "the body is no JSON") from None
        for pattern, method in ROUTES.items():
            found = re.fullmatch(pattern, route)
            if found:
                return method(self, request, *found.groups())  # type: ignore[no-any-return]
        raise Refusal(404, f"no route {route}", 5)

    # Routes

    def _health(self, _: Request) -> Json:
        return {"multi_user": bool(self.namespace)}

    def _list_experiments(self, request: Request) -> Json:
        self._allowed(request.query.get("namespace", ""))
        return _page("experiments", self.experiments, request)

    def _add_experiment(self, request: Request) -> Json:
        _check(request.body, "V2beta1Experiment")
        self._allowed(request.body.get("namespace", ""))
        name = _name(request.body)
        if any(item["display_name"] == name for item in self.experiments.values()):
            raise Refusal(409, f"experiment {name} already exists", 6)
        return _keep(self.experiments, "experiment_id", {**request.body, "storage_state": "AVAILABLE"})

    def _add_run(self, request: Request) -> Json:
        self._check_runnable(request.body, "V2beta1Run")
        return _keep(self.runs, "run_id", {**request.body, "state": "PENDING"})

    def _list_runs(self, request: Request) -> Json:
        return _page("runs", self.runs, request)

    def _get_run(self, _: Request, run_id: str) -> Json:
        run = _found(self.runs, run_id)
        look = self.looks[run_id] = self.looks.get(run_id, -1) + 1
        if run["state"] == "CANCELED":
            return run
        stage = self.script[min(look, len(self.script) - 1)]
        answer = {**run, "state": stage.state, "finished_at": EPOCH, "state_history": []}
        if stage.state in ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED"):
            answer["finished_at"] = _after(run, 3600)
        if not stage.known:
            del answer["pipeline_spec"]
        if stage.messages.get(""):
            answer["error"] = {"code": 13, "message": stage.messages[""]}
        answer["run_details"] = {"task_details": _nodes(run, stage)}
        return {**answer, **stage.raw}

    def _terminate(self, _: Request, run_id: str) -> Json:
        _found(self.runs, run_id)["state"] = "CANCELED"
        return {}

    def _add_recurring(self, request: Request) -> Json:
        self._check_runnable(request.body, "V2beta1RecurringRun")
        cron = request.body.get("trigger", {}).get("cron_schedule", {}).get("cron", "")
        if len(cron.split()) != 6:
            raise Refusal(400, f"cron {cron!r} has not six fields")
        if request.body.get("mode") != "ENABLE" or int(request.body.get("max_concurrency", 0)) < 1:
            raise Refusal(400, "a recurring run needs a mode and a concurrency")
        return _keep(self.recurring, "recurring_run_id", request.body)

    def _list_recurring(self, request: Request) -> Json:
        return _page("recurringRuns", self.recurring, request, experiment_id=request.query.get("experiment_id", ""))

    def _delete_recurring(self, _: Request, identifier: str) -> Json:
        _found(self.recurring, identifier)
        del self.recurring[identifier]
        return {}

    def _list_pipelines(self, request: Request) -> Json:
        self._allowed(request.query.get("namespace", ""))
        return _page("pipelines", self.pipelines, request)

    def _get_pipeline_by_name(self, _: Request, name: str) -> Json:
        for item in self.pipelines.values():
            if item["display_name"] == name:
                return item
        raise Refusal(404, f"pipeline {name} not found", 5)

    def _get_pipeline(self, _: Request, identifier: str) -> Json:
        return _found(self.pipelines, identifier)

    def _list_versions(self, _: Request, identifier: str) -> Json:
        _found(self.pipelines, identifier)
        return {"pipeline_versions": self.versions[identifier], "total_size": len(self.versions[identifier])}

    def _upload(self, request: Request) -> Json:
        _check_upload(request)
        self._allowed(request.query.get("namespace", ""))
        name = request.query.get("name", "")
        if any(item["display_name"] == name for item in self.pipelines.values()):
            raise Refusal(409, f"pipeline {name} already exists", 6)
        kept = _keep(self.pipelines, "pipeline_id", {"display_name": name})
        self._add_version(kept["pipeline_id"], name)
        return kept

    def _upload_version(self, request: Request) -> Json:
        _check_upload(request)
        identifier = request.query.get("pipelineid", "")
        _found(self.pipelines, identifier)
        if any(item["display_name"] == request.query.get("name") for item in self.versions[identifier]):
            raise Refusal(409, "the version already exists", 6)
        return self._add_version(identifier, request.query.get("name", ""))

    # Rules

    def _add_version(self, pipeline_id: str, name: str) -> Json:
        version = {"pipeline_id": pipeline_id, "pipeline_version_id": str(uuid.uuid4()), "display_name": name}
        self.versions.setdefault(pipeline_id, []).append({**version, "created_at": _now()})
        return self.versions[pipeline_id][-1]

    def _allowed(self, namespace: str) -> None:
        if namespace != self.namespace:
            raise Refusal(403, f"User is not authorized in namespace {namespace!r}", 7)

    def _check_runnable(self, body: Any, model: str) -> None:
        _check(body, model)
        _name(body)
        _found(self.experiments, body.get("experiment_id", ""))
        given = GIVEN_BY_SERVER & set(body)
        if given:
            raise Refusal(400, f"{sorted(given)} are the server's to give")
        if ("pipeline_spec" in body) == ("pipeline_version_reference" in body):
            raise Refusal(400, "exactly one of pipeline_spec and pipeline_version_reference is wanted")
        document = body["pipeline_spec"]
        _check_spec(document["pipeline_spec"], document["platform_spec"])


ROUTES = {
    r"GET /healthz": KfpServer._health,
    r"GET /experiments": KfpServer._list_experiments,
    r"POST /experiments": KfpServer._add_experiment,
    r"GET /runs": KfpServer._list_runs,
    r"POST /runs": KfpServer._add_run,
    r"GET /runs/([^/:]+)": KfpServer._get_run,
    r"POST /runs/([^/:]+):terminate": KfpServer._terminate,
    r"GET /recurringruns": KfpServer._list_recurring,
    r"POST /recurringruns": KfpServer._add_recurring,
    r"DELETE /recurringruns/([^/]+)": KfpServer._delete_recurring,
    r"GET /pipelines": KfpServer._list_pipelines,
    r"GET /pipelines/names/([^/]+)": KfpServer._get_pipeline_by_name,
    r"GET /pipelines/([^/]+)": KfpServer._get_pipeline,
    r"GET /pipelines/([^/]+)/versions": KfpServer._list_versions,
    r"POST /pipelines/upload": KfpServer._upload,
    r"POST /pipelines/upload_version": KfpServer._upload_version,
}


@contextmanager
def running(**settings: Any) -> Iterator[KfpServer]:
    """A server, ended with the block."""
    server = KfpServer(**settings)
    server.open()
    try:
        yield server
    finally:
        server.close()


def _nodes(run: Json, stage: Stage) -> list[Json]:
    """The tasks as the real server lists them: the graph's own nodes, and pods around each step."""
    nodes = [_node(run, "sa2net-training-x7k2p", "RUNNING", ""), _node(run, "root", "RUNNING", "")]
    nodes.append(_node(run, "root-driver", "SUCCEEDED", ""))
    for at, (name, state) in enumerate(stage.tasks.items()):
        nodes.append(_node(run, name, state, stage.messages.get(name, ""), 60 * at))
        if not name.startswith("executor") and not name.endswith("-driver"):
            nodes.append(_node(run, f"{name}-driver", "SUCCEEDED", "", 60 * at))
    return nodes


def _node(run: Json, name: str, state: str, message: str, start: int = 0) -> Json:
    ended = state in ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED")
    node = {
        "run_id": run["run_id"],
        "task_id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{run['run_id']}/{name}")),
        "display_name": name,
        "create_time": _after(run, start),
        "start_time": EPOCH if state in ("", "PENDING") else _after(run, start + 12),
        "end_time": _after(run, start + 55) if ended else EPOCH,
        "state": state,
        "state_history": [],
        "child_tasks": [{"pod_name": f"{name}-1"}],
    }
    return {**node, "error": {"code": 13, "message": message}} if message else node


def _page(kind: str, items: Mapping[str, Json], request: Request, **fixed: str) -> Json:
    """A list, filtered; absent where it is empty, as protobuf writes it."""
    text = request.query.get("filter")
    wanted = dict(fixed)
    if text:
        for predicate in json.loads(text)["predicates"]:
            if set(predicate) != {"operation", "key", "stringValue"} or predicate["operation"] not in (1, "EQUALS"):
                raise Refusal(400, f"filter {text} is not understood")
            wanted[predicate["key"]] = predicate["stringValue"]
    found = [item for item in items.values() if all(item.get(key) == value for key, value in wanted.items())]
    return {kind: found, "total_size": len(found)} if found else {}


def _check(body: Any, model: str, place: str = "") -> None:
    """Refuse what a model of the API does not have.

    Raises:
        Refusal: An unknown or mistyped field.
    """
    where = place or model
    kinds = getattr(kfp_server_api, model).openapi_types
    names = {key: attribute for attribute, key in getattr(kfp_server_api, model).attribute_map.items()}
    if not kinds:
        allowed = getattr(kfp_server_api, model).allowable_values
        if body not in allowed:
            raise Refusal(400, f"{where}: {body!r} is none of {allowed}")
        return
    if not isinstance(body, dict):
        raise Refusal(400, f"{where} is no object")
    for key, value in body.items():
        if key not in names:
            raise Refusal(400, f"{where} has no field {key}")
        _check_value(value, kinds[names[key]], f"{where}.{key}", key)


def _check_value(value: Any, kind: str, where: str, key: str) -> None:
    plain = {"str": str, "bool": bool, "int": int, "float": (int, float)}
    if kind.startswith("list["):
        if not isinstance(value, list):
            raise Refusal(400, f"{where} is no list")
        for item in value:
            _check_value(item, kind[5:-1], f"{where}[]", key)
    elif kind.startswith("dict("):
        if not isinstance(value, dict):
            raise Refusal(400, f"{where} is no object")
        for name, item in value.items():
            _check_value(item, kind[5:-1].split(", ")[1], f"{where}.{name}", key)
    elif kind == "datetime":
        try:
            isoparse(value)
        except (TypeError, ValueError):
            raise Refusal(400, f"{where} is no time") from None
    elif kind in plain:
        number = key in INT64 and isinstance(value, int)
        if not isinstance(value, plain[kind]) and not number:
            raise Refusal(400, f"{where} is {type(value).__name__}, not {kind}")
    elif kind != "object":
        _check(value, kind, where)


def _check_spec(spec: Any, platform: Any) -> None:
    found = faults(spec, platform)
    if found:
        raise Refusal(400, f"invalid pipeline: {found[:3]}")


def _check_upload(request: Request) -> None:
    if set(request.body) != {"uploadfile"}:
        raise Refusal(400, f"the form holds {sorted(request.body)}, not uploadfile")
    documents = list(yaml.safe_load_all(request.body["uploadfile"]))
    if len(documents) != 2 or not request.query.get("name"):
        raise Refusal(400, "a name and two documents are wanted")
    _check_spec(*documents)


def _form(kind: str, raw: bytes) -> dict[str, bytes]:
    message = message_from_bytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + raw)
    return {
        str(part.get_param("name", header="content-disposition")): part.get_payload(decode=True)  # type: ignore[misc]
        for part in message.get_payload()
    }


def _name(body: Json) -> str:
    if not body.get("display_name"):
        raise Refusal(400, "display_name is empty")
    return str(body["display_name"])


def _keep(items: dict[str, Json], key: str, content: Json) -> Json:
    identifier = str(uuid.uuid4())
    items[identifier] = {**content, key: identifier, "created_at": _now()}
    return items[identifier]


def _found(items: Mapping[str, Json], identifier: str) -> Json:
    if identifier not in items:
        raise Refusal(404, f"{identifier} not found", 5)
    return items[identifier]


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _after(run: Json, seconds: int) -> str:
    return (isoparse(run["created_at"]) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _send(
    handler: BaseHTTPRequestHandler,
    status: int,
    body: bytes,
    kind: str = "application/json",
    headers: Mapping[str, str] | None = None,
) -> None:
    handler.send_response(status)
    for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)
