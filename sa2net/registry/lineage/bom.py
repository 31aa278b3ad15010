"""The bill of materials of a version, in the form of CycloneDX 1.6 for machine learning (ML-BOM).

The model is the subject, with its model card; the data set and the code that it was made from, and every package of the
training, are components with their hashes. https://cyclonedx.org/docs/1.6/json/
"""

import uuid
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import sa2net
from sa2net.anatomy import FOREGROUND
from sa2net.artifacts import Estimate, Scores
from sa2net.registry.lineage import words
from sa2net.registry.lineage.trace import Lineage, Subgroup

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:sa2net:model")
_MODEL, _DATA, _CODE = "model", "data", "code"

Json = dict[str, Any]


def document(found: Lineage) -> Json:
    """The bill of materials of a version, as plain JSON types."""
    packages = [_package(line) for line in found.packages]
    code = _code(found)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid.uuid5(_NAMESPACE, f"{found.version.uri} {found.provenance.model_sha256}").urn,
        "version": 1,
        "metadata": {
            "timestamp": found.registered,
            "tools": {"components": [{"type": "application", "name": "sa2net", "version": sa2net.__version__}]},
            "component": _model(found),
        },
        "components": [_data(found), code, *packages],
        "dependencies": [
            {"ref": _MODEL, "dependsOn": [_DATA, _CODE]},
            {"ref": _DATA},
            {"ref": _CODE, "dependsOn": [package["bom-ref"] for package in packages]},
            *({"ref": package["bom-ref"]} for package in packages),
        ],
    }


def _model(found: Lineage) -> Json:
    origin = found.provenance
    facts = {
        "modelSha256": origin.model_sha256,
        "researchUseOnly": "true",
        "phantom": str(found.phantom).lower(),
        "manifestSha256": origin.manifest_sha256,
        "trainingRun": origin.training.run_id,
        "evaluationRun": origin.evaluation.run_id,
        "evaluatorSha256": origin.evaluation.get("evaluator_sha256"),
        "parentModel": origin.parent_model,
        "lockSha256": origin.training.get("lock_sha256"),
        "image": origin.training.get("image"),
        **{f"seed.{name}": str(seed) for name, seed in origin.seeds().items()},
    }
    return {
        "type": "machine-learning-model",
        "bom-ref": _MODEL,
        "name": found.version.name,
        "version": str(found.version.number),
        "description": words.ABOUT,
        "hashes": [{"alg": "SHA-256", "content": origin.weights_sha256}],
        "modelCard": _card(found),
        "properties": _properties(facts),
    }


def _card(found: Lineage) -> Json:
    network = found.provenance.network
    card: Json = {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "semantic segmentation",
            "architectureFamily": "SA2Net",
            "modelArchitecture": f"SA2Net, backbone {network.get('backbone')}, {network.get('channels')} channels",
            "datasets": [{"ref": _DATA}],
            "inputs": [{"format": words.INPUT}],
            "outputs": [{"format": words.OUTPUT}],
        },
        "considerations": {
            "users": list(words.USERS),
            "useCases": list(words.USES),
            "technicalLimitations": words.limits(found),
            "ethicalConsiderations": [{"name": name, "mitigationStrategy": cure} for name, cure in words.RISKS],
        },
    }
    if found.evaluation is not None:
        metrics = _metrics(found.evaluation.scores) + _group_metrics(found.subgroups, phantom=found.phantom)
        card["quantitativeAnalysis"] = {"performanceMetrics": metrics}
    return card


def _metrics(scores: Scores) -> list[Json]:
    kind = "phantom " if scores.phantom else ""
    rows = {"mean over classes": scores.mean, **{item.label: scores.per_class[item.name] for item in FOREGROUND}}
    names = {"dice": "Dice", "iou": "IoU", "nsd": "NSD", "hd95": f"HD95 ({scores.unit})"}
    return [
        _metric(names[metric], getattr(row, metric), f"{kind}{scores.split} split, {label}")
        for label, row in rows.items()
        for metric in names
        if getattr(row, metric) is not None
    ]


def _group_metrics(subgroups: Sequence[Subgroup], *, phantom: bool) -> list[Json]:
    kind = "phantom scans, " if phantom else ""
    return [_metric("Dice", row.dice, f"{kind}{row.column} {row.group}, {row.class_name}") for row in subgroups]


def _metric(name: str, estimate: Estimate, part: str) -> Json:
    metric: Json = {"type": name, "value": repr(estimate.value), "slice": part}
    if estimate.low is not None and estimate.high is not None:
        metric["confidenceInterval"] = {"lowerBound": repr(estimate.low), "upperBound": repr(estimate.high)}
    return metric


def _data(found: Lineage) -> Json:
    origin = found.provenance
    contents = {"dvcMd5": origin.data_md5, "manifestSha256": origin.manifest_sha256}
    kind = "synthetic (phantom)" if found.phantom else "scans; taken to be of people unless the data set says otherwise"
    dataset = {
        "type": "dataset",
        "name": "ultrasound volume projection images with masks",
        "contents": {"properties": _properties(contents)},
        "classification": kind,
    }
    return {
        "type": "data",
        "bom-ref": _DATA,
        "name": "data set",
        "version": origin.data_md5,
        "hashes": [{"alg": "MD5", "content": origin.data_md5.removesuffix(".dir")}],
        "data": [dataset],
    }


def _code(found: Lineage) -> Json:
    record = found.provenance.training
    facts = {"commit": record.get("revision"), "dirty": record.get("dirty"), "diffSha256": record.get("diff_sha256")}
    return {
        "type": "application",
        "bom-ref": _CODE,
        "name": "sa2net",
        "version": record.get("sa2net_version") or "unknown",
        "licenses": [{"license": {"id": "Apache-2.0"}}],
        "properties": _properties({**facts, "python": record.get("python")}),
    }


def _package(line: str) -> Json:
    """A component from `name==version`; its package URL has the name in the form that PyPI compares."""
    name, _, version = line.partition("==")
    url = f"pkg:pypi/{name.lower().replace('_', '-')}@{quote(version, safe='.')}"
    return {"type": "library", "bom-ref": url, "name": name, "version": version, "purl": url}


def _properties(facts: dict[str, str]) -> list[Json]:
    return [{"name": f"sa2net:{name}", "value": value} for name, value in facts.items() if value]
