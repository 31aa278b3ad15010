"""From real steps to a registered version, and from its name back to everything that made it."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from registry_cases import write_model_folder

from sa2net.artifacts import MANIFEST, RUN_JSON, SCORES, SUBGROUPS, file_sha256, folder_sha256, read_json, write_json
from sa2net.cli import cli
from sa2net.config import Config
from sa2net.data.store import data_md5
from sa2net.errors import ConfigError, StorageError
from sa2net.registry import environment, lineage, provenance, scored, store
from sa2net.registry.lineage import Lineage
from sa2net.registry.versions import register_version
from sa2net.steps import evaluate, register, train, validate

SETTINGS = [
    "train.epochs=2",
    "train.validate_every=1",
    "train.warmup_epochs=0",
    "train.sweep_width=48",
    "train.crops_per_scan=1",
    "train.augment.crop_height=64",
    "train.augment.crop_width=64",
    "train.model.channels=16",
    "train.threads=1",
    "train.init_from=",  # the ready weights are of another network; runs keep what was meant
    "train.learning_rate=0.002",  # and the rate that follows from it
    "train.seed=7",
    "evaluate.threads=1",
    "evaluate.bootstrap_samples=100",
    "evaluate.overlays=0",
    "evaluate.seed=5",
    "validate.val_fraction=0.25",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store of its own for all tests, made once."""
    folder = tmp_path_factory.mktemp("lineage")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
            patch.delenv(name, raising=False)
        patch.setenv("SA2NET_VAR", str(folder / "var"))
        yield folder


@pytest.fixture(scope="module")
def client(place: Path) -> MlflowClient:
    return store.connect()


@pytest.fixture(scope="module")
def data(place: Path, shared_data_root: Path) -> Path:
    """The shared data set with two devices and two severities."""
    root = place / "data"
    shutil.copytree(shared_data_root, root)
    lines = (root / "scans.csv").read_text(encoding="utf-8").splitlines()
    rows = [
        line.replace("factory", f"probe {number % 2}") + f",{('mild', 'severe')[number % 2]}"
        for number, line in enumerate(lines[1:])
    ]
    (root / "scans.csv").write_text("\n".join([f"{lines[0]},severity", *rows]) + "\n", encoding="utf-8")
    return root


def make(place: Path, data: Path, *overrides: str) -> Path:
    """Validate, train, evaluate into `place`."""
    cfg = Config.load(None, [*SETTINGS, *overrides])
    validate.run(cfg.validate, data=data, out=place / "validate", progress=False)
    folders = {"validation": place / "validate", "out": place / "train", "checkpoints": place / "checkpoints"}
    train.run(cfg.train, data=data, **folders, progress=False)
    evaluate.run(cfg.evaluate, data=data, model=place / "train" / "model", out=place / "evaluate", progress=False)
    return place


def registered(build: Path, name: str, client: MlflowClient, scratch: Path, *overrides: str) -> Lineage:
    """Register what lies in `build`, and read it back."""
    cfg = Config.load(None, [f"register.name={name}", "register.bootstrap_samples=100", *overrides])
    folders = {"model": build / "train" / "model", "evaluation": build / "evaluate"}
    done = register.run(cfg.register, **folders, out=scratch / "register")
    return lineage.read(client, lineage.find(client, done.uri), scratch / "read")


@pytest.fixture(scope="module")
def build(place: Path, data: Path) -> Path:
    return make(place / "build", data)


@pytest.fixture
def found(build: Path, client: MlflowClient, tmp_path: Path) -> Lineage:
    return registered(build, "whole", client, tmp_path)


def copied(build: Path, place: Path) -> Path:
    """The folders as DVC restores them: outputs alone."""
    shutil.copytree(build, place)
    for file in place.rglob(RUN_JSON):
        file.unlink()
    return place


