"""The lineage of a version as a tree, as W3C PROV, as a bill of materials and as a model card; without a registry."""

import importlib.resources
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import pytest
from closure import code_of
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from lineage_cases import EVALUATION, SECRET, TRAINING, lineage, nothing_known
from packageurl import PackageURL
from prov.model import ProvActivity, ProvAgent, ProvDerivation, ProvDocument, ProvEntity, ProvRelation

from sa2net.artifacts import read_json, write_json
from sa2net.registry.lineage import BOM, PROV, Lineage, bom, card, draw, prov, write
from sa2net.registry.records import Record
from sa2net.registry.revision import code_hashes
from sa2net.registry.scored import Evaluation
from sa2net.registry.versions import Version
from sa2net.steps.evaluate import EVALUATOR


def test_the_tree_names_everything_a_number_depends_on(tmp_path: Path) -> None:
    drawn = draw(lineage(tmp_path))
    for words in (
        "models:/sa2net/2 (champion), registered 2026-01-02T04:00:00+00:00",
        f"run {'a' * 32}, 2026-01-02T03:04:05+00:00 to 2026-01-02T03:14:05+00:00",
        "c" * 40,
        "d" * 32,
        "manifest 222222222222",
        "24 scans of 20 subjects; best epoch by 6 scans of 5 subjects",
        "epochs 9, learning_rate 1e-05",
        "Python 3.11.2, torch 2.14.1, 3 packages, lock 111111111111, no image",
        "cpu, threads 2, processes 2; Example CPU (AVX2, 2 cores); no GPU",
        "validate.split_seed 3, train.seed 7, evaluate.seed 1",
        "fine-tuned from models:/sa2net/1 (model 666666666666)",
        "yes: after epoch 4 of 9 (runs ffffffffffff)",
        "evaluator    eeeeeeeeeeee (sa2net 0.1.0)",
        "6 PHANTOM scans of 6 subjects",
        "promote",
        "2026-01-02T04:00:01+00:00 override",
    ):
        assert words in drawn, drawn
    assert SECRET not in drawn
    assert drawn.splitlines()[1].startswith("├─ ") and any(line.startswith("└─ ") for line in drawn.splitlines())


def test_a_pretrained_backbone_is_named_with_its_licence(tmp_path: Path) -> None:
    facts = TRAINING.facts | {"pretrained_weights": "resnet50.a1_in1k, licence apache-2.0"}
    full = lineage(tmp_path / "full").provenance
    changes = {"network": full.network | {"pretrained": True}, "init_from": "", "parent_model": ""}
    for training, named in ((Record(facts=facts), facts["pretrained_weights"]), (Record(), "unknown")):
        origin = full.model_copy(update={**changes, "training": training})
        told = lineage(tmp_path / named, provenance=origin)
        assert f"trained from scratch but for the backbone: {named}" in draw(told)
        assert f"but for the backbone: {named}" in card.page(told)


def test_what_is_not_known_is_called_unknown(tmp_path: Path) -> None:
    drawn = draw(nothing_known(tmp_path))
    for words in (
        "run unknown, unknown to unknown",
        "code         unknown",
        "manifest unknown",
        "parameters   unknown; unknown: section validate, train, evaluate",
        "environment  unknown",
        "hardware     unknown",
        "seeds        unknown",
        "resumed      unknown",
        "evaluator    unknown",
        "scores       unknown",
        "decision    unknown",
    ):
        assert words in drawn, drawn
    assert "None" not in drawn


def test_uncommitted_changes_are_told(tmp_path: Path) -> None:
    full = lineage(tmp_path)
    dirty = TRAINING.model_copy(update={"facts": {**TRAINING.facts, "dirty": "true", "diff_sha256": "8" * 64}})
    lost = EVALUATION.model_copy(update={"facts": {**EVALUATION.facts, "dirty": "true"}})
    origin = full.provenance.model_copy(update={"training": dirty, "evaluation": lost})
    drawn = draw(lineage(tmp_path / "again", provenance=origin))
    assert f"{'c' * 40}, with uncommitted changes, difference 888888888888" in drawn
    assert f"{'c' * 40}, with uncommitted changes, not kept" in drawn


def test_seeds_and_tags_are_hand_worked(tmp_path: Path) -> None:
    origin = lineage(tmp_path).provenance
    assert origin.seeds() == {"validate.split_seed": 3, "train.seed": 7, "evaluate.seed": 1}
    tags = origin.tags()
    assert tags["seeds"] == "validate.split_seed 3, train.seed 7, evaluate.seed 1"
    assert (tags["training_run"], tags["evaluation_run"]) == ("a" * 32, "b" * 32)
    assert (tags["torch"], tags["device"], tags["gpus"], tags["image"]) == ("2.14.1", "cpu", "", "")
    assert (tags["parent_version"], tags["resumed_after_epoch"]) == ("models:/sa2net/1", "4")
    assert SECRET not in json.dumps(tags)


