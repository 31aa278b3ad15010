"""Fixtures of the tests in real containers: an engine, the base image, the project's images.

`SA2NET_TEST_DOCKER_HOST` names an engine that already runs, so that work on one test need not build the images anew.
"""

import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import engine as engines
from engine import ROOT, Engine

from pipelines.images import TARGETS

REVISION = "0123456789abcdef0123456789abcdef01234567-dirty"


@dataclass(frozen=True)
class Images:
    """The project's images, built from the Dockerfile.

    Attributes:
        names: Target -> name.
        canaries: Texts that were in the secrets of the build, and may be nowhere else.
    """

    names: dict[str, str]
    canaries: tuple[str, ...]


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A Docker engine of the tests' own."""
    reason = engines.what_is_missing()
    if reason:
        pytest.skip(reason)
    running = os.environ.get("SA2NET_TEST_DOCKER_HOST")
    if running:
        yield Engine(str(engines.builder()), running)
        return
    try:
        with engines.started(tmp_path_factory.mktemp("engine")) as fresh:
            yield fresh
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def base_image(engine: Engine) -> str:
    """A small Debian with Python 3.11, made without a registry."""
    return engines.load_base_image(engine)


@pytest.fixture(scope="session")
def images(engine: Engine, base_image: str, tmp_path_factory: pytest.TempPathFactory) -> Images:
    """Both images, built by the project's own command, with secrets that must not stay in them."""
    folder = tmp_path_factory.mktemp("build")
    canaries = ("canary-of-the-certificates-5d1f", "canary-of-the-pip-configuration-a90c")
    bundle = os.environ.get("PIP_CERT") or ssl.get_default_verify_paths().cafile or ""
    certificates = Path(bundle).read_text(encoding="utf-8") if bundle else ""
    (folder / "ca.pem").write_text(f"{certificates}\n# {canaries[0]}\n", encoding="utf-8")
    (folder / "pip.conf").write_text(f"# {canaries[1]}\n[global]\ntimeout = 180\n", encoding="utf-8")
    command = [sys.executable, "-m", "pipelines.images", "build", "--base-image", base_image, "--docker", engine.client]
    secrets = ["--ca", str(folder / "ca.pem"), "--pip-config", str(folder / "pip.conf")]
    done = subprocess.run(
        [*command, *secrets],
        cwd=ROOT,
        env={**engine.environment, "SA2NET_REVISION": REVISION, "SOURCE_DATE_EPOCH": "1700000000"},
        capture_output=True,
        text=True,
        check=False,
        timeout=1500,
    )
    assert not done.returncode, done.stderr[-4000:]
    names = dict(zip(TARGETS, done.stdout.split(), strict=True))
    return Images(names, canaries)
