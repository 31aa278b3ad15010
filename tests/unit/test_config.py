"""Settings: what is accepted, what is refused, and with which words."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sa2net.config import SECTIONS, Config, FetchConfig, Section, as_section
from sa2net.errors import ConfigError
from sa2net.model.network import build

ROOT = Path(__file__).parents[2]


def test_params_yaml_is_the_rendering_of_the_defaults() -> None:
    assert (ROOT / "params.yaml").read_text(encoding="utf-8") == Config().render()


def test_rendering_loads_back_to_the_same_settings(tmp_path: Path) -> None:
    cfg = Config.load(None, ["train.epochs=7", "evaluate.scales=[0.5, 1.0]", "train.init_from=models:/a@b"])
    (tmp_path / "params.yaml").write_text(cfg.render(), encoding="utf-8")
    assert Config.load(tmp_path / "params.yaml") == cfg


def test_every_setting_says_what_it_means() -> None:
    def silent(section: Section, path: str) -> list[str]:
        names = []
        for key, field in type(section).model_fields.items():
            value = getattr(section, key)
            if isinstance(value, Section):
                names += silent(value, f"{path}.{key}")
            elif not field.description:
                names.append(f"{path}.{key}")
        return names

    assert [name for section in SECTIONS for name in silent(getattr(Config(), section), section)] == []


def test_no_setting_is_none() -> None:
    def walk(node: object) -> list[object]:
        if isinstance(node, dict):
            return [leaf for value in node.values() for leaf in walk(value)]
        return [node]

    assert None not in walk(Config().to_dict())


@given(st.integers(1, 10_000))
def test_whole_floats_are_taken_as_integers(epochs: int) -> None:
    # Kubeflow turns 3 into 3.0 inside a dict.
    tree = {"train": {"epochs": float(epochs), "warmup_epochs": 0}}
    assert Config.from_dict(tree).train.epochs == epochs


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.epoch=2", "did you mean epochs"),
        ("trian.epochs=2", "did you mean train"),
        ("train.model.chanels=8", "did you mean channels"),
        ("train.epochs=3.5", "train.epochs = 3.5"),
        ("train.epochs=0", "greater than or equal to 1"),
        ("train.device=tpu", "'auto', 'cpu' or 'cuda'"),
        ("train.model.predictor.num_heads=5", "not a multiple of num_heads 5"),
        ("train.augment.crop_height=100", "not a multiple of 32"),
        ("train.warmup_epochs=500", "leaves nothing"),
        ("train.model.num_classes=3", "a mask has 4 classes"),
        ("validate.labels=[0, 1, 7]", "7"),
        ("register.name=a/b", "register.name"),
        ("train=3", "section.key=value"),
        ("train.epochs", "section.key=value"),
        ("train.epochs=[", "not YAML"),
        ("train.epochs.deep=3", "train.epochs"),
    ],
)
def test_a_bad_override_names_the_setting_and_the_cure(override: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.load(None, [override])
    assert words in str(caught.value)
    assert caught.value.exit_code == 2


def test_overrides_win_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("train:\n  epochs: 9\n  seed: 3\n", encoding="utf-8")
    cfg = Config.load(file, ["train.epochs=11"])
    assert (cfg.train.epochs, cfg.train.seed, cfg.train.batch_size) == (11, 3, Config().train.batch_size)


@pytest.mark.parametrize("text", ["- a\n- b\n", "train: [", "\x00"])
def test_a_file_that_is_no_settings_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"p\.yaml"):
        Config.load(file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Config.load(tmp_path / "none.yaml")


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().train.epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_loads(recipe: Path) -> None:
    assert set(yaml.safe_load(recipe.read_text(encoding="utf-8"))) <= set(SECTIONS)
    Config.load(recipe)


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_network_of_every_recipe_takes_its_crop(recipe: Path) -> None:
    train = Config.load(recipe).train
    with torch.device("meta"):
        network = build(train.model.model_copy(update={"pretrained": False}))
        size = (train.augment.crop_height, train.augment.crop_width)
        maps = network(torch.zeros(2, 1, *size))
    more = 2 if train.model.logits == "released" else 0
    assert maps.final.shape == (2, 4, size[0] // 4 + more, size[1] // 4 + more)


def test_the_recipe_for_several_gpus_is_that_for_one_with_a_larger_batch() -> None:
    one, several = (Config.load(ROOT / "recipes" / f"{name}.yaml").train for name in ("gpu", "multi-gpu"))
    larger = {"batch_size": 4 * one.batch_size, "crops_per_scan": 4 * one.crops_per_scan, "learning_rate": 1e-3}
    assert several == one.model_copy(update=larger)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["train.model.structure=false", "train.model.predictor.depth=4"],
            "predictor would have no effect without structure",
        ),
        (
            ["train.model.structure=false", "train.model.channel_branch=false", "train.model.affinity=cosine"],
            "affinity would have no effect without channel_branch and structure",
        ),
        (["train.model.structure=false", "train.loss.coarse=1"], "coarse would have no effect with this model"),
        (["train.model.channel_branch=false", "train.loss.channel=2"], "channel would have no effect with this model"),
        (
            ["train.model.position_branch=false", "train.loss.position=2"],
            "position would have no effect with this model",
        ),
        (["train.model.auxiliary=false", "train.loss.auxiliary=2"], "auxiliary would have no effect with this model"),
        (["train.model.architecture=smp/unet", "train.loss.channel=2"], "channel would have no effect with this model"),
        (["evaluate.measure.severity_source=a book"], "severity_source would have no effect without severity words"),
    ],
)
def test_a_setting_of_a_part_that_is_not_there_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.load(None, overrides)
    Config.load(None, overrides[:-1])  # without the last it is the default, and fine


def test_the_laptop_recipe_is_the_default() -> None:
    assert Config.load(ROOT / "recipes" / "laptop.yaml") == Config()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "train:\n  epochs: 7\nevaluate:\n  flip: true\ntrain:\n  seed: 1\n",
            r"setting train stands twice.*line 1 and line 5",
        ),
        ("train:\n  epochs: 7\n  epochs: 8\n", r"train\.epochs stands twice.*line 2 and line 3"),
        ("train: &a\n  model: *a\n", r"train\.model holds itself"),
    ],
)
def test_a_key_stands_once(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        Config.load(tmp_path / "params.yaml")


def test_a_fault_names_the_line_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("train:\n  epochs: 3\n\n  model:\n    chanels: 5\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"line 5: train.model.chanels is unknown \(did you mean channels\?\)"):
        Config.load(file)


def test_an_override_has_no_line(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("train:\n  epochs: 3\n", encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        Config.load(file, ["train.epochs=0"])
    assert "train.epochs = 0" in str(error.value)
    assert not re.search(r"line \d", str(error.value))


def test_a_recipe_lies_over_the_file_and_below_the_overrides(tmp_path: Path) -> None:
    params, recipe = tmp_path / "params.yaml", tmp_path / "recipe.yaml"
    params.write_text("train:\n  epochs: 30\n  seed: 7\n  model: {channels: 32, dropout: 0.2}\n", encoding="utf-8")
    recipe.write_text("train:\n  epochs: 20\n  model: {channels: 64}\n", encoding="utf-8")
    train = Config.load(params, ["train.epochs=10"], recipe=recipe).train
    assert (train.epochs, train.seed, train.model.channels, train.model.dropout) == (10, 7, 64, 0.2)


def test_a_section_from_layers_says_where_its_faults_are() -> None:
    with pytest.raises(ConfigError, match=r"the pod cannot be used: job is unknown \(did you mean jobs\?\)"):
        as_section(FetchConfig, {"remote": "s3://x"}, {"job": 3}, source="the pod")