def test_a_version_knows_what_made_it(found: Lineage, build: Path, data: Path) -> None:
    origin, tags = found.provenance, found.version.tags
    assert origin.model_sha256 == folder_sha256(build / "train" / "model") == found.version.model_sha256
    assert origin.data_md5 == origin.scored_data_md5 == data_md5(data)
    assert origin.manifest_sha256 == file_sha256(build / "validate" / MANIFEST) == tags["manifest_sha256"]
    assert origin.params["train"]["epochs"] == 2
    assert origin.params == {**Config.load(None, SETTINGS).to_dict(), "register": origin.params["register"]}
    assert origin.params["register"]["name"] == "whole"
    assert origin.seeds()["train.seed"] == 7 and "evaluate.seed 5" in tags["seeds"]
    facts = environment.describe()
    for record, folder in ((origin.training, "train"), (origin.evaluation, "evaluate")):
        assert record.run_id == read_json(build / folder / RUN_JSON)["run_id"] != ""
        assert record.get("lock_sha256") == facts.lock_sha256
        assert record.get("python") == facts.python and record.get("package.torch")
        assert record.get("revision") == (facts.revision.commit or "unknown")
        assert record.get("dirty") == str(facts.revision.dirty).lower()
        assert (record.get("device"), record.get("threads")) == ("cpu", "1")
        assert record.get("started") <= record.get("ended")
    assert [origin.training.get(f"{split}_{what}") for split in ("train", "val") for what in ("scans", "subjects")] == [
        "6", "6", "2", "2",
    ]  # fmt: skip
    assert origin.evaluation.get("evaluator_sha256") == tags["evaluator_sha256"] != ""
    assert (origin.training.get("resumed_after_epoch"), origin.parent_model) == ("0", "")
    assert tuple(found.packages) == environment.installed_packages()
    assert found.decision["verdict"] == tags["verdict"]
    assert {row.group for row in found.subgroups if row.column == "severity"} <= {"mild", "severe"}
    assert found.history


def test_uncommitted_changes_are_kept_whole(found: Lineage) -> None:
    state = environment.describe().revision  # of the checkout that the tests run in, clean or not
    assert found.diffs == ({state.diff_sha256: f"{state.diff}\n"} if state.diff else {})


def test_subgroups_are_those_of_the_scans(build: Path, found: Lineage) -> None:
    lines = (build / "evaluate" / SUBGROUPS).read_text(encoding="utf-8").splitlines()
    assert lines[0] == "column,group,scans,subjects,class,dice,low,high"
    devices = [row for row in found.subgroups if row.column == "device" and row.class_name == "mean"]
    assert sum(row.scans for row in devices) == found.evaluation.scores.scans == 3
    weighted = sum(row.dice.value * row.scans for row in devices) / 3
    assert weighted == pytest.approx(found.evaluation.scores.mean.dice.value, abs=2e-6)


def test_restored_outputs_find_their_runs_by_content(build: Path, client: MlflowClient, tmp_path: Path) -> None:
    again = registered(copied(build, tmp_path / "build"), "restored", client, tmp_path)
    origin = again.provenance
    assert origin.training.run_id == read_json(build / "train" / RUN_JSON)["run_id"]
    assert origin.evaluation.run_id == read_json(build / "evaluate" / RUN_JSON)["run_id"]
    assert origin.params == {**Config.load(None, SETTINGS).to_dict(), "register": origin.params["register"]}
    assert origin.manifest_sha256 == file_sha256(build / "validate" / MANIFEST)


def test_a_run_json_of_another_content_does_not_count(build: Path, client: MlflowClient, tmp_path: Path) -> None:
    stale = copied(build, tmp_path / "build")
    other = {"step": "train", "run_id": "e" * 32, "model_sha256": "0" * 64, "revision": "f" * 40}
    write_json(stale / "train" / RUN_JSON, other)
    write_json(stale / "evaluate" / RUN_JSON, {**other, "step": "evaluate", "scores_sha256": "0" * 64})
    origin = registered(stale, "stale", client, tmp_path).provenance
    assert origin.training.run_id == read_json(build / "train" / RUN_JSON)["run_id"]
    assert origin.evaluation.run_id == read_json(build / "evaluate" / RUN_JSON)["run_id"]
    assert origin.training.get("revision") != "f" * 40


