"""The lineage of a version as W3C PROV, in its JSON form.

Form: PROV-JSON (W3C member submission, 24 April 2013); meaning: PROV-DM. A model is an entity that the activity *training*
made from entities (data set, manifest, settings, code, starting weights) in an environment; its scores are an entity that
*evaluation* made from it; the decision one that *registration* made from the scores. Identifiers come from content or from
MLflow's ids: two documents about the same things use the same ones. No person, host or path is named.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from sa2net.registry.lineage.trace import Lineage
from sa2net.registry.records import Record

VOCABULARY = "urn:sa2net:vocabulary:"
IDENTIFIERS = "urn:sa2net:id:"

Attributes = dict[str, Any]


class Document:
    """A PROV document while it is put together: every record by its kind and identifier."""

    def __init__(self) -> None:
        self._content: dict[str, Any] = {"prefix": {"sa2net": VOCABULARY, "id": IDENTIFIERS}}

    def entity(self, identifier: str, label: str, kind: str, **attributes: str) -> str:
        """A thing: data, code, a model, scores."""
        return self._add("entity", identifier, {"prov:label": label, "prov:type": _name(kind), **_ours(attributes)})

    def activity(self, identifier: str, label: str, record: Record, **attributes: str) -> str:
        """Something that a run did, with its times where they are known."""
        times = {"prov:startTime": record.get("started"), "prov:endTime": record.get("ended")}
        known = {name: time for name, time in times.items() if time}
        return self._add("activity", identifier, {"prov:label": label, **known, **_ours(attributes)})

    def software(self, identifier: str, label: str, **attributes: str) -> str:
        """A program that bears responsibility."""
        kind = {"$": "prov:SoftwareAgent", "type": "prov:QUALIFIED_NAME"}
        return self._add("agent", identifier, {"prov:label": label, "prov:type": kind, **_ours(attributes)})

    def relate(self, kind: str, role: str = "", **ends: str) -> None:
        """A relation between two records, such as `used` from an activity to an entity.

        Args:
            kind: Its name in PROV.
            role: What the thing was to the activity.
            ends: Role in PROV, such as entity and activity -> identifier.
        """
        relations = self._content.setdefault(kind, {})
        body: Attributes = {f"prov:{end}": identifier for end, identifier in ends.items()}
        if role:
            body["prov:role"] = _name(role)
        relations[f"_:{kind}{len(relations) + 1}"] = body

    def to_dict(self) -> dict[str, Any]:
        """The document as plain JSON types."""
        return self._content

    def _add(self, kind: str, identifier: str, attributes: Attributes) -> str:
        self._content.setdefault(kind, {})[identifier] = attributes
        return identifier


def document(found: Lineage) -> dict[str, Any]:
    """The PROV document of a version, as plain JSON types."""
    prov = Document()
    model = _model(prov, found)
    _trained(prov, found, model)
    scores = _scored(prov, found, model)
    _registered(prov, found, model, scores)
    return prov.to_dict()


def _model(prov: Document, found: Lineage) -> str:
    origin = found.provenance
    model = prov.entity(
        _id("model", origin.model_sha256),
        f"model folder {origin.model_sha256[:12]}",
        "Model",
        sha256=origin.model_sha256,
        weightsSha256=origin.weights_sha256,
        use="research use only",
    )
    version = prov.entity(
        _id("version", f"{found.version.name}-{found.version.number}"),
        found.version.uri,
        "RegisteredVersion",
        aliases=", ".join(found.aliases),
        registered=found.registered,
    )
    prov.relate("specializationOf", specificEntity=version, generalEntity=model)
    return model


def _trained(prov: Document, found: Lineage, model: str) -> None:
    origin, record = found.provenance, found.provenance.training
    training = prov.activity(_id("training", record.run_id or origin.model_sha256), "training", record, **_run(record))
    prov.relate("wasGeneratedBy", entity=model, activity=training)
    data = _data(prov, origin.data_md5)
    prov.relate("used", role="data", activity=training, entity=data)
    prov.relate("wasDerivedFrom", generatedEntity=model, usedEntity=data)
    if origin.manifest_sha256:
        identifier = _id("manifest", origin.manifest_sha256)
        manifest = prov.entity(identifier, "manifest with the splits", "Manifest", sha256=origin.manifest_sha256)
        prov.relate("used", role="splits", activity=training, entity=manifest)
        prov.relate("wasDerivedFrom", generatedEntity=manifest, usedEntity=data)
    _settings(prov, training, "train", origin.settings("train"), origin.model_sha256)
    _made_with(prov, training, record)
    if origin.parent_model:
        parent = prov.entity(
            _id("model", origin.parent_model),
            origin.parent_version or "starting weights",
            "Model",
            sha256=origin.parent_model,
        )
        prov.relate("used", role="startingWeights", activity=training, entity=parent)
        prov.relate("wasDerivedFrom", generatedEntity=model, usedEntity=parent)
    for run in origin.earlier_runs:
        earlier = prov.activity(_id("training", run), "the same training, interrupted", Record(run_id=run), run=run)
        prov.relate("wasInformedBy", informed=training, informant=earlier)


def _scored(prov: Document, found: Lineage, model: str) -> str:
    """Add the evaluation; return its scores, empty where they are lost."""
    if found.evaluation is None:
        return ""
    origin, record, scores = found.provenance, found.provenance.evaluation, found.evaluation.scores
    identifier = record.run_id or record.get("scores_sha256") or origin.model_sha256
    more = {"evaluatorSha256": record.get("evaluator_sha256")}
    evaluation = prov.activity(_id("evaluation", identifier), "evaluation", record, **_run(record), **more)
    numbers = {} if scores.mean.dice is None else {"meanForegroundDice": repr(scores.mean.dice.value)}
    entity = prov.entity(
        _id("scores", identifier),
        f"scores on {scores.scans} {'phantom ' if scores.phantom else ''}scans of the {scores.split} split",
        "Scores",
        phantom=str(scores.phantom).lower(),
        sha256=record.get("scores_sha256"),
        **numbers,
    )
    prov.relate("wasGeneratedBy", entity=entity, activity=evaluation)
    prov.relate("used", role="model", activity=evaluation, entity=model)
    prov.relate("used", role="data", activity=evaluation, entity=_data(prov, scores.data_md5))
    prov.relate("wasDerivedFrom", generatedEntity=entity, usedEntity=model)
    _settings(prov, evaluation, "evaluate", origin.settings("evaluate"), identifier)
    _made_with(prov, evaluation, record)
    return entity


def _registered(prov: Document, found: Lineage, model: str, scores: str) -> None:
    run = found.version.tags.get("register_run", "")
    identifier = run or f"{found.version.name}-{found.version.number}"
    registration = prov.activity(_id("registration", identifier), "registration", Record(run_id=run), run=run)
    version = _id("version", f"{found.version.name}-{found.version.number}")
    prov.relate("wasGeneratedBy", entity=version, activity=registration)
    prov.relate("used", role="model", activity=registration, entity=model)
    if scores:
        prov.relate("used", role="scores", activity=registration, entity=scores)
    if found.decision:
        decided = found.version.tags.get("decision_run", "") or identifier
        decision = prov.entity(
            _id("decision", decided),
            f"decision: {found.decision['verdict']}",
            "Decision",
            verdict=found.decision["verdict"],
        )
        gate = registration
        if decided != run:
            gate = prov.activity(_id("registration", decided), "decision", Record(run_id=decided), run=decided)
        prov.relate("wasGeneratedBy", entity=decision, activity=gate)
        if scores:
            prov.relate("wasDerivedFrom", generatedEntity=decision, usedEntity=scores)


def _made_with(prov: Document, activity: str, record: Record) -> None:
    """Add code, program and environment of a run."""
    if record.get("revision"):
        state = record.get("revision") + (f"-{record.get('diff_sha256')[:16]}" if record.get("diff_sha256") else "")
        dirty = record.get("dirty")
        code = prov.entity(
            _id("code", state),
            f"code at {record.get('revision')[:12]}" + (" with uncommitted changes" if dirty == "true" else ""),
            "Code",
            commit=record.get("revision"),
            dirty=dirty,
            diffSha256=record.get("diff_sha256"),
        )
        prov.relate("used", role="code", activity=activity, entity=code)
    if record.get("lock_sha256"):
        names = {"python": "python", "torch": "package.torch", "image": "image", "lockSha256": "lock_sha256"}
        known = {name: record.get(fact) for name, fact in names.items()}
        identity = "-".join(filter(None, (record.get("lock_sha256"), record.get("image"))))
        environment = prov.entity(_id("environment", identity), "installed packages", "Environment", **known)
        prov.relate("used", role="environment", activity=activity, entity=environment)
    package = record.get("sa2net_version") or "unknown"
    agent = prov.software(_id("sa2net", package), f"sa2net {package}", version=package)
    prov.relate("wasAssociatedWith", activity=activity, agent=agent)


def _settings(prov: Document, activity: str, section: str, values: Mapping[str, Any], identity: str) -> None:
    if not values:
        return
    flat = {name: str(value) for name, value in _flatten(values)}
    settings = prov.entity(_id("settings", f"{section}-{identity}"), f"settings of {section}", "Settings", **flat)
    prov.relate("used", role="settings", activity=activity, entity=settings)


def _flatten(values: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        found += _flatten(value, f"{before}{name}.") if isinstance(value, Mapping) else [(before + name, value)]
    return found


def _data(prov: Document, md5: str) -> str:
    return prov.entity(_id("data", md5), f"data set {md5[:12]}", "DataSet", dvcMd5=md5)


def _run(record: Record) -> dict[str, str]:
    machine = ("device", "threads", "processes", "cpu", "cpu_capability", "cores", "memory_gb", "gpus", "system")
    return {"run": record.run_id, **{name: record.get(name) for name in machine}}


def _id(kind: str, identity: str) -> str:
    return f"id:{kind}-{quote(identity, safe='')}"


def _name(local: str) -> Attributes:
    return {"$": f"sa2net:{local}", "type": "prov:QUALIFIED_NAME"}


def _ours(attributes: Mapping[str, str]) -> Attributes:
    return {f"sa2net:{name}": value for name, value in attributes.items() if value}
