"""A Docker engine of the tests' own, and a base image made without a registry.

The engine has its own data, state and socket in a folder of the test session, and only that engine is ended. The base
image is a small Debian, made by debootstrap from the mirror that this machine's apt is set to, and kept between
sessions in `$SA2NET_TEST_CACHE` (default: a folder below the system's temporary one).
"""

import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).parents[2]
BASE_IMAGE = "localtest/python:3.11"
START_TIMEOUT = 30
"""Seconds that an engine has to start or end."""

HARDENED = (
    "--rm",
    "--network",
    "none",
    "--read-only",
    "--cap-drop",
    "ALL",
    "--security-opt",
    "no-new-privileges",
    "--tmpfs",
    "/tmp",
)

_SUITE = "bookworm"
_PACKAGES = "python3-minimal,python3-venv,ca-certificates"
_SURPLUS = (
    "var/cache/apt",
    "var/lib/apt/lists",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "etc/apt/sources.list",
    "etc/hostname",
    "usr/lib/python3.11/EXTERNALLY-MANAGED",
)


@dataclass(frozen=True)
class Engine:
    """A running engine.

    Attributes:
        client: Client program.
        host: Address of the engine.
    """

    client: str
    host: str

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which any client speaks to this engine."""
        return {**os.environ, "DOCKER_HOST": self.host, "DOCKER_BUILDKIT": "1"}

    def __call__(
        self, *arguments: str, check: bool = True, timeout: float = 600, text: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Call the client.

        Args:
            arguments: Its command line.
            check: Fail the test if it fails.
            timeout: Seconds it may take.
            text: What it reads.
        """
        done = subprocess.run(
            [self.client, *arguments],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            env=self.environment,
            timeout=timeout,
        )
        assert not check or not done.returncode, f"docker {' '.join(arguments)}: {done.stderr[-3000:]}"
        return done


def what_is_missing() -> str:
    """Why no engine can be started here; empty if one can."""
    if os.geteuid():
        return "an engine of the tests' own needs root"
    if builder() is None:
        return "no docker client that can build with BuildKit (Debian: docker.io)"
    missing = [name for name in ("dockerd", "debootstrap") if program(name) is None]
    if missing:
        return f"{missing[0]} is not installed (Debian: docker.io, debootstrap)"
    return "" if mirror() else "apt here names no mirror that a base image could be made from"


def program(name: str) -> str | None:
    """A program, also from where only root looks."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def builder() -> str | None:
    """The first docker client on the path that can build with BuildKit; one without its plugin cannot."""
    for folder in [*os.environ.get("PATH", "").split(os.pathsep), "/usr/bin"]:
        client = shutil.which("docker", path=folder)
        if client and "--secret" in _said(client, "build", "--help"):
            return client
    return None


def mirror() -> str:
    """The mirror that apt uses here; read when it is needed, since no address belongs into the project."""
    for file in (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")):
        for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
            words = line.split()
            if words[:1] == ["URIs:"] and len(words) > 1:
                return words[1]
            if words[:1] == ["deb"]:
                return next(word for word in words[1:] if "://" in word)
    return ""


@contextmanager
def started(folder: Path) -> Iterator[Engine]:
    """An engine whose data and state lie in `folder`; ended and cleared away afterwards.

    Raises:
        RuntimeError: It does not start here.
    """
    daemon, client = program("dockerd"), builder()
    assert daemon is not None
    assert client is not None
    # A socket's path is limited to about 100 characters, which the folders of pytest use up.
    sockets = Path(tempfile.mkdtemp(prefix="sa2net-engine-"))
    engine = Engine(client, f"unix://{sockets}/docker.sock")
    pid_file = sockets / "docker.pid"
    command = [daemon, "--data-root", str(folder / "data"), "--exec-root", str(sockets / "exec"), "--host", engine.host]
    with (folder / "dockerd.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--pidfile", str(pid_file)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait_for(engine, process, folder / "dockerd.log")
        yield engine
    finally:
        _end(process)
        subprocess.run(
            ["umount", "--quiet", str(sockets / "exec" / "netns" / "default")], check=False, capture_output=True
        )
        shutil.rmtree(sockets, ignore_errors=True)
        shutil.rmtree(folder / "data", ignore_errors=True)


def load_base_image(engine: Engine) -> str:
    """Give an engine the base image.

    Returns:
        Its name.
    """
    if engine("image", "inspect", BASE_IMAGE, check=False).returncode:
        engine("import", "--change", 'CMD ["python3"]', str(_base_archive()), BASE_IMAGE)
    return BASE_IMAGE


def _wait_for(engine: Engine, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while engine("info", check=False).returncode:
        if process.poll() is not None or time.monotonic() > deadline:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            raise RuntimeError(f"no engine can be started here: {lines[-1] if lines else 'it said nothing'}")
        time.sleep(0.2)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(START_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _base_archive() -> Path:
    """The archive of the base image, made if this recipe has not been made here yet."""
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("SA2NET_TEST_CACHE") or Path(tempfile.gettempdir()) / "sa2net-test-cache")
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    archive = cache / f"base-{recipe}.tar"
    with FileLock(cache / "base.lock"):
        if not archive.is_file():
            _make_base(archive)
    return archive


def _make_base(archive: Path) -> None:
    debootstrap = program("debootstrap")
    assert debootstrap is not None
    scratch = Path(tempfile.mkdtemp(dir=archive.parent, prefix=".base."))
    root = scratch / "root"
    try:
        _call(debootstrap, "--variant=minbase", f"--include={_PACKAGES}", _SUITE, str(root), mirror())
        for name in _SURPLUS:
            path = root / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        (root / "etc/resolv.conf").write_bytes(b"")
        fresh = scratch / "base.tar"
        _call("tar", "-C", str(root), "--numeric-owner", "--sort=name", "--mtime=@0", "-cf", str(fresh), ".")
        fresh.replace(archive)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {(done.stdout + done.stderr)[-2000:]}")


def _said(*command: str) -> str:
    done: Sequence[str] | subprocess.CompletedProcess[str]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=30, env={**os.environ, "DOCKER_BUILDKIT": "1"}
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
