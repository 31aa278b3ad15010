"""Build the images that the steps run in, and pin what `infra` names; around `docker build` and `pipelines.pins`."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import click

import sa2net
from pipelines import environments, pins
from pipelines.options import run_command
from sa2net.artifacts import MODEL_FILES, replaced_folder
from sa2net.errors import ClusterError
from sa2net.registry.environment import revision
from sa2net.registry.ready import ready_weights

TARGETS = ("tools", "torch")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""Where the makers of torch publish its builds for processors alone."""

READY = Path("build/ready")
"""Where the Dockerfile looks for the ready weights."""
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def build(
    tags: Mapping[str, str],
    *,
    base_image: str,
    torch_index: str = "",
    secrets: Mapping[str, Path] | None = None,
    docker: str = "docker",
) -> None:
    """Build images from the Dockerfile; the project's folder is the working directory.

    Args:
        tags: Target -> name of the image.
        base_image: Image that they stand on.
        torch_index: Further index whose build of torch is taken; empty = the one with CUDA.
        secrets: Secret of the build (`ca`, `pip`) -> file.
        docker: Client program.

    Raises:
        ClusterError: No engine, a client without BuildKit, or a build that failed.
    """
    client = client_with_engine(docker)
    weights = ready_weights()
    with replaced_folder(READY, MODEL_FILES) as folder:
        for file in MODEL_FILES:
            shutil.copy2(weights / file, folder)
    code = revision()
    arguments = {
        "BASE_IMAGE": base_image,
        "TORCH_INDEX": torch_index,
        "VERSION": sa2net.__version__,
        "REVISION": code.commit + ("-dirty" if code.dirty else ""),
        "CREATED": _created(),
    }
    options = [item for name, value in arguments.items() for item in ("--build-arg", f"{name}={value}")]
    for name, secret in (secrets or {}).items():
        options += ["--secret", f"id={name},src={secret.resolve()}"]
    for target, tag in tags.items():
        command = [client, "build", "--file", str(pins.DOCKERFILE), "--target", target, "--tag", tag, *options, "."]
        done = subprocess.run(command, check=False, env={**os.environ, "DOCKER_BUILDKIT": "1"})  # noqa: S603
        if done.returncode:
            raise ClusterError(
                f"the image {tag} was not built",
                evidence=f"docker build of target {target} ended with {done.returncode}",
                action="The cause stands above. Behind a proxy with certificates of its own give --ca, for an index "
                "of your own --pip-config.",
            )


def client_with_engine(docker: str = "docker") -> str:
    """The client program, once an engine answers it and it can build with BuildKit.

    Raises:
        ClusterError: One of these is missing.
    """
    program = shutil.which(docker)
    if program is None:
        raise ClusterError(
            f"there is no program {docker} to build images with",
            action="Install Docker (Debian: docker.io), or name its client with --docker.",
        )
    answer = pins.output([program, "version", "--format", "{{.Server.Version}}"])
    if answer.returncode:
        raise ClusterError(
            "no Docker engine answers",
            evidence=pins.last_line(answer.stderr),
            action="Start it, or name its socket in DOCKER_HOST, and see that you may use it.",
        )
    usage = pins.output(["env", "DOCKER_BUILDKIT=1", program, "build", "--help"])
    if "--secret" not in usage.stdout:
        raise ClusterError(
            f"{program} cannot build with BuildKit",
            evidence="its build command knows no --secret",
            action="Install its buildx plugin, or name another client with --docker.",
        )
    return program


def _created() -> str:
    """When the images are made, or the time that a reproducible build sets."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    time = datetime.fromtimestamp(int(given), UTC) if given.isdecimal() else datetime.now(UTC)
    return time.isoformat(timespec="seconds")


@click.group("pipelines.images", context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Build the images of the pipeline, and pin what infra names to digests."""


@main.command("build")
@click.option("--env", default="laptop", show_default=True, help="Environment whose names the images get.")
@click.option("--target", "targets", multiple=True, type=click.Choice(TARGETS), help="This one alone; default: both.")
@click.option("--base-image", default="", help="Image to stand on; default: the Dockerfile's, by digest if pinned.")
@click.option("--cpu", is_flag=True, help="Take the build of torch for processors alone, from its makers' index.")
@click.option("--torch-index", default="", metavar="URL", help="Take the build of torch that this further index has.")
@click.option("--ca", type=FILE, envvar="PIP_CERT", help="Certificates that pip trusts in the build. [$PIP_CERT]")
@click.option("--pip-config", type=FILE, help="pip.conf of the build; may hold a password, stays in no layer.")
@click.option("--docker", default="docker", show_default=True, help="Client program.")
def build_command(
    env: str,
    targets: tuple[str, ...],
    base_image: str,
    cpu: bool,
    torch_index: str,
    ca: Path | None,
    pip_config: Path | None,
    docker: str,
) -> None:
    """Build the images.

    Example: python -m pipelines.images build --cpu
    """
    if cpu and torch_index:
        raise click.UsageError("--cpu and --torch-index name two indexes; give one of them")
    names = environments.load(env).images.model_dump()
    tags = {target: names[target].partition("@")[0] for target in targets or TARGETS}
    secrets = {name: file for name, file in (("ca", ca), ("pip", pip_config)) if file is not None}
    base = base_image or pins.locked(pins.default_base())
    if not base_image and "@sha256:" not in base:
        click.echo(f"not pinned: {base} (`make pin` resolves it)", err=True)
    build(tags, base_image=base, torch_index=torch_index or (CPU_INDEX if cpu else ""), secrets=secrets, docker=docker)
    for tag in tags.values():
        click.echo(tag)


@main.command("pin")
@click.argument("images", nargs=-1, metavar="[NAME:TAG]...")
@click.option("--lock", type=click.Path(path_type=Path), default=environments.IMAGE_LOCK, show_default=True)
def pin_command(images: tuple[str, ...], lock: Path) -> None:
    """Ask registries for the digests of all images that infra names, or of the named ones alone.

    Example: python -m pipelines.images pin python:3.11-slim-bookworm
    """
    named = pins.named_images()
    unknown = sorted(set(images) - set(named))
    if unknown:
        raise click.UsageError(f"infra names no {unknown[0]}; it names {', '.join(named)}")
    asked = images or [image for image in named if not image.startswith(pins.PLACEHOLDER)]
    for image in sorted(set(named) - set(asked)) if not images else ():
        click.echo(f"left out: {image} (write your registry into {', '.join(named[image])})", err=True)
    known = pins.pin(asked, lock, keep=bool(images))
    for image, digest in sorted(known.items()):
        click.echo(f"{image} {digest}")


if __name__ == "__main__":
    run_command(main)