def test_runs_that_mlflow_does_not_have_are_told_by_run_json(build: Path, client: MlflowClient, tmp_path: Path) -> None:
    elsewhere = copied(build, tmp_path / "build")
    for step in ("train", "evaluate"):
        said = read_json(build / step / RUN_JSON) | {"run_id": "e" * 32, "run_key": "nobody", "revision": "f" * 40}
        write_json(elsewhere / step / RUN_JSON, said)
    origin = registered(elsewhere, "elsewhere", client, tmp_path).provenance
    for record in (origin.training, origin.evaluation):
        assert (record.run_id, record.get("revision")) == ("e" * 32, "f" * 40)
        assert (record.get("device"), record.get("threads"), record.get("dirty") != "") == ("cpu", "1", True)
    assert origin.params["evaluate"]["seed"] == 5 and origin.params["validate"]["val_fraction"] == 0.25


def test_nothing_but_the_folders(data: Path, client: MlflowClient, tmp_path: Path) -> None:
    """A model that no run of this registry made: what the folders say is known, the rest is called unknown."""
    build = tmp_path / "build"
    model = write_model_folder(build / "train" / "model", seed=31, data_md5="1" * 32)
    cfg = Config.load(None, SETTINGS).evaluate
    evaluate.score_model(cfg, data=data, model=model, out=build / "evaluate", progress=False)
    found = registered(build, "bare", client, tmp_path)
    origin = found.provenance
    assert (origin.training.run_id, origin.training.facts, origin.evaluation.facts) == ("", {}, {})
    assert (origin.data_md5, origin.scored_data_md5) == ("1" * 32, data_md5(data))
    assert origin.params["evaluate"] == {} and origin.params["train"]
    assert (found.version.tags["training_revision"], found.version.tags["lock_sha256"]) == ("", "")
    drawn = lineage.draw(found)
    assert "code         unknown" in drawn and "hardware     unknown" in drawn
    assert "other than trained on" in drawn
    assert len(lineage.write(found, tmp_path / "out")) == 4


def test_an_interrupted_and_fine_tuned_training_names_its_parents(
    build: Path, place: Path, data: Path, client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = registered(build, "parent", client, tmp_path / "parent")
    tuned = [f"train.init_from={parent.version.uri}", "train.seed=8"]
    told = train._Observer.epoch_ended

    def interrupted(self: train._Observer, row: dict[str, float]) -> None:
        told(self, row)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train._Observer, "epoch_ended", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "build", data, *tuned)
    [killed] = client.search_runs([store.experiment_id(client)], "attributes.status = 'KILLED'")
    origin = registered(make(tmp_path / "build", data, *tuned), "tuned", client, tmp_path).provenance
    assert origin.init_from == parent.version.uri
    assert origin.parent_model == parent.version.model_sha256
    assert origin.parent_version == parent.version.uri
    assert (origin.training.get("resumed_after_epoch"), origin.training.get("epochs")) == ("1", "2")
    assert origin.earlier_runs == (killed.info.run_id,)


def test_a_version_that_was_registered_before_all_this(build: Path, client: MlflowClient, tmp_path: Path) -> None:
    """Its tags name the runs, and no document is kept."""
    runs = {step: read_json(build / step / RUN_JSON)["run_id"] for step in ("train", "evaluate")}
    tags = {"training_run": runs["train"], "evaluation_run": runs["evaluate"], "register_run": runs["train"]}
    for name in (SCORES, "per_scan.csv"):
        client.log_artifact(runs["train"], str(build / "evaluate" / name), "evaluation")
    version = register_version(client, build / "train" / "model", name="old", run_id=runs["train"], tags=tags)
    origin = lineage.read(client, lineage.find(client, version.uri), tmp_path).provenance
    assert (origin.training.run_id, origin.evaluation.run_id) == (runs["train"], runs["evaluate"])
    assert origin.params["evaluate"]["seed"] == 5
    assert origin.manifest_sha256


