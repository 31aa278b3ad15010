"""What a run is made with: the state of the code, and nothing that tells where it ran."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from sa2net.registry import environment
from sa2net.registry.environment import Revision, describe, installed_packages, revision

if shutil.which("git") is None:
    pytest.skip("git is not installed", allow_module_level=True)


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("SA2NET_REVISION", raising=False)
    folder = tmp_path / "checkout"
    (folder / "sa2net").mkdir(parents=True)
    (folder / "sa2net" / "__init__.py").write_text("x = 1\n")
    (folder / "dvc.lock").write_text("a: 1\n")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    return folder


def test_a_clean_checkout(checkout: Path):
    assert revision(checkout) == Revision(git(checkout, "rev-parse", "HEAD"), "main", dirty=False, diff="")


def test_a_changed_lock_of_dvc_is_not_a_change_of_the_code(checkout: Path):
    (checkout / "dvc.lock").write_text("a: 2\n")
    assert revision(checkout).dirty is False


def test_a_change_is_seen_and_kept(checkout: Path):
    (checkout / "sa2net" / "__init__.py").write_text("x = 2\n")
    (checkout / "dvc.lock").write_text("a: 2\n")
    (checkout / "new.py").write_text("secret = 1\n")
    state = revision(checkout)
    assert state.dirty is True
    assert "-x = 1\n+x = 2" in state.diff
    assert "dvc.lock" not in state.diff
    assert state.diff.endswith("new file, not tracked: new.py")
    assert "secret" not in state.diff


def test_a_staged_change_is_seen(checkout: Path):
    (checkout / "sa2net" / "__init__.py").write_text("x = 2\n")
    git(checkout, "add", "-A")
    assert "+x = 2" in revision(checkout).diff


def test_a_detached_head_has_no_branch(checkout: Path):
    git(checkout, "checkout", "-q", "--detach")
    assert revision(checkout).branch == ""


def test_an_installed_copy_in_somebody_elses_checkout_has_no_revision(checkout: Path):
    site = checkout / ".venv" / "site-packages"
    (site / "sa2net").mkdir(parents=True)
    (site / "sa2net" / "__init__.py").write_text("x = 1\n")
    assert revision(site) == Revision()


def test_no_checkout_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SA2NET_REVISION", raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert revision(tmp_path) == Revision()


@pytest.mark.parametrize(("given", "dirty"), [("abc123", False), ("abc123-dirty", True)])
def test_an_image_says_what_it_was_built_from(given: str, dirty: bool, checkout: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SA2NET_REVISION", given)
    assert revision(checkout) == Revision(commit="abc123", dirty=dirty)


def test_facts_are_complete_and_name_no_place():
    tags = describe().tags()
    assert int(tags["sa2net.cores"]) >= 1
    assert float(tags["sa2net.memory_gb"]) > 0.1
    assert tags["sa2net.python"] == platform.python_version()
    assert tags["sa2net.package.numpy"]
    known = {name: value for name, value in tags.items() if name != "sa2net.branch"}
    for place in (platform.node(), str(Path.home()), str(Path.cwd())):
        assert len(place) < 4 or all(place not in value for value in known.values())


def test_the_environment_lock_changes_with_any_package(monkeypatch: pytest.MonkeyPatch):
    packages = installed_packages()
    assert list(packages) == sorted(packages)
    assert any(item.startswith("numpy==") for item in packages)
    before = describe().lock_sha256
    monkeypatch.setattr(environment, "installed_packages", lambda: (*packages, "zzz==1"))
    describe.cache_clear()
    try:
        assert describe().lock_sha256 != before
    finally:
        describe.cache_clear()
