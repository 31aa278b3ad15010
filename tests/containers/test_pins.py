"""Digests come from a registry that really answers, or not at all: tested against one on loopback."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from engine import ROOT, Engine, program
from servers import end, free_port, wait_for_port

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"

pytestmark = pytest.mark.long


@dataclass
class Registry:
    """A registry on loopback, with an engine that pushes into it."""

    address: str
    engine: Engine

    def push(self, name: str, content: str) -> str:
        """Push an image that holds one file, and ask the registry itself for its digest."""
        image = f"{self.address}/{name}"
        archive = Path(self.engine.host.removeprefix("unix://")).parent / "one-file.tar"
        file = archive.with_suffix(".txt")
        file.write_text(content, encoding="utf-8")
        with tarfile.open(archive, "w") as files:
            files.add(file, "file.txt")
        self.engine("import", str(archive), image)
        self.engine("push", image)
        path, _, tag = name.rpartition(":")
        question = urllib.request.Request(
            f"http://{self.address}/v2/{path}/manifests/{tag}", headers={"Accept": MANIFEST}
        )
        with urllib.request.urlopen(question) as answer:
            return answer.headers["Docker-Content-Digest"]


@contextmanager
def serving(folder: Path, port: int) -> Iterator[None]:
    config = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    (folder / "registry.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with (folder / "registry.log").open("wb") as log:
        process = subprocess.Popen(
            [str(program("docker-registry")), "serve", str(folder / "registry.yaml")], stdout=log, stderr=log
        )
    try:
        wait_for_port(port, process)
        yield
    finally:
        end(process)


@pytest.fixture
def registry(engine: Engine, tmp_path: Path) -> Iterator[Registry]:
    if program("docker-registry") is None or shutil.which("skopeo") is None:
        pytest.skip("docker-registry and skopeo are not installed (Debian packages of these names)")
    port = free_port()
    with serving(tmp_path, port):
        yield Registry(f"127.0.0.1:{port}", engine)


@pytest.fixture
def project(tmp_path: Path, registry: Registry) -> Path:
    """A project whose infra names four images: base, ours, a service's, a cluster's; and two that no registry has."""
    root, host = tmp_path / "project", registry.address
    environments = {
        "laptop": {"images": {"tools": "stands-on-lock:local", "torch": "not-built:local"}},
        "cluster": {"images": {"tools": f"{host}/sa2net/tools:0.1.0", "torch": f"{host}/sa2net/tools:0.1.0"}},
    }
    compose = {"services": {"db": {"image": f"{host}/db:16"}, "mlflow": {"build": ".", "image": "sa2net-mlflow:local"}}}
    pod = {
        "kind": "Pod",
        "spec": {"initContainers": [{"image": f"{host}/init:1"}], "containers": [{"image": f"{host}/db:16"}]},
    }
    write(root / "infra/docker/Dockerfile", f"ARG BASE_IMAGE={host}/python:3.11\nFROM ${{BASE_IMAGE}}\n")
    write(root / "infra/environments.yaml", yaml.safe_dump(environments))
    write(root / "infra/compose/compose.yaml", yaml.safe_dump(compose))
    write(root / "infra/kubernetes/base/pod.yaml", yaml.safe_dump_all([{"kind": "Namespace"}, pod]))
    return root


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def pin(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines.images", "pin", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def lock(project: Path) -> dict[str, str]:
    content = json.loads((project / "infra/images.lock.json").read_text(encoding="utf-8"))
    assert content["schema_version"] == 1
    return content["images"]


def push_all(registry: Registry) -> dict[str, str]:
    names = ("python:3.11", "sa2net/tools:0.1.0", "db:16", "init:1")
    return {f"{registry.address}/{name}": registry.push(name, f"content of {name}") for name in names}


def test_pins_what_the_registry_says(registry: Registry, project: Path) -> None:
    pushed = push_all(registry)
    assert len(set(pushed.values())) == 4
    done = pin(project)
    assert not done.returncode, done.stderr
    assert lock(project) == pushed
    assert done.stdout.splitlines() == [f"{image} {digest}" for image, digest in sorted(pushed.items())]


def test_a_tag_that_moved_gets_its_new_digest_and_others_stay(registry: Registry, project: Path) -> None:
    pushed = push_all(registry)
    assert not pin(project).returncode
    moved = registry.push("python:3.11", "another content")
    assert moved != pushed[f"{registry.address}/python:3.11"]
    registry.push("db:16", "moved too, and not asked for")
    assert not pin(project, f"{registry.address}/python:3.11").returncode
    assert lock(project) == {**pushed, f"{registry.address}/python:3.11": moved}


def test_an_image_that_was_not_pushed_leaves_the_lock_as_it_was(registry: Registry, project: Path) -> None:
    pushed = push_all(registry)
    assert not pin(project).returncode
    write(
        project / "infra/compose/more.yml", yaml.safe_dump({"services": {"s3": {"image": f"{registry.address}/s3:9"}}})
    )
    done = pin(project)
    assert done.returncode == 6
    assert f"the digest of {registry.address}/s3:9 is not known" in done.stderr
    assert "manifest unknown" in done.stderr
    assert "Traceback" not in done.stderr
    assert lock(project) == pushed


def test_a_registry_that_is_away_is_an_error_and_nothing_is_invented(
    engine: Engine, registry: Registry, project: Path
) -> None:
    away = f"127.0.0.1:{free_port()}"
    for file in project.rglob("*"):
        if file.is_file():
            write(file, file.read_text(encoding="utf-8").replace(registry.address, away))
    done = pin(project)
    assert done.returncode == 6
    assert "connection refused" in done.stderr
    assert not (project / "infra/images.lock.json").exists()


def test_an_image_behind_a_variable_is_refused(registry: Registry, project: Path) -> None:
    write(project / "infra/compose/more.yml", yaml.safe_dump({"services": {"s3": {"image": "${S3_IMAGE:-s3:9}"}}}))
    done = pin(project)
    assert done.returncode == 2
    assert "infra/compose/more.yml does not write its image out" in done.stderr


def test_build_stands_on_the_locked_digest(registry: Registry, project: Path) -> None:
    """`build` asks for the base by digest: the engine pulls exactly what the lock says."""
    pushed = push_all(registry)
    assert not pin(project).returncode
    write(project / "infra/docker/Dockerfile", (project / "infra/docker/Dockerfile").read_text(encoding="utf-8").replace(
        "FROM ${BASE_IMAGE}", "FROM ${BASE_IMAGE} AS tools\nLABEL stands=on"
    ))  # fmt: skip
    registry.push("python:3.11", "another content, moved after the lock was written")
    command = [
        sys.executable,
        "-m",
        "pipelines.images",
        "build",
        "--target",
        "tools",
        "--docker",
        registry.engine.client,
    ]
    done = subprocess.run(
        command, cwd=project, env={**registry.engine.environment, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert not done.returncode, done.stderr
    assert pushed[f"{registry.address}/python:3.11"] in done.stderr
    said = registry.engine("create", "stands-on-lock:local", "none").stdout.strip()
    archive = project / "out.tar"
    registry.engine("cp", f"{said}:/file.txt", str(archive))
    registry.engine("rm", said)
    assert archive.read_text(encoding="utf-8") == "content of python:3.11"
