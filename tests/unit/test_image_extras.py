"""Each step finds in its image everything that it may import: its import closure lies inside the extras installed there."""

import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterable

import grimp
import pytest
from closure import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipelines.runtime import IMAGE_OF

OURS = ("sa2net", "components")
COMPONENTS = {**IMAGE_OF, "train_nodes": IMAGE_OF["train"]}
"""Component -> image; on several nodes `train` is another component."""

INSTALLED_BARE = {"kfp"}
"""In both images without its dependencies."""

NOT_REACHED = {
    ("sa2net.data.dicom", "pydicom"): "a batch reads PNG files alone",
    ("sa2net.data.dicom_header", "pydicom"): "a batch reads PNG files alone",
    ("sa2net.data.dicom_pixels", "pydicom"): "a batch reads PNG files alone",
    ("sa2net.artifacts.model", "torch"): "weights are read and written by steps that train or score",
    ("sa2net.artifacts.model", "safetensors"): "weights are read and written by steps that train or score",
}
"""Imports inside functions that a step without torch never calls; the tests in containers run it without torch."""


def image_extras() -> dict[str, set[str]]:
    """Extras that the Dockerfile installs: stage -> extras."""
    text = (ROOT / "infra/docker/Dockerfile").read_text(encoding="utf-8")
    found = re.findall(r"AS (\w+)-dependencies\n.*?\.whl\[([a-z,]+)\]", text, flags=re.DOTALL)
    return {stage: set(extras.split(",")) for stage, extras in found}


def requirements_of(extras: Iterable[str]) -> set[str]:
    """Every distribution that extras of this project bring, directly or not."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    found: set[str] = set()
    done: set[tuple[str, str]] = set()
    waiting = [Requirement(text) for text in project["dependencies"]]
    waiting += [Requirement(text) for extra in extras for text in optional[extra]]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras}:
            if (name, extra) in done:
                continue
            done.add((name, extra))
            if name == "sa2net":
                waiting += [Requirement(text) for text in optional.get(extra, [])]
                continue
            found.add(name)
            needed = [Requirement(text) for text in importlib.metadata.requires(name) or []]
            waiting += [item for item in needed if item.marker is None or item.marker.evaluate({"extra": extra})]
    return found


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*OURS, include_external_packages=True, cache_dir=None)


@pytest.fixture(scope="module")
def distributions() -> dict[str, set[str]]:
    """Import name -> distributions that provide it."""
    provided = importlib.metadata.packages_distributions()
    return {name: {canonicalize_name(item) for item in items} for name, items in provided.items()}


def outside(task: str, graph: grimp.ImportGraph) -> set[tuple[str, str]]:
    """What a task's code may import from elsewhere, also inside functions: (module of ours, import name)."""
    start = f"components.{task}"
    ours = {module for module in {start, *graph.find_upstream_modules(start)} if module.split(".")[0] in OURS}
    pairs = {
        (module, name.split(".")[0]) for module in ours for name in graph.find_modules_directly_imported_by(module)
    }
    return {(module, name) for module, name in pairs if name not in OURS and name not in sys.stdlib_module_names}


def test_the_dockerfile_installs_extras_for_each_image() -> None:
    found = image_extras()
    assert set(found) == {"tools", "torch"} == set(IMAGE_OF.values())
    assert found["tools"] < found["torch"], "torch stands on the layers of tools"


def test_torch_is_in_its_image_alone() -> None:
    extras = image_extras()
    assert "torch" in requirements_of(extras["torch"])
    assert "torch" not in requirements_of(extras["tools"])


@pytest.mark.parametrize("task", COMPONENTS)
def test_a_task_finds_its_imports_in_its_image(
    task: str, graph: grimp.ImportGraph, distributions: dict[str, set[str]]
) -> None:
    there = requirements_of(image_extras()[COMPONENTS[task]]) | INSTALLED_BARE
    found = outside(task, graph)
    assert {name for _, name in found} > {"pydantic", "kfp"}, "the closure is found"
    missing = {(module, name) for module, name in found if not distributions.get(name, set()) & there}
    assert missing <= NOT_REACHED.keys(), f"not in the {COMPONENTS[task]} image: {sorted(missing)}"


def test_what_is_not_reached_is_imported_inside_functions() -> None:
    """Each exception is one: the import is there, and not at the top of its module."""
    for module, name in NOT_REACHED:
        text = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
        assert re.search(rf"^ +(import|from) {name}\b", text, flags=re.MULTILINE)
        assert not re.search(rf"^(import|from) {name}\b", text, flags=re.MULTILINE)
