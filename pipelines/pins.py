"""Pin every image that `infra` names to a digest, in `infra/images.lock.json`.

A digest is what a registry says of a tag, never a guess: a registry that does not answer is an error, and the old lock
stays. Registries are asked through the clients that engines use themselves (skopeo, or Docker's buildx): they know
logins, mirrors and certificates of this machine.
"""

import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipelines import environments
from sa2net.artifacts import write_json
from sa2net.errors import ClusterError, ConfigError

DOCKERFILE = Path("infra/docker/Dockerfile")
MANIFESTS = ("infra/compose", "infra/kubernetes")
PLACEHOLDER = "registry.example.org/"
"""Start of the names that stand where a team writes its own registry."""
ASK_TIMEOUT = 60
"""Seconds that a program has to answer."""

_BASE = re.compile(r"^ARG BASE_IMAGE=(\S+)", re.MULTILINE)
_LOGGED = re.compile(r'\bmsg="(.*)"$')
_DIGEST = re.compile(r"^sha256:[0-9a-f]{64}$")


def pin(images: Iterable[str], lock: Path = environments.IMAGE_LOCK, *, keep: bool = False) -> dict[str, str]:
    """Resolve images and write the lock; nothing is written unless all of them are known.

    Args:
        images: Images by tag.
        lock: The lock file.
        keep: Keep the entries of other images.

    Returns:
        Image -> digest, of the whole lock.

    Raises:
        ClusterError: See `resolve`.
    """
    known = environments.read_lock(lock) if keep else {}
    known |= {image: resolve(image) for image in images}
    write_json(lock, {"schema_version": environments.LOCK_VERSION, "images": known})
    return known


def locked(image: str, lock: Path = environments.IMAGE_LOCK) -> str:
    """The image by its digest where the lock knows it, else as it is."""
    known = environments.read_lock(lock)
    return f"{image}@{known[image]}" if image in known else image


def named_images(root: Path = Path()) -> dict[str, list[str]]:
    """Every image that `infra` names by tag and a registry has to resolve -> the files that name it.

    Images that only an engine here knows are left out: in the environments those without the name of a registry, in
    compose files those that are built.

    Raises:
        ConfigError: A file cannot be read, or an image is not written out.
    """
    found = {default_base(root / DOCKERFILE): [DOCKERFILE.as_posix()]}
    for image in _of_environments(root / environments.ENVIRONMENTS):
        found.setdefault(image, []).append(environments.ENVIRONMENTS.as_posix())
    for folder in MANIFESTS:
        for path in sorted([*(root / folder).rglob("*.yaml"), *(root / folder).rglob("*.yml")]):
            for image in _images_in(list(_documents(path))):
                found.setdefault(image, []).append(path.relative_to(root).as_posix())
    for image, files in found.items():
        if "$" in image:
            raise ConfigError(f"{files[0]} does not write its image out", evidence=image, action="Write NAME:TAG.")
    return {image: sorted(set(files)) for image, files in sorted(found.items()) if "@sha256:" not in image}


def default_base(dockerfile: Path = DOCKERFILE) -> str:
    """The base image that the Dockerfile names, by tag.

    Raises:
        ConfigError: It names none.
    """
    found = _BASE.search(_read(dockerfile))
    if found is None:
        raise ConfigError(f"{dockerfile} names no base image", action="Give it a line ARG BASE_IMAGE=NAME:TAG.")
    return found[1]


def resolve(image: str) -> str:
    """The digest that a registry has for an image; of an image for several processors, that of their list.

    Raises:
        ConfigError: The image names no tag.
        ClusterError: No client for registries, or the registry does not answer or does not know the image.
    """
    if ":" not in image.rpartition("/")[2]:
        raise ConfigError(f"the image {image} names no tag", action="Write NAME:TAG.")
    answer = output(_question(image))
    digest = answer.stdout.strip()
    if answer.returncode or not _DIGEST.match(digest):
        raise ClusterError(
            f"the digest of {image} is not known",
            evidence=last_line(answer.stderr) or f"the answer was {digest[:80]!r}",
            action="Check the name, push the image, log in (docker login), or try again once the registry answers; "
            "the lock stays as it was.",
        )
    return digest


def output(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """What a program says; one that cannot be run or does not end has failed."""
    try:
        return subprocess.run(  # noqa: S603 - programs found on the path, no shell
            list(command), capture_output=True, text=True, errors="replace", check=False, timeout=ASK_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(list(command), 124, "", f"no answer within {ASK_TIMEOUT} s")
    except OSError as error:
        return subprocess.CompletedProcess(list(command), 126, "", str(error))


def last_line(text: str) -> str:
    """The line of a program's messages that says most: its last one, without the time and level of a log."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return ""
    logged = _LOGGED.search(lines[-1])
    return logged[1].replace('\\"', '"') if logged else lines[-1]


def _question(image: str) -> list[str]:
    """The command that asks for a digest.

    Raises:
        ClusterError: No client for registries.
    """
    if skopeo := shutil.which("skopeo"):
        # As engines do: a registry on this machine may speak plain HTTP.
        plain = ["--tls-verify=false"] if _host(image).startswith(("localhost", "127.")) else []
        return [skopeo, "inspect", *plain, "--no-tags", "--format", "{{.Digest}}", f"docker://{image}"]
    docker = shutil.which("docker")
    if docker and not output([docker, "buildx", "version"]).returncode:
        return [docker, "buildx", "imagetools", "inspect", "--format", "{{.Manifest.Digest}}", image]
    raise ClusterError(
        "there is no program that can ask a registry for digests",
        action="Install skopeo (a package of Debian and others), or Docker with its buildx plugin.",
    )


def _host(image: str) -> str:
    """The registry that an image names, by the rule of engines; empty for their default one."""
    first, slash, _ = image.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else ""


def _of_environments(file: Path) -> list[str]:
    sections = next(_documents(file), None)
    found = []
    for section in sections.values() if isinstance(sections, dict) else ():
        images = section.get("images") if isinstance(section, dict) else None
        found += [str(image) for image in images.values()] if isinstance(images, dict) else []
    return [image for image in found if _host(image)]


def _images_in(node: Any) -> list[str]:
    """Values of `image` anywhere in a manifest, but those of compose services that are built; new names in kustomizations."""
    if isinstance(node, list):
        return [image for item in node for image in _images_in(item)]
    if not isinstance(node, dict):
        return []
    if node.get("kind") in ("Kustomization", "Component"):
        renamed = [item for item in node.get("images", []) if "digest" not in item]
        return [f"{item.get('newName', item['name'])}:{item['newTag']}" for item in renamed if "newTag" in item]
    image = node.get("image")
    own = [image] if isinstance(image, str) and image and "build" not in node else []
    return own + [image for item in node.values() for image in _images_in(item)]


def _documents(path: Path) -> Iterator[Any]:
    try:
        yield from yaml.safe_load_all(_read(path))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML", evidence=" ".join(str(error).split()), action="Mend it.") from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read", evidence=str(error), action="Call this in the project's folder."
        ) from error