# W3C PROV -------------------------------------------------------------------------------------------------------------


def prov_schema() -> dict[str, object]:
    place = importlib.resources.files("prov") / "tests" / "schemas" / "prov-json.schema.json"
    schema: dict[str, object] = json.loads(place.read_text(encoding="utf-8"))
    return schema


def parsed(found: Lineage) -> ProvDocument:
    return ProvDocument.deserialize(content=json.dumps(prov.document(found)), format="json")


@pytest.mark.parametrize("case", [lineage, nothing_known])
def test_prov_holds_against_the_published_schema(case, tmp_path: Path) -> None:
    schema = prov_schema()
    validator = jsonschema.validators.validator_for(schema)(schema)
    assert not [error.message for error in validator.iter_errors(prov.document(case(tmp_path)))]


@pytest.mark.parametrize("case", [lineage, nothing_known])
def test_a_reader_of_prov_finds_every_end_of_every_relation(case, tmp_path: Path) -> None:
    document = parsed(case(tmp_path))
    elements = {
        record.identifier for kind in (ProvEntity, ProvActivity, ProvAgent) for record in document.get_records(kind)
    }
    relations = list(document.get_records(ProvRelation))
    assert relations
    for relation in relations:
        for name, end in relation.formal_attributes:
            if end is not None and "time" not in str(name).lower():
                assert end in elements, (relation, name)
    generated = [
        str(relation.formal_attributes[0][1]) for relation in relations if "Generation" in type(relation).__name__
    ]
    assert len(generated) == len(set(generated)), "PROV: an entity is generated by one activity"


def test_prov_leads_from_the_version_to_data_code_settings_and_parent(tmp_path: Path) -> None:
    document = parsed(lineage(tmp_path))
    edges: dict[str, set[str]] = {}
    for relation in document.get_records(ProvRelation):
        ends = [str(end) for _, end in relation.formal_attributes[:2]]
        edges.setdefault(ends[0], set()).add(ends[1])
    reached, waiting = set(), ["id:version-sa2net-2"]
    while waiting:
        node = waiting.pop()
        reached.add(node)
        waiting += edges.get(node, set()) - reached
    wanted = {
        f"id:model-{'3' * 64}",
        f"id:training-{'a' * 32}",
        f"id:training-{'f' * 32}",
        f"id:data-{'d' * 32}.dir",
        f"id:manifest-{'2' * 64}",
        f"id:code-{'c' * 40}",
        f"id:environment-{'1' * 64}",
        f"id:model-{'6' * 64}",
        f"id:settings-train-{'3' * 64}",
        f"id:scores-{'b' * 32}",
        "id:sa2net-0.1.0",
    }
    assert wanted <= reached
    [training] = document.get_record(f"id:training-{'a' * 32}")
    assert training.get_startTime().isoformat() == "2026-01-02T03:04:05+00:00"
    parents = [relation for relation in document.get_records(ProvDerivation) if "6666" in str(relation)]
    assert parents
    [settings] = document.get_record(f"id:settings-train-{'3' * 64}")
    values = {name.localpart: value for name, value in settings.attributes}
    assert (values["seed"], values["loss.dice"], values["init_from"]) == ("7", "0.7", "models:/sa2net/1")


def test_no_path_of_somebodys_machine_is_in_a_public_document(tmp_path: Path) -> None:
    found = lineage(tmp_path)
    origin = found.provenance.model_copy(update={"parent_version": ""})
    found = lineage(tmp_path / "again", provenance=origin)
    for file in write(found, tmp_path / "out"):
        assert SECRET not in file.read_text(encoding="utf-8"), file.name
        assert str(tmp_path) not in file.read_text(encoding="utf-8"), file.name


def test_odd_names_stay_one_identifier(tmp_path: Path) -> None:
    found = lineage(tmp_path, version=Version("a b:c/ü", 1, "3" * 64))
    document = parsed(found)
    assert document.get_record("id:version-a%20b%3Ac%2F%C3%BC-1")


# CycloneDX ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [lineage, nothing_known])
def test_the_bill_of_materials_holds_against_cyclonedx_1_6(case, tmp_path: Path) -> None:
    found = bom.document(case(tmp_path))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(found)) is None
    broken = {**found, "metadata": {**found["metadata"], "component": {**found["metadata"]["component"], "type": "x"}}}
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(broken)) is not None


