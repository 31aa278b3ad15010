"""What can be said of the images without an engine, and how their commands fail where there is none."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from closure import ROOT

from pipelines import pins
from sa2net.errors import ConfigError
from sa2net.telemetry import NO_TELEMETRY

DIGEST = "sha256:" + "7" * 64
DOCKERFILE = (ROOT / pins.DOCKERFILE).read_text(encoding="utf-8")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def command(*arguments: str, folder: Path = ROOT, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({} if path is None else {"PATH": path})}
    environment.pop("DOCKER_HOST", None)
    return subprocess.run(
        [sys.executable, "-m", "pipelines.images", *arguments],
        cwd=folder, capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip


def test_the_dockerfile_needs_no_frontend_and_starts_nothing_of_its_own() -> None:
    instructions = [line for line in DOCKERFILE.splitlines() if line and not line.startswith("#")]
    assert not re.search(r"^#\s*syntax=", DOCKERFILE, flags=re.MULTILINE)
    assert not [line for line in instructions if line.startswith("ENTRYPOINT")]
    assert [line for line in instructions if line.startswith("USER")] == ["USER 10001:10001"] * 2
    assert {line.split()[1] for line in instructions if line.startswith("FROM")} <= {
        "${BASE_IMAGE}", "builder", "base", "tools-dependencies", "torch-dependencies",
    }  # fmt: skip


def test_the_images_send_no_telemetry() -> None:
    assert {name: value for name, value in NO_TELEMETRY.items() if f"{name}={value}" not in DOCKERFILE} == {}


def test_the_makers_of_images_are_locked() -> None:
    lines = (ROOT / "infra/docker/build-tools.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in pinned)
    assert {"pip", "setuptools", "cyclonedx-bom", "pip-licenses"} <= {line.partition("==")[0] for line in pinned}


def test_the_base_image_is_named_once_and_by_version() -> None:
    assert pins.default_base(ROOT / pins.DOCKERFILE) == "python:3.11-slim-bookworm"
    assert DOCKERFILE.count("python:3.11-slim-bookworm") == 1


def test_infra_names_images_that_can_be_pinned() -> None:
    named = pins.named_images(ROOT)
    assert named["python:3.11-slim-bookworm"] == ["infra/docker/Dockerfile"]
    assert "sa2net-tools:local" not in named
    assert all(":" in image.rpartition("/")[2] for image in named), "a tag each"


def test_images_are_found_wherever_infra_names_them(tmp_path: Path) -> None:
    write(tmp_path / pins.DOCKERFILE, "ARG BASE_IMAGE=python:3.11\n")
    sections = {
        "laptop": {"images": {"tools": "a:local"}},
        "here": {"images": {"tools": "localhost/a:1", "torch": "r.org/b:2"}},
    }
    write(tmp_path / "infra/environments.yaml", yaml.safe_dump(sections))
    pinned = f"r.org/pinned:1@{DIGEST}"
    services = {"db": {"image": "postgres:16"}, "own": {"build": ".", "image": "own:1"}, "p": {"image": pinned}}
    write(tmp_path / "infra/compose/compose.yaml", yaml.safe_dump({"services": services}))
    pod = {
        "spec": {"template": {"spec": {"containers": [{"image": "postgres:16"}], "initContainers": [{"image": "q:1"}]}}}
    }
    write(tmp_path / "infra/kubernetes/base/db.yaml", yaml.safe_dump_all([None, pod]))
    assert pins.named_images(tmp_path) == {
        "localhost/a:1": ["infra/environments.yaml"],
        "postgres:16": ["infra/compose/compose.yaml", "infra/kubernetes/base/db.yaml"],
        "python:3.11": ["infra/docker/Dockerfile"],
        "q:1": ["infra/kubernetes/base/db.yaml"],
        "r.org/b:2": ["infra/environments.yaml"],
    }


def test_a_manifest_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    write(tmp_path / pins.DOCKERFILE, "ARG BASE_IMAGE=python:3.11\n")
    write(tmp_path / "infra/environments.yaml", "laptop: {}")
    write(tmp_path / "infra/kubernetes/x.yaml", "a: [")
    with pytest.raises(ConfigError, match=r"x\.yaml is not YAML"):
        pins.named_images(tmp_path)


def test_a_base_is_taken_by_digest_where_the_lock_knows_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock.json"
    assert pins.locked("python:3.11", lock) == "python:3.11"
    write(lock, f'{{"schema_version": 1, "images": {{"python:3.11": "{DIGEST}"}}}}')
    assert pins.locked("python:3.11", lock) == f"python:3.11@{DIGEST}"
    assert pins.locked("python:3.12", lock) == "python:3.12"


def test_an_image_without_a_tag_is_not_asked_for() -> None:
    with pytest.raises(ConfigError, match="names no tag"):
        pins.resolve("127.0.0.1:5000/sa2net/tools")


def test_no_client_is_said_with_a_cure(tmp_path: Path) -> None:
    built = command("build", path=str(tmp_path))
    assert built.returncode == 6
    assert "there is no program docker to build images with. Install Docker" in built.stderr
    pinned = command("pin", "--lock", str(tmp_path / "lock.json"), path=str(tmp_path))
    assert pinned.returncode == 6
    assert "no program that can ask a registry" in pinned.stderr
    assert not (tmp_path / "lock.json").exists()


def test_two_indexes_for_torch_are_refused() -> None:
    done = command("build", "--cpu", "--torch-index", "https://index.example.org")
    assert done.returncode == 2
    assert "give one of them" in done.stderr


def test_only_an_image_that_infra_names_is_pinned(tmp_path: Path) -> None:
    done = command("pin", "alpine:3", "--lock", str(tmp_path / "lock.json"))
    assert done.returncode == 2
    assert "infra names no alpine:3" in done.stderr
