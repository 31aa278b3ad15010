"""The command line as people meet it: help, exit codes, nothing but a message when something is wrong."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from sa2net.__main__ import main
from sa2net.cli import cli


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def test_help_is_quick_and_light() -> None:
    code = "import sys, sa2net.__main__; print(sorted({'torch','mlflow','pandas','great_expectations','dvc','timm'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "sa2net", "--help"], capture_output=True, check=True)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 1.0  # 0.3 s on a quiet machine


@pytest.mark.parametrize("verb", sorted(cli.commands))
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(verb, "--help") == 0
    assert f"sa2net {verb}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["validate", "--set", "validate.lables=[0]"], 2, "did you mean labels"),
        (["validate", "--params", "nowhere.yaml"], 2, "cannot be read"),
        (["evaluate", "--set", "evaluate.threads=100000000"], 2, "1024"),
        (["evaluate", "--set", "evaluate.scales=[.nan]"], 2, "evaluate.scales"),
        (["train", "--set", "train.learning_rate=.inf"], 2, "learning_rate"),
        (["recipe", "../params"], 2, "is unknown"),
        (["recipe", "--show", "--params", "nowhere.yaml"], 2, "cannot be read"),
        (["frobnicate"], 2, "No such command"),
        (["phantom", "--artefacts", "nonsense", "--out", "x"], 2, "nonsense"),
        (["predict", "--out", "/proc/nowhere/x", "--model", "models:/sa2net@champion", "."], 5, "make run"),
    ],
)
def test_what_is_wrong_ends_with_its_code_and_a_message(
    arguments: list[str],
    code: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(*arguments) == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert "Traceback" not in captured.err


def test_a_place_that_cannot_be_written_is_no_internal_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert (
        call(
            "phantom", "--train", 1, "--val", 0, "--test", 0, "--width", 64, "--quiet", "--out", tmp_path / "file" / "x"
        )
        == 5
    )
    assert "cannot be used" in capsys.readouterr().err


def test_a_recipe_rewrites_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[2]
    params = tmp_path / "params.yaml"
    assert call("recipe", "smoke", "--params", params, "--folder", root / "recipes") == 0
    assert "epochs: 1 " in params.read_text()
    assert call("recipe", "laptop", "--params", params, "--folder", root / "recipes") == 0
    assert params.read_text() == (root / "params.yaml").read_text()
