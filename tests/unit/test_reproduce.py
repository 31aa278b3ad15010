"""The parts of making a version again: its code in a clone, its data, this machine beside that one, number beside number."""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from factories import write_data_set

from sa2net.artifacts import PER_SCAN, SCORES, folder_sha256, write_json
from sa2net.data.store import data_md5
from sa2net.data.store.cache import ObjectCache
from sa2net.data.store.identity import file_md5
from sa2net.errors import ConfigError, DataError, DeviceError, StorageError
from sa2net.registry.records import Record
from sa2net.registry.revision import CUT_OFF, NOT_KEPT, Revision, revision
from sa2net.steps.reproduce import Outcome, machine, summary
from sa2net.steps.reproduce.checkout import Code, check_out
from sa2net.steps.reproduce.comparison import Number, compare_evaluations
from sa2net.steps.reproduce.data import obtain
from sa2net.steps.reproduce.machine import Fact, Machine
from sa2net.steps.reproduce.process import run_to_end

if shutil.which("git") is None:
    pytest.skip("git is not installed", allow_module_level=True)


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def commit(folder: Path, words: str) -> str:
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", words)
    return git(folder, "rev-parse", "HEAD")


def write(folder: Path, name: str, content: bytes) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a package, a picture and a file with Windows' line ends."""
    monkeypatch.delenv("SA2NET_REVISION", raising=False)
    folder = tmp_path / "project"
    folder.mkdir()
    git(folder, "init", "-q")
    for name, content in {
        "sa2net/__init__.py": b"x = 1\n",
        "sa2net/windows.py": b"a = 1\r\nb = 2\r\n",
        "sa2net/gone.py": b"y = 1\n",
        "picture.png": bytes(range(256)),
        ".gitignore": b"/ignored\n",
        "dvc.lock": b"a: 1\n",
    }.items():
        write(folder, name, content)
    commit(folder, "first")
    return folder


def code_and_diffs(state: Revision) -> tuple[Code, dict[str, str]]:
    """A revision as a run keeps it: the difference as a text file, known by its sha256."""
    return Code(state.commit, state.dirty, state.diff_sha256), {state.diff_sha256: f"{state.diff}\n"}


def tracked(folder: Path) -> dict[str, bytes]:
    """What a checkout holds, but for what git and DVC keep for themselves."""
    names = git(folder, "ls-files", "-co", "--exclude-standard").splitlines()
    return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file() and name != "dvc.lock"}


# The code ---------------------------------------------------------------------------------------------------------------


def test_a_commit_comes_back_and_the_repository_stays_as_it_is(project: Path, tmp_path: Path) -> None:
    first = git(project, "rev-parse", "HEAD")
    before = tracked(project)
    write(project, "sa2net/__init__.py", b"x = 2\n")
    commit(project, "second")
    stood = folder_sha256(project)
    made = check_out(Code(first, dirty=False, diff_sha256=""), project, tmp_path / "code", {})
    assert tracked(made.project) == before
    assert folder_sha256(project) == stood
    assert revision(made.project) == Revision(first, "", dirty=False, diff="")
    assert made.missing == ()


def test_uncommitted_changes_come_back_to_the_byte(project: Path, tmp_path: Path) -> None:
    write(project, "sa2net/__init__.py", b"x = 2\n\n\n")
    write(project, "sa2net/windows.py", b"a = 1\r\nb = 3\r\n")
    write(project, "sa2net/new/module.py", b"z = 1")
    write(project, "sa2net/new/page.html.j2", "ü\n".encode())
    write(project, "picture.png", bytes(reversed(range(256))))
    (project / "sa2net" / "gone.py").unlink()
    git(project, "add", "sa2net/new/module.py")
    write(project, "dvc.lock", b"a: 2\n")
    made = check_out(*_swapped(revision(project), project, tmp_path))
    assert tracked(made.project) == tracked(project)


def _swapped(state: Revision, project: Path, tmp_path: Path) -> tuple[Code, Path, Path, dict[str, str]]:
    code, diffs = code_and_diffs(state)
    return code, project, tmp_path / "code", diffs


def test_settings_of_the_user_do_not_change_the_difference(project: Path, tmp_path: Path) -> None:
    write(project, "sa2net/__init__.py", b"x = 2\n")
    for name, value in {"diff.noprefix": "true", "color.ui": "always", "core.autocrlf": "true"}.items():
        git(project, "config", name, value)
    made = check_out(*_swapped(revision(project), project, tmp_path))
    assert (made.project / "sa2net" / "__init__.py").read_bytes() == b"x = 2\n"


