"""The images as they come from the Dockerfile: small, safe, self-describing, and able to do their steps' work."""

import csv
import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
from conftest import REVISION, Images
from engine import HARDENED, ROOT, Engine
from packaging.utils import canonicalize_name

import sa2net
from pipelines.images import TARGETS
from sa2net.telemetry import NO_TELEMETRY

LARGEST_TOOLS = 900_000_000
SAY_NOTHING = {"cuda-toolkit", "huey", "skops"}
"""Packages whose metadata names no licence."""

LIST_INSTALLED = """
import importlib.metadata, json
print(json.dumps([[item.metadata["Name"], item.version] for item in importlib.metadata.distributions()]))
"""

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


def run(engine: Engine, image: str, *command: str, options: tuple[str, ...] = ()) -> str:
    return engine("run", *HARDENED, *options, image, *command).stdout


def described(engine: Engine, image: str) -> dict[str, Any]:
    return json.loads(engine("image", "inspect", image).stdout)[0]


@pytest.fixture(params=TARGETS)
def image(images: Images, request: pytest.FixtureRequest) -> str:
    return images.names[request.param]


def test_starts_without_rights_on_a_read_only_root(engine: Engine, image: str) -> None:
    said = run(engine, image, "sh", "-c", "id -u && id -g && python -m sa2net --help")
    assert said.splitlines()[:2] == ["10001", "10001"]
    assert "Usage: sa2net" in said


def test_nothing_stands_before_the_command(engine: Engine, image: str) -> None:
    config = described(engine, image)["Config"]
    assert not config["Entrypoint"]
    assert config["User"] == "10001:10001"


def test_says_what_it_is(engine: Engine, image: str) -> None:
    config = described(engine, image)["Config"]
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in config["Labels"].items()}
    assert labels["title"] == image.partition(":")[0]
    assert labels["licenses"] == "Apache-2.0"
    assert labels["version"] == sa2net.__version__
    assert labels["revision"] == REVISION
    assert labels["created"] == "2023-11-14T22:13:20+00:00"
    assert "Research use only" in labels["description"]
    assert f"SA2NET_REVISION={REVISION}" in config["Env"]


def test_reports_nothing_home(engine: Engine, image: str) -> None:
    environment = dict(item.split("=", 1) for item in described(engine, image)["Config"]["Env"])
    assert NO_TELEMETRY.items() <= environment.items()


def test_tools_are_small_and_without_torch(engine: Engine, images: Images) -> None:
    tools = images.names["tools"]
    assert described(engine, tools)["Size"] < LARGEST_TOOLS
    installed = {canonicalize_name(name) for name, _ in json.loads(run(engine, tools, "python", "-c", LIST_INSTALLED))}
    assert not [name for name in installed if re.match(r"torch|nvidia|triton", name)]


def test_torch_loads_with_everything_that_trains(engine: Engine, images: Images) -> None:
    code = "import torch, torchvision, sa2net.steps.train, sa2net.steps.register; print(torch.ones(2).sum().item())"
    assert run(engine, images.names["torch"], "python", "-c", code).strip() == "2.0"


def test_executes_components_without_the_dependencies_of_kfp(engine: Engine, image: str) -> None:
    code = "import kfp.dsl.executor_main, importlib.util as u; print(kfp.__version__, u.find_spec('kfp_server_api'))"
    assert run(engine, image, "python", "-c", code).split() == ["2.17.0", "None"]


@pytest.mark.parametrize("user", ["10001:10001", "54321:12345"])
def test_any_user_validates_without_a_network(
    engine: Engine, images: Images, shared_data_root: Path, tmp_path: Path, user: str
) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o777)
    out.chmod(0o777)  # whatever the umask
    mounts = ("--volume", f"{shared_data_root}:/data:ro", "--volume", f"{out}:/out", "--user", user)
    command = ("python", "-m", "sa2net", "validate", "--data", "/data", "--out", "/out/validate")
    said = run(engine, images.names["tools"], *command, options=mounts)
    assert "11 scans can be used" in said
    written = json.loads((out / "validate" / "run.json").read_text(encoding="utf-8"))
    assert written["revision"] == REVISION.removesuffix("-dirty")
    assert written["dirty"] is True
    assert written["run_id"], "the run was tracked in the container's own store"


