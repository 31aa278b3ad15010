"""The machinery of the tables of trained networks: it trains, goes on where it was, and compares like with like."""

import dataclasses
from pathlib import Path

import pytest

from benchmarks import ablation, arms, ready, rivals
from sa2net.config import Config

GRID = arms.Grid(
    width=128,
    train=3,
    val=1,
    test=2,
    seeds=(0, 1),
    common=(
        "train.iterations=2",
        "train.warmup_epochs=0",
        "train.sweep_width=48",
        "train.crops_per_scan=1",
        "train.augment.crop_height=64",
        "train.augment.crop_width=64",
        "train.model.channels=16",
        "train.device=cpu",
        "train.threads=1",
    ),
)
ARMS = {"default": (), "unet": ("train.model.architecture=smp/unet",)}


def test_a_table_is_trained_once_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arms, "CACHE", tmp_path / "cache")
    path = tmp_path / "table.csv"
    table = arms.run(GRID, {"default": ()}, path)
    assert len(table.rows) == 2 * 2
    first = path.read_bytes()
    table = arms.run(GRID, ARMS, path)
    assert path.read_bytes().startswith(first)
    assert len(table.rows) == 4 * 2
    assert arms.run(GRID, ARMS, path).path.read_bytes() == path.read_bytes()
    text = arms.report(GRID, ARMS, arms.Table(path), reference="default")
    assert [line.split("|")[1].strip() for line in text.splitlines()] == ["Arm", "---", "default", "unet"]
    assert " to " in text.splitlines()[3].split("|")[-2]
    other = dataclasses.replace(GRID, common=(*GRID.common, "train.learning_rate=1e-3"))
    assert not arms.Table(path).has("default", 0, arms.fingerprint(other, ()))
    again = dataclasses.replace(GRID, draw=1)
    assert not arms.Table(path).has("default", 0, arms.fingerprint(again, ()))
    assert (arms.Phantoms(again).test / "truth.json").read_text() != (
        arms.Phantoms(GRID).test / "truth.json"
    ).read_text()
    assert arms.Table(path).has("default", 0, arms.fingerprint(GRID, ()))


def test_every_arm_is_a_setting_that_can_be_trained() -> None:
    for grid, named in ((ablation.GRID, ablation.ARMS), *rivals.TABLES):
        trained = {name: arms.settings(grid, overrides, 0) for name, overrides in named.items()}
        assert len({cfg.model_dump_json() for cfg in trained.values()}) == len(named)
    assert rivals.seconds_of_step(Config.load(None, GRID.common).train) > 0


def page(name: str) -> str:
    return (Path(__file__).parents[2] / "docs" / "reference" / name).read_text(encoding="utf-8")


def test_the_table_of_the_ablation_is_that_of_its_rows() -> None:
    table = arms.Table(arms.RESULTS / "ablation.csv")
    text = arms.report(ablation.GRID, ablation.ARMS, table, reference="all mended")
    assert len(text.splitlines()) == 2 + len(ablation.ARMS)
    assert text in page("ablation.md")


@pytest.mark.parametrize(("grid", "named"), rivals.TABLES, ids=["rivals", "parts", "second draw"])
def test_the_tables_of_the_rivals_are_those_of_their_rows(grid: arms.Grid, named: dict[str, tuple[str, ...]]) -> None:
    table = arms.Table(arms.RESULTS / "rivals.csv")
    text = arms.report(grid, named, table, reference="SA2Net")
    assert len(text.splitlines()) == 2 + len(named)
    assert text in page("rivals.md")


def test_an_arm_that_names_its_steps_keeps_them() -> None:
    cfg = arms.settings(rivals.GRID, rivals.PARTS["pyramid alone, 960 steps"], 0)
    assert rivals.bought(0.0, cfg).iterations == 960
    assert rivals.bought(1e-9, arms.settings(rivals.GRID, (), 0)).iterations == 1


@pytest.mark.parametrize("scans", ready.SIZES)
def test_the_tables_of_the_ready_weights_are_those_of_their_rows(scans: int) -> None:
    table = arms.Table(arms.RESULTS / "fine_tuning.csv")
    named = ready.arms("ready")
    text = arms.report(ready.grid(scans), named, table, reference="from scratch")
    assert len(text.splitlines()) == 2 + len(named)
    assert text in page("ready-weights.md")
