"""The state of the code: commit, and how the files differ from it, so that a run can be made again from them.

The revision is that of the checkout which this package lies in, whatever the working directory; an image has no
checkout and carries the revision in `SA2NET_REVISION` (with `-dirty` behind it if it was built from changed files).
"""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import sa2net
from sa2net.artifacts import file_sha256

LARGEST_DIFF = 1_000_000
CUT_OFF = "the difference was cut off here"
"""Ends a difference that was longer than `LARGEST_DIFF`: it cannot be applied."""
NOT_KEPT = "new file, not tracked: "
"""Begins the line of a new file whose content is not part of a difference."""

PROJECT = Path(sa2net.__file__).resolve().parents[1]
_PACKAGE = Path(sa2net.__file__).resolve().parent
_CODE_SUFFIXES = frozenset((".py", ".j2", ".json"))
_IGNORED = ":(exclude)dvc.lock"


@dataclass(frozen=True)
class Revision:
    """The state of the code.

    Attributes:
        commit: Git commit; empty where it is not known.
        branch: Branch; empty for a detached head.
        dirty: Whether files differ from that commit; `dvc.lock`, which every run rewrites, does not count.
        diff: The difference as a patch. New files of the package are in it; of others the names alone, since nobody
            asked for their content to be sent anywhere.
    """

    commit: str = ""
    branch: str = ""
    dirty: bool = False
    diff: str = ""

    @property
    def diff_sha256(self) -> str:
        """Identity of the difference as it is kept with a run (`code.diff`); empty without one."""
        return hashlib.sha256(f"{self.diff}\n".encode()).hexdigest() if self.diff else ""


def revision(project: Path = PROJECT) -> Revision:
    """The state of the code in a checkout, or what an image says of itself."""
    given = os.environ.get("SA2NET_REVISION", "").strip()
    if given:
        return Revision(commit=given.removesuffix("-dirty"), dirty=given.endswith("-dirty"))
    commit = _git(project, "rev-parse", "HEAD").strip()
    # An installed copy inside somebody else's checkout is not part of it.
    if not commit or not _git(project, "ls-files", "--", "sa2net/__init__.py"):
        return Revision()
    changes = _git(project, "status", "--porcelain", "--untracked-files=normal", "--", ".", _IGNORED)
    diff = _difference(project, changes) if changes else ""
    return Revision(commit, _git(project, "branch", "--show-current").strip(), bool(changes), diff)


def code_hashes(parts: Iterable[str]) -> dict[str, str]:
    """Path below the package -> sha256 of every file of code in some of its parts.

    Args:
        parts: Modules (`anatomy.py`) and folders (`data`) of the package.
    """
    places = [_PACKAGE / part for part in parts]
    files = sorted(file for place in places for file in ([place] if place.is_file() else place.rglob("*.py")))
    return {file.relative_to(_PACKAGE).as_posix(): file_sha256(file) for file in files}


def code_sha256(parts: Iterable[str]) -> str:
    """Identity of the code in some parts of the package; see `code_hashes`."""
    return hashlib.sha256(json.dumps(code_hashes(parts), sort_keys=True).encode()).hexdigest()


def _difference(project: Path, changes: str) -> str:
    """The patch from the commit to the files as they are, which `git apply` takes; then the names of other new files.

    Args:
        project: The checkout.
        changes: What `git status --porcelain` says.
    """
    form = ("--no-color", "--no-ext-diff", "--no-textconv", "--binary", "--src-prefix=a/", "--dst-prefix=b/")
    fresh = _git(project, "ls-files", "--others", "--exclude-standard", "-z", "--", "sa2net").split("\0")
    code = [name for name in fresh if Path(name).suffix in _CODE_SUFFIXES]
    others = [line[3:] for line in changes.splitlines() if line.startswith("??") and not line.startswith("?? sa2net/")]
    others += [name for name in fresh if name and name not in code]
    text = _git(project, "diff", "HEAD", *form, "--relative", "--", ".", _IGNORED)
    text += "".join(_git(project, "diff", *form, "--no-index", "--", os.devnull, name, differs=1) for name in code)
    if len(text) > LARGEST_DIFF:
        text = f"{text[:LARGEST_DIFF]}\n{CUT_OFF}\n"
    return text + "\n".join(NOT_KEPT + name for name in others)


def _git(project: Path, *arguments: str, differs: int = 0) -> str:
    """Output of a git command; empty where there is no git or no checkout.

    Args:
        project: Where it runs.
        arguments: Its arguments.
        differs: Another exit code that is no failure.
    """
    program = shutil.which("git")
    if program is None:
        return ""
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments
            [program, "-C", str(project), *arguments],
            capture_output=True,
            check=False,
            timeout=30,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", errors="replace") if done.returncode in (0, differs) else ""
