"""Which of our modules a step imports, directly or not; rewrites the `deps` of dvc.yaml with `--write`.

A DVC stage must run again when any code that its step can reach has changed, and must not when other code has.
"""

import sys
from pathlib import Path
from typing import Any

import grimp
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
STEPS = ("validate", "train", "evaluate", "register")


def module_file(module: str) -> str:
    """Path of a module, relative to the project."""
    path = Path(*module.split("."))
    return (path / "__init__.py" if (ROOT / path).is_dir() else path.with_suffix(".py")).as_posix()


def code_of(step: str, graph: grimp.ImportGraph | None = None) -> list[str]:
    """Files of a step's import closure, with the packages that they lie in, and its templates."""
    graph = graph or grimp.build_graph("sa2net", cache_dir=None)
    start = f"sa2net.steps.{step}"
    modules = {start, *graph.find_upstream_modules(start)}
    modules |= {".".join(module.split(".")[:depth]) for module in modules for depth in range(1, module.count(".") + 1)}
    files = {module_file(module) for module in modules}
    folders = {Path(file).parent for file in files}
    # Templates are code: a page changes with them.
    files |= {
        template.relative_to(ROOT).as_posix()
        for folder in folders
        for template in (ROOT / folder / "templates").glob("*.j2")
    }
    return sorted(files)


def load() -> tuple[YAML, Any]:
    """dvc.yaml with its comments."""
    yaml = YAML()
    yaml.width = 200
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml, yaml.load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))


def is_code(dependency: str) -> bool:
    """Whether a dependency of a stage is code of ours."""
    return dependency.startswith("sa2net/")


def main() -> None:
    """Rewrite the code dependencies of dvc.yaml."""
    yaml, content = load()
    graph = grimp.build_graph("sa2net", cache_dir=None)
    for step in STEPS:
        stage = content["stages"][step]
        stage["deps"] = [item for item in stage["deps"] if not is_code(item)] + code_of(step, graph)
    with (ROOT / "dvc.yaml").open("w", encoding="utf-8") as stream:
        yaml.dump(content, stream)


if __name__ == "__main__" and "--write" in sys.argv:
    main()