def test_a_project_inside_another_repository(project: Path, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    (outer / "deep").mkdir(parents=True)
    git(outer, "init", "-q")
    shutil.rmtree(project / ".git")
    project.rename(outer / "deep" / "project")
    inner = outer / "deep" / "project"
    write(outer, "elsewhere.txt", b"1\n")
    commit(outer, "first")
    write(inner, "sa2net/__init__.py", b"x = 2\n")
    write(inner, "sa2net/new.py", b"x = 3\n")
    write(outer, "elsewhere.txt", b"2\n")
    made = check_out(*_swapped(revision(inner), inner, tmp_path))
    assert made.project == tmp_path / "code" / "deep" / "project"
    assert (made.project / "sa2net" / "__init__.py").read_bytes() == b"x = 2\n"
    assert (made.project / "sa2net" / "new.py").read_bytes() == b"x = 3\n"
    assert (tmp_path / "code" / "elsewhere.txt").read_bytes() == b"1\n"


def test_new_files_that_are_no_code_are_kept_by_name_alone(project: Path, tmp_path: Path) -> None:
    write(project, "patients.csv", b"secret\n")
    write(project, "sa2net/notes.txt", b"secret\n")
    write(project, "sa2net/new.py", b"x = 3\n")
    state = revision(project)
    assert "secret" not in state.diff
    made = check_out(*_swapped(state, project, tmp_path))
    assert made.missing == ("patients.csv", "sa2net/notes.txt")
    assert (made.project / "sa2net" / "new.py").read_bytes() == b"x = 3\n"


def test_only_new_files_without_content(project: Path, tmp_path: Path) -> None:
    write(project, "patients.csv", b"secret\n")
    made = check_out(*_swapped(revision(project), project, tmp_path))
    assert made.missing == ("patients.csv",)


def test_a_shallow_clone_gives_what_it_has(project: Path, tmp_path: Path) -> None:
    first = git(project, "rev-parse", "HEAD")
    write(project, "sa2net/__init__.py", b"x = 2\n")
    second = commit(project, "second")
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{project}", "shallow")
    made = check_out(Code(second, dirty=False, diff_sha256=""), tmp_path / "shallow", tmp_path / "code", {})
    assert (made.project / "sa2net" / "__init__.py").read_bytes() == b"x = 2\n"
    with pytest.raises(StorageError, match=r"not in this repository.*git fetch"):
        check_out(Code(first, dirty=False, diff_sha256=""), tmp_path / "shallow", tmp_path / "other", {})


def test_a_worktree_and_a_hook(project: Path, tmp_path: Path) -> None:
    first = git(project, "rev-parse", "HEAD")
    git(project, "worktree", "add", "-q", "--detach", str(tmp_path / "tree"))
    hook = project / ".git" / "hooks" / "post-checkout"
    write(project, ".git/hooks/post-checkout", f"#!/bin/sh\ntouch {tmp_path / 'hooked'}\n".encode())
    hook.chmod(0o755)
    check_out(Code(first, dirty=False, diff_sha256=""), tmp_path / "tree", tmp_path / "code", {})
    assert not (tmp_path / "hooked").exists()


def test_the_repository_of_a_calling_git_command_is_not_taken(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = git(project, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nothing"))
    check_out(Code(first, dirty=False, diff_sha256=""), project, tmp_path / "code", {})


def test_what_cannot_be_made_again_is_said(project: Path, tmp_path: Path) -> None:
    first = git(project, "rev-parse", "HEAD")
    dirty = Code(first, dirty=True, diff_sha256="1" * 64)
    with pytest.raises(StorageError, match="they were not kept"):
        check_out(dirty, project, tmp_path / "code", {})
    with pytest.raises(StorageError, match="not what was stored"):
        check_out(dirty, project, tmp_path / "code", {"1" * 64: "diff --git a/x b/x\n"})
    cut, diffs = code_and_diffs(Revision(first, "", dirty=True, diff=f"diff --git a/x b/x\n{CUT_OFF}\n{NOT_KEPT}y"))
    with pytest.raises(StorageError, match="too many to be kept whole"):
        check_out(cut, project, tmp_path / "code", diffs)
    wrong, diffs = code_and_diffs(Revision(first, "", dirty=True, diff="--- a/no\n+++ b/no\n@@ -1 +1 @@\n-1\n+2"))
    with pytest.raises(StorageError, match="cannot be applied"):
        check_out(wrong, project, tmp_path / "code", diffs)
    with pytest.raises(ConfigError, match="no git checkout"):
        check_out(Code(first, dirty=False, diff_sha256=""), tmp_path, tmp_path / "other", {})
    with pytest.raises(StorageError, match="does not know which code"):
        Code.of(Record(), Record(facts={"revision": "unknown"}))


def test_a_long_difference_is_cut_and_says_so(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sa2net.registry.revision.LARGEST_DIFF", 100)
    write(project, "sa2net/__init__.py", b"x = 2\n" * 100)
    with pytest.raises(StorageError, match="too many to be kept whole"):
        check_out(*_swapped(revision(project), project, tmp_path))


def test_the_first_run_that_knows_its_code_is_taken() -> None:
    known = Record(facts={"revision": "a" * 40, "dirty": "true", "diff_sha256": "2" * 64})
    assert Code.of(Record(), known) == Code("a" * 40, dirty=True, diff_sha256="2" * 64)
    assert str(Code.of(known)) == "aaaaaaaaaaaa with its uncommitted changes"


# The data set -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def data_project(tmp_path: Path) -> tuple[Path, str]:
    """A project with a data set under DVC's pointer, and a folder remote beside it that holds its objects."""
    project, remote = tmp_path / "project", tmp_path / "remote"
    root = write_data_set(project / "data" / "set", train=1, test=1)
    (project / ".dvc").mkdir()
    (project / ".dvc" / "config").write_text("['remote \"far\"']\n    url = ../../remote\n")
    files = sorted(path for path in root.rglob("*") if path.is_file())
    listing = [{"md5": file_md5(file), "relpath": file.relative_to(root.parent).as_posix()} for file in files]
    pointer = project / "data.dvc"
    pointer.write_text("outs: []\n")
    md5 = data_md5(root)
    pointer.write_text(
        f"outs:\n- md5: {md5}\n  size: {sum(file.stat().st_size for file in files)}\n  nfiles: {len(files)}\n"
        "  hash: md5\n  path: data\n  remote: far\n"
    )
    cache = ObjectCache(remote)
    for file, entry in zip(files, listing, strict=True):
        target = cache.path(entry["md5"])
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    ordered = sorted(listing, key=lambda entry: entry["relpath"])
    cache.path(md5).parent.mkdir(parents=True, exist_ok=True)
    cache.path(md5).write_text(json.dumps(ordered, sort_keys=True))
    return project, md5


def find(md5: str, project: Path, tmp_path: Path, *given: Path, checkout: Path | None = None):
    return obtain(
        md5, checkout=checkout or project, project=project, given=given, scratch=tmp_path / "scratch", progress=False
    )


def test_a_data_set_of_the_same_content_is_used_where_it_lies(data_project: tuple[Path, str], tmp_path: Path) -> None:
    project, md5 = data_project
    found = find(md5, project, tmp_path)
    assert (found.root, found.source) == (project / "data" / "set", "here already, of the same content")
    assert not (tmp_path / "scratch").exists()


def test_a_changed_or_absent_data_set_is_pulled_and_verified(data_project: tuple[Path, str], tmp_path: Path) -> None:
    project, md5 = data_project
    scans = project / "data" / "set" / "scans.csv"
    scans.write_text(scans.read_text() + "\n")
    changed = folder_sha256(project)
    found = find(md5, project, tmp_path)
    assert data_md5(found.root) == md5
    assert found.root == tmp_path / "scratch" / "data" / "data" / "set"
    assert found.source == f"pulled from {tmp_path / 'remote'}"
    assert folder_sha256(project) == changed
    for file in (tmp_path / "remote").rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            file.write_bytes(b"x" * file.stat().st_size)
    shutil.rmtree(tmp_path / "scratch")
    with pytest.raises(StorageError, match=r"cannot be pulled.*--data"):
        find(md5, project, tmp_path)


def test_dvcs_cache_comes_before_the_remote(data_project: tuple[Path, str], tmp_path: Path) -> None:
    project, md5 = data_project
    shutil.rmtree(project / "data")
    (tmp_path / "remote").rename(project / ".dvc" / "cache")
    stood = folder_sha256(project)
    found = find(md5, project, tmp_path)
    assert data_md5(found.root) == md5
    assert found.source == f"pulled from {project / '.dvc' / 'cache'}"
    assert folder_sha256(project) == stood


def test_a_named_folder_must_be_the_data_set(data_project: tuple[Path, str], tmp_path: Path) -> None:
    project, md5 = data_project
    named = project / "data" / "set"
    other = write_data_set(tmp_path / "other", seed=3)
    assert find(md5, project, tmp_path, other, named).root == named
    with pytest.raises(DataError, match="is not the data set of this version"):
        find(md5, project, tmp_path, other)


def test_a_revision_that_names_another_data_set(data_project: tuple[Path, str], tmp_path: Path) -> None:
    project, md5 = data_project
    with pytest.raises(DataError, match=rf"cannot be found.*names {md5}.*--data"):
        find("0" * 32 + ".dir", project, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"names no pointer"):
        find(md5, project, tmp_path, checkout=tmp_path / "empty")


# The machine ------------------------------------------------------------------------------------------------------------

HERE = Machine(
    facts={
        "python": "3.11.2",
        "torch": "2.14.1",
        "lock_sha256": "1" * 64,
        "constraints_sha256": "2" * 64,
        "image": "",
        "cpu": "A",
        "cpu_capability": "AVX2",
        "gpus": "H",
        "device": "cuda",
        "system": "Linux x86_64",
    },
    packages=("a==1", "b==2", "d==4"),
)


def test_the_machine_is_compared_fact_by_fact() -> None:
    then = {"cpu": "B", "device": "cpu", "image": "", "gpus": "", "threads": "2", "package.torch": "2.13.0"}
    record = Record(run_id="a", facts={**HERE.facts, **then})
    facts = {fact.name: fact for fact in machine.compare(record, HERE, threads=2)}
    assert {name for name, fact in facts.items() if not fact.equal} == {"cpu", "gpus", "torch"}
    assert facts["device"] == Fact("device", "cpu", "cpu")  # a run on a CPU is made again on a CPU
    assert facts["gpus"] == Fact("gpus", "", "H")
    assert facts["torch"] == Fact("torch", "2.13.0", "2.14.1")
    nothing = machine.compare(Record(), HERE, threads=2)
    assert all(fact.stored == "unknown" and not fact.equal for fact in nothing)


def test_packages_that_differ_are_listed() -> None:
    found = machine.compare_packages(("a==1", "b==1", "c==3"), HERE.packages)
    assert found == [Fact("b", "1", "2"), Fact("c", "3", ""), Fact("d", "", "4")]
    assert machine.compare_packages((), HERE.packages) == []  # not known: said by the lock


def test_the_interpreter_that_will_run_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "constraints.txt").write_text("torch==2\n")
    found = machine.look(sys.executable, tmp_path / "constraints.txt")
    assert found.facts["python"] == platform.python_version()
    assert found.facts["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert any(line.startswith("torch==") for line in found.packages)
    with pytest.raises(ConfigError, match="cannot be run"):
        machine.look(str(tmp_path / "no-python"), tmp_path / "constraints.txt")
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S -I "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(ConfigError, match="cannot run the steps"):
        machine.look(str(bare), tmp_path / "constraints.txt")


# Number by number -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "now", "tolerance", "verdict"),
    [
        (0.5, 0.5, 0.0, "equal"),
        (1.0, 1, 0.0, "equal"),
        (0.5, 0.500001, 0.0, "differs"),
        (0.5, 0.5001, 0.001, "close"),
        (0.5, 0.502, 0.001, "differs"),
        (7.1, 7.2, 0.001, "not compared"),
        ("a", "b", 0.0, "differs"),
        ("a", "b", 0.001, "not compared"),
        (True, 1, 0.0, "differs"),
        (0.5, None, 0.0, "differs"),
        (None, 0.5, 0.0, "differs"),
        (100, 101, 0.0, "differs"),
    ],
)
def test_a_number_has_one_verdict(stored, now, tolerance: float, verdict: str) -> None:
    assert Number("x", stored, now, tolerance).verdict == verdict


def evaluation(folder: Path, *, dice: float = 0.8, extra: str = "") -> Path:
    folder.mkdir()
    write_json(folder / SCORES, {"mean": {"dice": {"value": dice}}, "scales": [1.0, 1.5], "phantom": True})
    table = "name,subject,device,class,dice,iou,nsd,hd95,unit,truth_px,prediction_px\n"
    (folder / PER_SCAN).write_text(f"{table}s1,p1,d,rib,0.8,0.7,,9.5,mm,10,11\n{extra}")
    return folder


def test_two_evaluations_are_compared_value_by_value(tmp_path: Path) -> None:
    first = evaluation(tmp_path / "a")
    same = compare_evaluations(first, evaluation(tmp_path / "b"))
    assert {number.name for number in same} == {
        "scores.mean.dice.value", "scores.scales[0]", "scores.scales[1]", "scores.phantom",
        *(f"per_scan.s1.rib.{column}" for column in ("subject", "device", "dice", "iou", "nsd", "hd95", "unit", "truth_px", "prediction_px")),
    }  # fmt: skip
    assert all(number.verdict == "equal" for number in same)
    other = compare_evaluations(first, evaluation(tmp_path / "c", dice=0.81))
    assert [number.to_dict() for number in other if number.verdict != "equal"] == [
        {"name": "scores.mean.dice.value", "stored": 0.8, "now": 0.81, "verdict": "differs"}
    ]
    more = compare_evaluations(first, evaluation(tmp_path / "d", extra="s2,p2,d,rib,0.1,0.1,0.1,1,mm,1,1\n"))
    assert [number.name for number in more if number.verdict == "differs"][:2] == [
        "per_scan.s2.rib.subject", "per_scan.s2.rib.device",
    ]  # fmt: skip


def outcome(*numbers: Number, **changes: object) -> Outcome:
    known = {
        "model": "models:/sa2net/1",
        "model_sha256": "3" * 64,
        "what": "evaluate",
        "code": {"evaluate": "c" * 12},
        "data": {"d" * 32: "here"},
        "environment": (Fact("python", "3.11", "3.11"), Fact("lock_sha256", "1", "1"), Fact("cpu", "A", "A"), Fact("device", "cpu", "cpu")),
        "packages": (),
        "notes": ("a word",),
        "numbers": numbers,
        "tolerance": 0.0,
        "phantom": True,
        "seconds": 1.26,
    }  # fmt: skip
    return Outcome(**{**known, **changes})  # type: ignore[arg-type]


def test_the_outcome_is_equal_only_without_a_difference() -> None:
    same, other = Number("scores.mean.dice.value", 0.5, 0.5), Number("per_scan.s1.rib.iou", 0.1, 0.2)
    assert outcome(same).equal and not outcome(same, other).equal
    document = outcome(same, other).to_dict()
    assert document["schema_version"] == 1 and document["equal"] is False
    assert document["counts"] == {"differs": 1, "equal": 1}
    assert document["numbers"][1] == {"name": "per_scan.s1.rib.iou", "stored": 0.1, "now": 0.2, "verdict": "differs"}
    text = "\n".join(outcome(same, other).lines())
    for words in (
        "phantom scores",
        "scores.mean.dice.value",
        "per_scan.s1.rib.iou",
        "differs",
        "the same: Python 3.11",
        "a word",
    ):
        assert words in text
    assert summary([other]) == "per_scan.s1.rib.iou 0.1 stored, 0.2 now"
    assert summary([other] * 5).endswith("and 2 more")


def test_what_differs_around_is_shown_in_full() -> None:
    facts = (Fact("python", "3.11", "3.12"), Fact("gpus", "", "H"))
    text = "\n".join(outcome(environment=facts, packages=(Fact("old", "1", ""), Fact("torch", "2.1", "2.2"))).lines())
    assert "python: 3.11 then, 3.12 here" in text
    assert "gpus: none then, H here" in text
    assert "torch 2.1 -> 2.2, old 1 -> absent" in text


def test_many_differences_are_counted_not_listed() -> None:
    numbers = [Number(f"per_scan.s{index}.rib.iou", 0.1, 0.2) for index in range(50)]
    lines = outcome(*numbers).lines()
    assert len(lines) < 40
    assert any("30 more that differ" in line for line in lines)


# A step as a process ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind"), [(2, ConfigError), (3, DataError), (4, DeviceError), (5, StorageError), (70, DataError)]
)
def test_a_step_that_fails_gives_its_exit_code_on(code: int, kind: type[Exception], tmp_path: Path) -> None:
    command = [sys.executable, "-c", f"raise SystemExit({code})", "evaluate"]
    with pytest.raises(kind, match=f"evaluate failed.*exit code {code}"):
        run_to_end(command, tmp_path, os.environ)


def test_a_step_does_not_outlive_who_waits_for_it(tmp_path: Path) -> None:
    """The waiting process gets SIGTERM as `sa2net` does; its child is gone when it is."""
    child = f"import pathlib, os, time; pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); time.sleep(120)"
    waiting = (
        "import os, signal, sys, pathlib; from sa2net.termination import leave; signal.signal(signal.SIGTERM, leave);"
        "from sa2net.steps.reproduce.process import run_to_end;"
        f"run_to_end([sys.executable, '-c', {child!r}, 'evaluate'], pathlib.Path('.'), os.environ)"
    )
    process = subprocess.Popen([sys.executable, "-c", waiting], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    pid = int((tmp_path / "pid").read_text())
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