def test_bill_of_materials_lists_what_is_installed(engine: Engine, image: str) -> None:
    installed = {
        canonicalize_name(name): version
        for name, version in json.loads(run(engine, image, "python", "-c", LIST_INSTALLED))
    }
    assert installed["numpy"]
    assert installed["mlflow-skinny"]
    bill = json.loads(run(engine, image, "cat", "/usr/share/sa2net/sbom.cdx.json"))
    assert bill["bomFormat"] == "CycloneDX"
    assert {canonicalize_name(part["name"]): part["version"] for part in bill["components"]} == installed
    rows = csv.DictReader(io.StringIO(run(engine, image, "cat", "/usr/share/sa2net/licences.csv")))
    licences = {canonicalize_name(row["Name"]): row["License"] for row in rows}
    assert licences.keys() == installed.keys()
    assert {name for name, licence in licences.items() if licence == "UNKNOWN"} <= SAY_NOTHING


def test_keeps_no_pip_and_no_leftovers(engine: Engine, image: str) -> None:
    places = "/root /tmp /build /requirements /project /run/secrets /opt/sa2net/bin/pip*"
    code = f"find {places} -type f ! -name .bashrc ! -name .profile 2>/dev/null; find / -xdev -size +0 -name 'pip.conf'"
    said = engine("run", "--rm", "--user", "0:0", "--network", "none", image, "sh", "-c", code).stdout
    assert said == ""


def test_no_secret_of_the_build_lies_in_a_layer(engine: Engine, images: Images, tmp_path: Path) -> None:
    archive = tmp_path / "tools.tar"
    engine("save", "--output", str(archive), images.names["tools"])
    assert holders(archive, b"org.opencontainers.image.revision"), "the search finds what is there"
    for canary in images.canaries:
        assert holders(archive, canary.encode()) == []
    archive.unlink()


def test_no_secret_of_the_build_lies_in_a_layer_of_torch(engine: Engine, images: Images) -> None:
    """The layers as the engine keeps them, since an archive of them takes long."""
    data = described(engine, images.names["torch"])["GraphDriver"]["Data"]
    layers = [Path(layer) for layer in (data["UpperDir"] + ":" + data.get("LowerDir", "")).split(":") if layer]
    texts = [path for layer in layers for path in layer.rglob("*") if path.is_file() and not path.is_symlink()]
    small = [path for path in texts if path.stat().st_size < 5_000_000]
    assert len(small) > 1000
    found = [path for path in small if any(canary.encode() in path.read_bytes() for canary in images.canaries)]
    assert found == []
    history = engine("history", "--no-trunc", images.names["torch"]).stdout
    assert not [canary for canary in images.canaries if canary in history]


def test_context_holds_code_alone(engine: Engine, tmp_path: Path) -> None:
    """Whatever lies in a checkout, only what the images are made of is sent to the engine."""
    context = tmp_path / "project"
    wanted = ["sa2net/data/store.py", "components/train.py", "pipelines/runtime.py", "infra/docker/Dockerfile"]
    wanted += ["pyproject.toml", "constraints.txt", "README.md", "LICENSE", "NOTICE"]
    unwanted = [
        ".git/config",
        ".venv/x",
        "data/scan.png",
        "var/mlflow.db",
        "build/model.safetensors",
        "starter/x",
        "tests/x",
    ]
    unwanted += [".env", "sa2net/.env", "sa2net/key.pem", "sa2net/tls.key", "sa2net/__pycache__/x.pyc", "params.yaml"]
    unwanted += [
        ".dvc/config.local",
        "infra/kubernetes/secret.yaml",
        "infra/compose/.env",
        "infra/docker/.env",
        "docs/x",
    ]
    for name in [*wanted, *unwanted]:
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).write_text("x", encoding="utf-8")
    (context / ".dockerignore").write_text((ROOT / ".dockerignore").read_text(encoding="utf-8"), encoding="utf-8")
    listing = tmp_path / "listing.tar"
    engine(
        "build", "--file", "-", "--output", f"type=tar,dest={listing}", str(context), text="FROM scratch\nCOPY . /\n"
    )
    with tarfile.open(listing) as archive:
        assert sorted(item.name for item in archive if item.isfile()) == sorted(wanted)


def holders(archive: Path, text: bytes) -> list[str]:
    """Files of a saved image that hold a text; layers are archives themselves and searched as they are."""
    found = []
    with tarfile.open(archive) as files:
        for item in files:
            stream = files.extractfile(item) if item.isfile() else None
            tail = b""
            while stream and (block := stream.read(1 << 24)):
                if text in tail + block:
                    found.append(item.name)
                    break
                tail = block[-len(text) :]
    return found
