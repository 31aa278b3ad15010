"""dvc.yaml holds what the code says: one stage a step, its import closure, its section of the settings."""

import grimp
import pytest
from closure import ROOT, STEPS, code_of, is_code, load

from sa2net.cli import cli
from sa2net.config import SECTIONS


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("sa2net", cache_dir=None)


def test_one_name_for_section_module_verb_and_stage() -> None:
    stages = load()[1]["stages"]
    assert tuple(stages) == SECTIONS == STEPS
    assert set(STEPS) <= set(cli.commands)
    assert all((ROOT / "sa2net" / "steps" / f"{step}.py").is_file() for step in STEPS)


@pytest.mark.parametrize("step", STEPS)
def test_a_stage_depends_on_the_code_of_its_step(step: str, graph: grimp.ImportGraph) -> None:
    listed = [item for item in load()[1]["stages"][step]["deps"] if is_code(item)]
    assert listed == code_of(step, graph), "run: python tests/closure.py --write"


@pytest.mark.parametrize("step", STEPS)
def test_a_stage_reads_its_own_section_alone(step: str) -> None:
    stage = load()[1]["stages"][step]
    assert list(stage["params"]) == [step]
    assert f"sa2net {step} " in stage["cmd"]


def test_no_stage_depends_on_times_or_run_ids() -> None:
    for stage in load()[1]["stages"].values():
        named = [*stage["deps"], *stage.get("outs", []), *stage.get("metrics", [])]
        assert not [item for item in named if str(item).endswith(("run.json", "timing.json"))]