def test_the_bill_of_materials_holds_model_data_code_and_packages(tmp_path: Path) -> None:
    found = bom.document(lineage(tmp_path))
    model = found["metadata"]["component"]
    assert (model["type"], model["name"], model["version"]) == ("machine-learning-model", "sa2net", "2")
    assert model["hashes"] == [{"alg": "SHA-256", "content": "4" * 64}]
    data, code, *packages = found["components"]
    assert (data["type"], data["hashes"]) == ("data", [{"alg": "MD5", "content": "d" * 32}])
    assert "phantom" in data["data"][0]["classification"]
    assert {"name": "sa2net:commit", "value": "c" * 40} in code["properties"]
    urls = [PackageURL.from_string(package["purl"]) for package in packages]
    assert [(url.type, url.name, url.version) for url in urls] == [
        ("pypi", "numpy", "2.4.6"),
        ("pypi", "ruamel.yaml", "0.19.1"),
        ("pypi", "torch-thing", "2.0+cpu"),
    ]
    references = {item["bom-ref"] for item in (model, *found["components"])}
    assert {item["ref"] for item in found["dependencies"]} == references
    assert all(set(item.get("dependsOn", ())) <= references for item in found["dependencies"])
    metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert all("phantom" in metric["slice"] for metric in metrics)
    mean = next(metric for metric in metrics if metric["type"] == "Dice")
    assert float(mean["confidenceInterval"]["lowerBound"]) < float(mean["value"])


def test_the_same_version_has_the_same_serial_number_and_another_another(tmp_path: Path) -> None:
    first, second = (bom.document(lineage(tmp_path / name))["serialNumber"] for name in ("a", "b"))
    other = bom.document(lineage(tmp_path / "c", version=Version("sa2net", 3, "3" * 64)))["serialNumber"]
    assert first == second != other


# The model card -------------------------------------------------------------------------------------------------------


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def test_the_page_loads_nothing_and_takes_nothing_for_markup(tmp_path: Path) -> None:
    text = card.page(lineage(tmp_path))
    tags = _Tags()
    tags.feed(text)
    names = {name for name, _ in tags.seen}
    assert "script" not in names and "b" not in names
    policy = [attributes["content"] for name, attributes in tags.seen if attributes.get("http-equiv")]
    assert policy and policy[0] is not None and "default-src 'none'" in policy[0]
    assert not re.findall(r"https?://|src=|@import|url\(", text)
    assert "&lt;script&gt;" in text and "&lt;b&gt;A|B&lt;/b&gt;" in text


def test_the_page_says_phantom_with_every_table_and_research_use_only(tmp_path: Path) -> None:
    text = card.page(lineage(tmp_path))
    for words in ("Research use only", "Phantom data", "Scores on phantoms", "By device, phantoms", "6 phantom scans"):
        assert words in text
    real = lineage(tmp_path / "real")
    origin = real.provenance.model_copy(update={"phantom": False})
    scores = real.evaluation.scores.model_copy(update={"phantom": False})
    real = lineage(tmp_path / "again", provenance=origin, evaluation=Evaluation(tmp_path, scores))
    assert "hantom" not in card.page(real) and "hantom" not in card.markdown(real)
    assert "Research use only" in card.page(real) and "Research use only" in card.markdown(real)


def test_the_markdown_has_the_numbers_of_the_scores_in_whole_tables(tmp_path: Path) -> None:
    found = lineage(tmp_path)
    text = card.markdown(found)
    blocks = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(blocks) == 5  # facts, scores, device, severity, sources
    for block in blocks:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block
    mean = found.evaluation.scores.mean.dice
    assert f"| mean | {mean.value:.3f} ({mean.low:.3f} to {mean.high:.3f}) |" in text
    assert r"| \<b\>A\|B\</b\> | 3 | 2 | 0.800 (0.700 to 0.900) | – | – | – |" in text  # noqa: RUF001
    assert "\n\n\n" not in text


@pytest.mark.parametrize("render", [card.page, card.markdown])
def test_a_card_without_scores_says_so(render, tmp_path: Path) -> None:
    text = render(nothing_known(tmp_path))
    assert "scores of this version are lost" in text and "No decision is kept" in text
    assert "None" not in text


def test_everything_is_written_and_json_can_be_read_again(tmp_path: Path) -> None:
    files = write(lineage(tmp_path), tmp_path / "out")
    assert {file.name for file in files} == {PROV, BOM, card.PAGE, card.MARKDOWN}
    assert (
        read_json(tmp_path / "out" / PROV)["prefix"] and read_json(tmp_path / "out" / BOM)["bomFormat"] == "CycloneDX"
    )
    write_json(tmp_path / "copy.json", prov.document(lineage(tmp_path / "same")))
    assert (tmp_path / "copy.json").read_bytes() == (tmp_path / "out" / PROV).read_bytes()


# Evaluator ------------------------------------------------------------------------------------------------------------


def test_the_evaluators_version_covers_all_code_that_scores() -> None:
    beside = ("sa2net/registry/", "sa2net/data/store/", "sa2net/__init__.py", "sa2net/steps/__init__.py")
    no_number = ("sa2net/data/__init__.py", "sa2net/errors.py", "sa2net/termination.py")
    needed = {
        file.removeprefix("sa2net/")
        for file in code_of("evaluate")
        if file.endswith(".py") and not file.startswith(beside) and file not in no_number
    }
    assert needed <= set(code_hashes(EVALUATOR))
