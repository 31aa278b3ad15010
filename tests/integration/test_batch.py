"""A batch as a hospital runs it: many scans in a bucket or a folder, killed, run again, with bad files among good ones."""

import csv
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from factories import draw_case
from PIL import Image
from registry_cases import write_model_folder
from servers import SECRET, free_port, s3_server, use_aws_environment

from sa2net.__main__ import main
from sa2net.artifacts import folder_sha256, write_json
from sa2net.config import BatchConfig
from sa2net.data.pictures import read_scan, write_png
from sa2net.errors import ClusterError, ConfigError, DataError, StorageError
from sa2net.inference.predictor import Predictor
from sa2net.registry import store, versions
from sa2net.steps.batch import plan, shard, summary
from sa2net.steps.batch.results import BatchPlan, PlannedScan, read_plan, write_plan

NAMES = ("ward a/Anna Mueller", "ward a/007", "ward b/007", "single", "Zoë")
CFG = BatchConfig(device="cpu", flip=False, shard_size=2, threads=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Scans to copy: drawing them takes longer than segmenting them."""
    folder = tmp_path_factory.mktemp("drawn")
    for seed in range(len(NAMES)):
        write_png(folder / f"{seed}.png", draw_case(seed, 48 + seed, 128)[0])
    return [folder / f"{seed}.png" for seed in range(len(NAMES))]


@pytest.fixture
def scans(tmp_path: Path, drawn: list[Path]) -> Path:
    for name, file in zip(NAMES, drawn, strict=True):
        put(tmp_path / "scans" / f"{name}.png", file)
    return tmp_path / "scans"


def put(target: Path, source: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())


def run(scans: object, results: object, model: object, cfg: BatchConfig = CFG) -> tuple[BatchPlan, dict[str, int]]:
    """A whole batch; the counts of its parts are added up."""
    planned = plan.run(cfg, scans=str(scans), results=str(results), model=str(model))
    ended = [shard.run(planned, index) for index in range(len(planned.shards))]
    return planned, {
        "segmented": sum(part.segmented for part in ended),
        "before": len(planned.done) + sum(part.before for part in ended),
        "faulty": sum(part.faulty for part in ended),
    }


def counts(planned: BatchPlan, out: Path) -> dict[str, int]:
    """The counts of the summary, which is written to `out`."""
    return summary.run(planned, out).counts()


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["predict-batch", "--set", "evaluate.device=cpu", "--set", "evaluate.flip=false", *map(str, arguments)])
    return int(ended.value.code or 0)


def files(folder: Path) -> dict[str, int]:
    """Every file with the time at which it was written."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()
    }


