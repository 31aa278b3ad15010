"""Run tasks in the project's images on this machine, as strictly as a cluster does: no root, nothing writable but mounts.

The folders that steps need are mounted at the paths that they have here, so that addresses which MLflow keeps (of its
artifacts, for one) mean the same inside and outside.
"""

import os
from pathlib import Path
from typing import Any

from kfp import local

from pipelines.environments import Environment, quantity
from sa2net.errors import ClusterError

PASSED_ON = ("MLFLOW_", "AWS_", "SA2NET_EXECUTION")
"""Starts of the variables of this shell that a task gets: addresses and credentials, which stand in no file."""


def docker_runner(environment: Environment, *, root: Path, remote: str = "") -> local.DockerRunner:
    """The runner of `kfp.local` for the images of an environment.

    Args:
        environment: Images; `volume.mount` is a folder of this machine that outlives containers.
        root: Folder of the run's outputs; made, and given to the user of the containers.
        remote: Folder of a DVC remote, mounted to be read; anything else is reached over the network.

    Raises:
        ClusterError: No engine answers, or an image is not there.
    """
    import docker
    from docker.types import Mount

    client = _engine(docker)
    try:
        for image in environment.images.model_dump().values():
            _require_image(docker, client, image)
    finally:
        client.close()
    user, group = _user(environment)
    var = Path(environment.volume.mount)
    for folder in (root, var):
        _give(folder, user, group)
    mounts = [Mount(str(var), str(var), type="bind")]
    if remote and "://" not in remote:
        mounts.append(Mount(str(Path(remote).resolve()), str(Path(remote).resolve()), type="bind", read_only=True))
    return local.DockerRunner(
        user=f"{user}:{group}",
        read_only=True,
        tmpfs={"/tmp": "size=4g,mode=1777"},  # noqa: S108 - inside the container
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        shm_size=int(quantity(environment.shared_memory or "64Mi")),
        network_mode="host",  # servers on the loopback address of this machine are the user's own
        mounts=mounts,
        environment={name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)},
    )


def _engine(docker: Any) -> Any:
    try:
        client = docker.from_env()
        client.ping()
    except Exception as error:
        raise ClusterError(
            "no container engine answers",
            evidence=" ".join(str(error).split())[:300],
            action="Start Docker, or set DOCKER_HOST; `make local` needs no engine.",
        ) from error
    return client


def _require_image(docker: Any, client: Any, image: str) -> None:
    try:
        client.images.get(image)
    except docker.errors.ImageNotFound as error:
        raise ClusterError(
            f"the image {image} is not on this machine",
            action="Build it with `make images`, or name another one in infra/environments.yaml.",
        ) from error


def _user(environment: Environment) -> tuple[int, int]:
    """Whoever runs this; never root."""
    if os.getuid():
        return os.getuid(), os.getgid()
    return environment.run_as_user, environment.run_as_user


def _give(folder: Path, user: int, group: int) -> None:
    """Make a folder that the user of the containers can write; what lies in it already, too."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.getuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, user, group, follow_symlinks=False)
