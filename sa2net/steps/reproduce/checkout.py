"""The code of a version, in a folder of its own: a clone that borrows the objects of a repository and changes nothing there."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sa2net.errors import ConfigError, StorageError
from sa2net.registry.records import Record
from sa2net.registry.revision import CUT_OFF, NOT_KEPT

_HIDDEN = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")
"""What a git command that called us has set for its own repository."""


@dataclass(frozen=True)
class Code:
    """A state of the code.

    Attributes:
        commit: Git commit.
        dirty: Whether files differed from it.
        diff_sha256: Identity of the difference that was kept; empty if none was.
    """

    commit: str
    dirty: bool
    diff_sha256: str

    @classmethod
    def of(cls, *records: Record) -> "Code":
        """The code of the first run that knows it.

        Raises:
            StorageError: None does.
        """
        for record in records:
            if record.get("revision") not in ("", "unknown"):
                return cls(record.get("revision"), record.get("dirty") == "true", record.get("diff_sha256"))
        raise StorageError(
            "the version does not know which code made it",
            evidence="no revision is kept with it or its runs",
            action="Only a version whose steps ran in a git checkout can be made again.",
        )

    def __str__(self) -> str:
        return f"{self.commit[:12]}{' with its uncommitted changes' if self.dirty else ''}"


@dataclass(frozen=True)
class Checkout:
    """The code in a folder.

    Attributes:
        project: Folder of the project in it.
        missing: New files whose content was not kept.
    """

    project: Path
    missing: tuple[str, ...]


def check_out(code: Code, repository: Path, folder: Path, diffs: Mapping[str, str]) -> Checkout:
    """Put the code into a folder.

    Args:
        code: Which state of it.
        repository: A checkout of the project; it stays as it is.
        folder: New folder.
        diffs: Identity of a difference -> the difference.

    Raises:
        ConfigError: The repository is none.
        StorageError: It lacks the commit, or the difference was not kept, was cut off, was changed or cannot be applied.
    """
    patch, missing = _patch(code, diffs)
    top = _git(repository, "rev-parse", "--show-toplevel")
    if top.returncode:
        raise ConfigError(
            f"{repository} is no git checkout of this project",
            evidence=_said(top),
            action="Run this in a clone of the project, or name one with --repository.",
        )
    prefix = _git(repository, "rev-parse", "--show-prefix").stdout.decode().strip()
    if _git(repository, "cat-file", "-e", f"{code.commit}^{{commit}}").returncode:
        raise StorageError(
            f"the revision {code.commit[:12]} is not in this repository",
            evidence=str(repository),
            action="Fetch it (`git fetch --all`; in a shallow clone `git fetch --unshallow`), or run this in a clone that has it.",
        )
    folder.mkdir(parents=True)
    _clone(Path(top.stdout.decode().removesuffix("\n")), folder, code.commit)
    if patch:
        _apply(patch, folder, prefix)
    return Checkout(folder / prefix, missing)


def _patch(code: Code, diffs: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """The difference to apply, and the new files whose content it lacks."""
    if not code.dirty:
        return "", ()
    kept = diffs.get(code.diff_sha256, "")
    problem = ""
    if not kept:
        problem = "they were not kept"
    elif hashlib.sha256(kept.encode()).hexdigest() != code.diff_sha256:
        problem = "what is kept of them is not what was stored"
    elif f"\n{CUT_OFF}\n" in kept:
        problem = "they were too many to be kept whole"
    if problem:
        raise StorageError(
            "the version was made from uncommitted changes, and cannot be made again",
            evidence=f"{problem}; its commit is {code.commit[:12]}",
            action="Commit before a training that is to be reproduced.",
        )
    lines = kept.split("\n")
    missing = tuple(line.removeprefix(NOT_KEPT) for line in lines if line.startswith(NOT_KEPT))
    return "\n".join(line for line in lines if not line.startswith(NOT_KEPT)), missing


def _clone(source: Path, folder: Path, commit: str) -> None:
    """Check a commit out without copying objects; no hook runs, and nothing is written to the source."""
    objects = _git(source, "rev-parse", "--git-path", "objects").stdout.decode().strip()
    commands = (
        ("init", "--quiet", "--template="),
        ("checkout", "--quiet", "--detach", commit),
    )
    for number, command in enumerate(commands):
        done = _git(folder, "-c", f"core.hooksPath={os.devnull}", "-c", "core.autocrlf=false", *command)
        if done.returncode:
            raise StorageError(
                f"the revision {commit[:12]} cannot be checked out",
                evidence=_said(done),
                action="Check the repository.",
            )
        if number == 0:
            alternates = folder / ".git" / "objects" / "info" / "alternates"
            alternates.parent.mkdir(parents=True, exist_ok=True)
            alternates.write_text(f"{(source / objects).resolve()}\n", encoding="utf-8")


def _apply(patch: str, folder: Path, prefix: str) -> None:
    if not patch.strip():
        return
    where = [f"--directory={prefix}"] if prefix else []
    done = _git(folder, "apply", "--whitespace=nowarn", *where, "-", text=patch)
    if done.returncode:
        raise StorageError(
            "the uncommitted changes of the version cannot be applied to its commit",
            evidence=_said(done),
            action="Commit before a training that is to be reproduced.",
        )


def _git(place: Path, *arguments: str, text: str = "") -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("git")
    if program is None:
        raise ConfigError("git is not installed", action="Install it: the code of a version comes from a repository.")
    surroundings = {name: value for name, value in os.environ.items() if name not in _HIDDEN}
    surroundings |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1"}
    return subprocess.run(  # noqa: S603 - fixed arguments
        [program, "-C", str(place), *arguments], input=text.encode(), capture_output=True, check=False, env=surroundings
    )


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    return " ".join(done.stderr.decode(errors="replace").split())[:500]