def test_results_keep_the_scans_paths_and_are_those_of_the_predictor(scans: Path, model: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    assert command(scans, "--results", results, "--model", model, "--spacing", 0.4, 0.5, "--quiet") == 0
    expected = {f"scans/{name}{end}" for name in NAMES for end in ("_bone_3.png", "_overlay.png", ".json")}
    assert set(files(results)) == expected | {"summary.json", "summary.csv", "summary.html"}

    predictor = Predictor.load(model, device="cpu", threads=1)
    content = json.loads((results / "summary.json").read_text())
    assert content["intended_use"] == "research only"
    assert content["model"]["sha256"] == folder_sha256(model)
    assert content["counts"] == {
        "scans": 5, "done": 5, "before": 0, "faulty": 0, "missing": 0, "left_out": 0,
        "warnings": sum(bool(item["warnings"]) for item in content["scans"]),
    }  # fmt: skip
    rows = {row["scan"]: row for row in csv.DictReader((results / "summary.csv").open(encoding="utf-8"))}
    for item in content["scans"]:
        mask = np.array(Image.open(results / "scans" / item["scan"].replace(".png", "_bone_3.png")))
        assert np.array_equal(mask, predictor(read_scan(scans / item["scan"]), (0.4, 0.5)))
        for name, found in item["classes"].items():
            assert found["pixels"] == int((mask == found["id"]).sum())
            assert rows[item["scan"]][f"{name}_pixels"] == str(found["pixels"])
            assert float(rows[item["scan"]][f"{name}_area_mm2"]) == pytest.approx(found["pixels"] * 0.2)


def test_a_second_run_does_nothing_and_a_new_scan_is_done_alone(
    scans: Path, model: Path, tmp_path: Path, drawn: list[Path]
) -> None:
    results = tmp_path / "results"
    assert run(scans, results, model)[1] == {"segmented": 5, "before": 0, "faulty": 0}
    before = files(results)
    planned, ended = run(scans, results, model)
    assert ended == {"segmented": 0, "before": 5, "faulty": 0}
    assert planned.shards == ((),)
    assert files(results) == before
    assert counts(planned, tmp_path / "summary")["done"] == 5

    put(scans / "new.png", drawn[0])
    put(scans / "single.png", drawn[1])
    _, ended = run(scans, results, model)
    assert ended == {"segmented": 2, "before": 4, "faulty": 0}


@pytest.mark.parametrize(
    "change", [{"flip": True}, {"scales": (0.5,)}, {"spacing_mm": (0.4, 0.4)}, {"mode": "sliding"}, {"overlays": False}]
)
def test_results_of_other_settings_are_not_taken_for_ours(
    scans: Path, model: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    results = tmp_path / "results"
    run(scans, results, model)
    other = BatchConfig.model_validate({**CFG.model_dump(), **change})
    planned, ended = run(scans, results, model, other)
    anew = 0 if change == {"overlays": False} else 5  # the masks are the same, and a picture more does no harm
    assert ended["segmented"] == anew
    assert counts(planned, tmp_path / "summary")["done"] == 5
    # Device and threads change nothing that was asked for.
    assert run(scans, results, model, other.model_copy(update={"threads": 2, "device": "auto"}))[1]["segmented"] == 0


def test_another_model_segments_everything_again(scans: Path, model: Path, tmp_path: Path) -> None:
    run(scans, tmp_path / "results", model)
    other = write_model_folder(tmp_path / "other", seed=1)
    planned, ended = run(scans, tmp_path / "results", other)
    assert ended["segmented"] == 5
    assert counts(planned, tmp_path / "summary")["done"] == 5
    first = plan.run(CFG, scans=str(scans), results=str(tmp_path / "results"), model=str(model))
    assert not first.done


def test_a_lost_picture_is_made_again(scans: Path, model: Path, tmp_path: Path) -> None:
    run(scans, tmp_path / "results", model)
    (tmp_path / "results" / "scans" / "single_bone_3.png").unlink()
    (tmp_path / "results" / "scans" / "Zoë_overlay.png").unlink()
    (tmp_path / "results" / "scans" / "ward b" / "007.json").write_text("{ not whole")
    assert run(scans, tmp_path / "results", model)[1] == {"segmented": 3, "before": 2, "faulty": 0}


def break_scans(scans: Path) -> int:
    """Four kinds of files that are no scans; how many."""
    Image.new("L", (40, 90)).save(scans / "black.png")
    Image.new("RGB", (40, 90)).save(scans / "ward a" / "colour.png")
    (scans / "empty.png").touch()
    whole = (scans / "single.png").read_bytes()
    (scans / "Anna Broken.png").write_bytes(whole[: len(whole) // 2])
    return 4


def test_bad_files_are_recorded_and_the_others_are_done(
    scans: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], drawn: list[Path]
) -> None:
    results, bad = tmp_path / "results", break_scans(scans)
    assert command(scans, "--results", results, "--model", model) == 3
    said = capsys.readouterr()
    assert f"{bad} of {5 + bad} scans could not be segmented, the other 5 are done" in said.err
    assert f"5 of {5 + bad} scans segmented" in said.out
    content = json.loads((results / "summary.json").read_text())
    assert len(content["scans"]) == 5
    reasons = {item["scan"]: item["reason"] for item in content["faults"]}
    assert "RGB" in reasons["ward a/colour.png"]
    assert "zero bytes" in reasons["empty.png"]
    assert "truncated" in reasons["Anna Broken.png"]
    assert "brighter than black" in reasons["black.png"]
    fault = json.loads((results / "scans" / "ward a" / "colour.fault.json").read_text())
    assert fault["reason"] == reasons["ward a/colour.png"]
    assert not list(results.rglob("*colour_bone*"))

    put(scans / "empty.png", drawn[2])
    _, ended = run(scans, results, model, CFG.model_copy(update={"threads": 2}))
    assert ended == {"segmented": 1, "before": 5, "faulty": bad - 1}
    assert not (results / "scans" / "empty.fault.json").exists()


def test_a_scan_that_went_bad_loses_its_old_results(scans: Path, model: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    run(scans, results, model)
    (scans / "single.png").write_bytes(b"no picture")
    planned, ended = run(scans, results, model)
    assert ended == {"segmented": 0, "before": 4, "faulty": 1}
    assert sorted(path.name for path in (results / "scans").glob("single*")) == ["single.fault.json"]
    outcome = summary.run(planned, tmp_path / "summary")
    with pytest.raises(DataError, match="1 of 5 scans could not be segmented, the other 4 are done"):
        outcome.check()


def test_nothing_but_bad_files_is_an_error_with_a_summary(model: Path, tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.png").write_bytes(b"text")
    assert command(tmp_path / "scans", "--results", tmp_path / "results", "--model", model) == 3
    assert json.loads((tmp_path / "results" / "summary.json").read_text())["counts"]["faulty"] == 1


def test_no_name_of_a_scan_is_said_in_a_log_or_an_error(
    scans: Path, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    break_scans(scans)
    with caplog.at_level(logging.DEBUG):
        command(scans, "--results", tmp_path / "results", "--model", model)
    said = capsys.readouterr()
    everything = caplog.text + said.out + said.err
    assert "part 1 of 1" in everything
    assert not re.search(r"Anna|Zoë|colour\.png|ward", everything)


def test_hostile_names_are_refused_and_hurt_nobody(scans: Path, model: Path, tmp_path: Path, drawn: list[Path]) -> None:
    hostile = [
        "=cmd|' /C calc'!A0.png",
        "<b>bold.png",
        "two\nlines.png",
        ".hidden/deep.png",
        "x.fault.png",
        "single.PNG",
    ]
    for name in hostile:
        put(scans / name, drawn[0])
    put(Path(os.fsdecode(os.fsencode(scans) + b"/latin-\xe9.png")), drawn[0])
    for name in ("old_bone_3.png", "old_overlay.png"):
        put(scans / name, drawn[0])
    (scans / "notes.txt").write_text("no scan")
    results = tmp_path / "results"
    planned, ended = run(scans, results, model)
    assert ended == {"segmented": 5, "before": 0, "faulty": 0}
    assert len(planned.refused) == len(hostile) + 1
    found = counts(planned, tmp_path / "summary")
    assert (found["scans"], found["done"], found["faulty"], found["left_out"]) == (12, 5, 7, 2)
    table = (results / "summary.csv").read_text(encoding="utf-8")
    assert len(table.splitlines()) == 13
    for row in csv.reader(table.splitlines()):
        assert not [cell for cell in row if cell[:1] in ("=", "+", "-", "@", "\t", "\r")]
    page = (results / "summary.html").read_text(encoding="utf-8")
    assert "<b>bold" not in page
    assert "&lt;b&gt;bold" in page
    assert "<script" not in page
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)
    # What was written can be read: a plan with these names survives its own file.
    write_plan(tmp_path / "plan.json", planned)
    assert read_plan(tmp_path / "plan.json") == planned


def test_scans_and_results_may_share_an_address(scans: Path, model: Path) -> None:
    run(scans, scans, model)
    _, ended = run(scans, scans, model)
    assert ended == {"segmented": 0, "before": 5, "faulty": 0}


def test_a_scan_that_changes_under_way_is_not_taken_for_the_planned_one(
    scans: Path, model: Path, tmp_path: Path, drawn: list[Path]
) -> None:
    planned = plan.run(CFG, scans=str(scans), results=str(tmp_path / "results"), model=str(model))
    put(scans / "single.png", drawn[0])
    (scans / "Zoë.png").unlink()
    ended = [shard.run(planned, index) for index in range(len(planned.shards))]
    assert sum(part.faulty for part in ended) == 2
    assert counts(planned, tmp_path / "summary")["done"] == 3


def test_a_part_that_did_not_run_is_missed(scans: Path, model: Path, tmp_path: Path) -> None:
    planned = plan.run(CFG, scans=str(scans), results=str(tmp_path / "results"), model=str(model))
    assert [len(part) for part in planned.shards] == [2, 2, 1]
    shard.run(planned, 0)
    shard.run(planned, 2)
    with pytest.raises(ClusterError, match="3 planned, 2 ended"):
        summary.run(planned, tmp_path / "summary", ended=["0", "2"])
    outcome = summary.run(planned, tmp_path / "summary")
    assert outcome.missing == 2
    with pytest.raises(StorageError, match="2 of 5 scans have no result"):
        outcome.check()
    assert "not complete" in (tmp_path / "results" / "summary.html").read_text()


@pytest.mark.parametrize("number", [1, 2, 5, 9])
@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_parts_hold_each_scan_once_and_are_the_same_each_time(number: int, size: int) -> None:
    every = [PlannedScan(name=f"{index}.png", size=1, etag="") for index in range(number)]
    parts = plan.split(every, size)
    assert sorted(scan.name for part in parts for scan in part) == sorted(scan.name for scan in every)
    lengths = {len(part) for part in parts}
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1
    found = [PlannedScan.model_validate(scan.model_dump()) for scan in every]
    assert plan.split(found, size) == parts


def test_killed_in_the_middle_the_next_attempt_does_what_is_missing(
    model: Path, tmp_path: Path, drawn: list[Path]
) -> None:
    """Twice: at first, and over the results of other settings, where old and new may not be mixed."""
    scans, results, total = tmp_path / "scans", tmp_path / "results", 40
    for index in range(total):
        put(scans / f"{index:02d}.png", drawn[index % len(drawn)])
    old: dict[str, bytes] = {}
    for scale in (1.0, 0.5):
        cfg = CFG.model_copy(update={"scales": (scale,), "shard_size": 100})
        kill_after(5, scans, results, model, scale)
        done = described(results, scale)
        assert 5 <= len(done) < total
        for name in [*done, *described(results, 1.5 - scale)]:  # a JSON stands beside whole pictures of its own make
            assert Image.open(results / "scans" / f"{name}_bone_3.png").size == Image.open(scans / f"{name}.png").size
            assert (results / "scans" / f"{name}_overlay.png").exists()
        for name in described(results, 1.0) if scale == 0.5 else []:
            assert (results / "scans" / f"{name}_bone_3.png").read_bytes() == old[name]
        before = files(results)
        planned, ended = run(scans, results, model, cfg)
        assert ended["segmented"] == total - len(done)
        assert ended["before"] == len(done)
        after = files(results)
        assert {name for name in done if after[f"scans/{name}.json"] != before[f"scans/{name}.json"]} == set()
        assert counts(planned, tmp_path / "summary")["done"] == total
        old = {path.name.removesuffix("_bone_3.png"): path.read_bytes() for path in results.rglob("*_bone_3.png")}


def described(results: Path, scale: float) -> set[str]:
    """Names of the scans with a result at this scale."""
    found = {path.stem: json.loads(path.read_text()) for path in (results / "scans").glob("*.json")}
    return {name for name, content in found.items() if content["made_from"]["scales"] == [scale]}


def kill_after(count: int, scans: Path, results: Path, model: Path, scale: float) -> None:
    """Start the command and kill it once so many results are there."""
    settings = ["device=cpu", "flip=false", f"scales=[{scale}]", "threads=1"]
    call = [
        sys.executable,
        "-m",
        "sa2net",
        "predict-batch",
        str(scans),
        "--results",
        str(results),
        "--model",
        str(model),
    ]
    call += [part for setting in settings for part in ("--set", f"evaluate.{setting}")]
    process = subprocess.Popen(call, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if len(described(results, scale)) >= count:
                break
        except FileNotFoundError:  # taken away between listing and reading
            continue
    process.kill()
    _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[list[Path]]:
    """A registry with two versions of `sa2net`; the first is champion."""
    folder = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SA2NET_VAR", str(folder / "var"))
        client = store.connect()
        models = [model, write_model_folder(folder / "second", seed=1)]
        for item in models:
            run_id = client.create_run(store.experiment_id(client)).info.run_id
            versions.register_version(client, item, name="sa2net", run_id=run_id, tags={})
        client.set_registered_model_alias("sa2net", "champion", "1")
        yield models


def test_a_champion_that_moves_under_way_changes_nothing(registry: list[Path], scans: Path, tmp_path: Path) -> None:
    results, client = tmp_path / "results", store.connect()
    planned = plan.run(CFG, scans=str(scans), results=str(results), model="models:/sa2net@champion")
    assert (planned.model.address, planned.model.sha256) == ("models:/sa2net/1", folder_sha256(registry[0]))
    shard.run(planned, 0)
    client.set_registered_model_alias("sa2net", "champion", "2")
    try:
        for index in (1, 2):
            shard.run(planned, index)
        described = [json.loads(path.read_text()) for path in (results / "scans").rglob("*.json")]
        assert {item["model"]["name"] for item in described} == {"models:/sa2net/1"}
        assert {item["model"]["sha256"] for item in described} == {folder_sha256(registry[0])}
        assert counts(planned, tmp_path / "summary")["done"] == 5
        assert not plan.run(CFG, scans=str(scans), results=str(results), model="models:/sa2net@champion").done
        assert len(plan.run(CFG, scans=str(scans), results=str(results), model="models:/sa2net/1").done) == 5
    finally:
        client.set_registered_model_alias("sa2net", "champion", "1")


def test_a_part_refuses_another_model_than_the_planned_one(scans: Path, tmp_path: Path) -> None:
    model = write_model_folder(tmp_path / "model")
    planned = plan.run(CFG, scans=str(scans), results=str(tmp_path / "results"), model=str(model))
    write_model_folder(model, seed=5)
    with pytest.raises(StorageError, match="not the model that the batch was planned with"):
        shard.run(planned, 0)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["{empty}", "--model", "{model}"], 3, "holds no scan"),
        (["{nowhere}", "--model", "{model}"], 3, "nowhere"),
        (["{scans}", "--model", "{empty}"], 2, "not a model folder"),
        (["{scans}", "--model", "models:/sa2net@nobody"], 5, "there is no models:/sa2net@nobody"),
        (["{scans}", "--model", "models:/a/b@c"], 2, "not an address of a version"),
        (["{scans}", "--model", "{model}", "--spacing", "0", "1"], 2, "spacing_mm is 0 x 1"),
        (["{scans}", "--model", "{model}", "--spacing", "nan", "1"], 2, "spacing_mm"),
        (["{scans}", "--model", "{model}", "--set", "evaluate.mode=half"], 2, "evaluate.mode"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_written(
    registry: list[Path],
    scans: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"scans": scans, "empty": tmp_path / "empty", "nowhere": tmp_path / "nowhere", "model": registry[0]}
    given = [argument.format(**places) for argument in arguments]
    assert command(*given, "--results", tmp_path / "results") == code
    assert words in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_a_plan_of_another_kind_and_a_part_that_is_not_there_are_refused(
    scans: Path, model: Path, tmp_path: Path
) -> None:
    write_json(tmp_path / "plan.json", {"schema_version": 2})
    with pytest.raises(DataError, match="is not the plan of a batch"):
        read_plan(tmp_path / "plan.json")
    planned = plan.run(CFG, scans=str(scans), results=str(tmp_path / "results"), model=str(model))
    with pytest.raises(ConfigError, match="no part 3"):
        shard.run(planned, 3)


@pytest.fixture
def bucket(scans: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The scans as objects `s3://hospital/scans/...`; the folder that the server keeps the bucket in."""
    use_aws_environment(monkeypatch)
    bucket = scans.parent / "served" / "hospital"
    bucket.mkdir(parents=True)
    return scans.rename(bucket / "scans").parent


def test_a_bucket_is_a_folder_like_any_other(
    bucket: Path, model: Path, tmp_path: Path, drawn: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    scans, results, bad = bucket / "scans", bucket / "results", break_scans(bucket / "scans")
    put(bucket / "scans-of-others" / "other.png", drawn[0])  # starts like the prefix, and is not below it
    with s3_server(bucket.parent) as endpoint:
        call = (
            "s3://hospital/scans/",
            "--results",
            "s3://hospital/results",
            "--model",
            model,
            "--endpoint-url",
            endpoint,
        )
        assert command(*call) == 3
        assert f"{bad} of {5 + bad} scans could not be segmented" in capsys.readouterr().err
        expected = {f"scans/{name}{end}" for name in NAMES for end in ("_bone_3.png", "_overlay.png", ".json")}
        faults = {f"scans/{name}.fault.json" for name in ("black", "ward a/colour", "empty", "Anna Broken")}
        assert set(files(results)) == expected | faults | {"summary.json", "summary.csv", "summary.html"}
        predictor = Predictor.load(model, device="cpu", threads=1)
        for name in NAMES:
            mask = np.array(Image.open(results / "scans" / f"{name}_bone_3.png"))
            assert np.array_equal(mask, predictor(read_scan(scans / f"{name}.png")))

        before = files(results)
        for name in ("black", "ward a/colour", "empty", "Anna Broken"):
            put(scans / f"{name}.png", drawn[0])
        put(scans / "single.png", drawn[0])  # another scan under a known name
        assert command(*call) == 0
        after = files(results)
        assert not [name for name in after if "fault" in name]
        untouched = {name for name in expected if "single" not in name}
        assert {name: after[name] for name in untouched} == {name: before[name] for name in untouched}
        assert json.loads((results / "summary.json").read_text())["counts"]["before"] == 4
        assert SECRET not in "".join(path.read_text() for path in results.rglob("*.json"))


def test_a_server_that_goes_away_ends_the_part_and_the_next_attempt_goes_on(
    bucket: Path, model: Path, tmp_path: Path
) -> None:
    port = free_port()
    cfg = CFG.model_copy(update={"endpoint_url": f"http://127.0.0.1:{port}"})
    places = {"scans": "s3://hospital/scans", "results": "s3://hospital/results", "model": str(model)}
    with s3_server(bucket.parent, port=port):
        planned = plan.run(cfg, **places)
        assert shard.run(planned, 0).segmented == 2
    with pytest.raises(StorageError, match="does not answer"):
        shard.run(planned, 1)
    with pytest.raises(StorageError, match="does not answer"):
        plan.run(cfg, **places)
    with s3_server(bucket.parent, port=port):
        assert shard.run(planned, 0) == shard.ShardResult(segmented=0, before=2, faulty=0)
        assert shard.run(planned, 1).segmented == 2
        assert shard.run(planned, 2).segmented == 1
        assert counts(planned, tmp_path / "summary")["done"] == 5


def test_wrong_keys_and_a_bucket_that_is_not_there_say_so(
    bucket: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with s3_server(bucket.parent) as endpoint:
        options = ("--model", model, "--endpoint-url", endpoint)
        assert command("s3://nobody/scans", "--results", "s3://hospital/results", *options) == 5
        assert "there is no bucket nobody" in capsys.readouterr().err
        assert command("s3://hospital/nothing", "--results", "s3://hospital/results", *options) == 3
        assert "holds no scan" in capsys.readouterr().err
        use_aws_environment(monkeypatch, secret="another-secret")
        assert command("s3://hospital/scans", "--results", "s3://hospital/results", *options) == 5
        said = capsys.readouterr().err
        assert "refuses" in said
        assert "another-secret" not in said
    assert not (bucket / "results").exists()