def test_a_version_whose_runs_were_all_deleted(build: Path, client: MlflowClient, tmp_path: Path) -> None:
    gone = {provenance.RUN_TAG: "0" * 32, "register_run": "0" * 32, scored.SCORED_RUN_TAG: "0" * 32}
    run_id = read_json(build / "train" / RUN_JSON)["run_id"]
    version = register_version(
        client, build / "train" / "model", name="lost", run_id=run_id, tags={**gone, "training_run": "0" * 32}
    )
    found = lineage.read(client, lineage.find(client, version.uri), tmp_path)
    assert found.evaluation is None and not found.decision
    assert found.provenance.training.run_id == run_id  # found by the content that it made
    assert "scores       unknown" in lineage.draw(found)


def test_runs_have_the_ids_of_the_versions_tags(found: Lineage, client: MlflowClient, tmp_path: Path) -> None:
    """A registry that was restored elsewhere has other ids than the document that was kept with it."""
    tags = {**found.version.tags, "training_run": "7" * 32, "evaluation_run": ""}
    again = lineage.read(client, dataclasses.replace(found.version, tags=tags), tmp_path / "again").provenance
    assert again.training == found.provenance.training.model_copy(update={"run_id": "7" * 32})
    assert again.evaluation == found.provenance.evaluation


def test_a_version_is_found_by_name_identity_and_folder(
    found: Lineage, build: Path, client: MlflowClient, tmp_path: Path
) -> None:
    version = found.version
    sha256 = version.model_sha256
    assert lineage.find(client, version.uri) == version
    assert lineage.find(client, "models:/whole@candidate").number == version.number
    for model in (sha256, str(build / "train"), str(build / "train" / "model")):
        assert lineage.find(client, model).model_sha256 == sha256
    for absent in ("models:/whole/99", "models:/whole@nobody", "models:/nobody/1", "0" * 64):
        with pytest.raises(StorageError, match="there is no version"):
            lineage.find(client, absent)
    for wrong in (str(tmp_path), "models:/whole", "models:/"):
        with pytest.raises(ConfigError, match="not an address"):
            lineage.find(client, wrong)


def test_a_changed_model_is_not_handed_out(found: Lineage, client: MlflowClient, tmp_path: Path) -> None:
    folder = lineage.download(client, found.version, tmp_path / "model")
    assert folder_sha256(folder) == found.version.model_sha256
    forged = type(found.version)(found.version.name, found.version.number, "0" * 64)
    with pytest.raises(StorageError, match="not what was registered"):
        lineage.download(client, forged, tmp_path / "forged")


def test_the_verb_prints_a_tree_or_json_and_writes_only_when_asked(
    found: Lineage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    uri = found.version.uri
    shown = CliRunner().invoke(cli, ["lineage", uri])
    assert shown.exit_code == 0 and shown.stdout.startswith(uri)
    assert not list(here.iterdir())
    as_json = CliRunner().invoke(cli, ["lineage", uri, "--json", "--out", "out"])
    assert json.loads(as_json.stdout) == json.loads((here / "out" / lineage.PROV).read_text(encoding="utf-8"))
    assert {path.name for path in (here / "out").iterdir()} == {
        "lineage.json", "bom.cdx.json", "model-card.html", "model-card.md",
    }  # fmt: skip


def test_no_registry_is_made_by_asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SA2NET_VAR", str(tmp_path / "var"))
    with pytest.raises(StorageError, match=r"no registry here.*MLFLOW_TRACKING_URI"):
        lineage.connect()
    assert not (tmp_path / "var").exists()


def test_no_place_of_this_machine_is_kept(found: Lineage, client: MlflowClient, place: Path) -> None:
    kept = Path(client.download_artifacts(found.version.tags[provenance.RUN_TAG], provenance.FOLDER))
    texts = [file.read_text(encoding="utf-8") for file in kept.iterdir() if file.suffix in (".json", ".txt", ".csv")]
    for text in [*texts, json.dumps(dict(found.version.tags))]:
        assert str(place) not in text and str(Path.home()) + "/" not in text
