"""Fixtures every room may use: tiny data sets. And the rule of continuous integration: nothing skips."""

import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

sys.path.insert(0, str(Path(__file__).parent))  # `import factories` under --import-mode=importlib
sys.path.insert(0, str(Path(__file__).parent / "pipeline"))

from factories import write_data_set

# How long an example takes says more of what else the machine does than of the code.
hypothesis.settings.register_profile("house", deadline=None)
hypothesis.settings.load_profile("house")


@pytest.fixture(scope="session", autouse=True)
def _own_var(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test writes into the registry of the project, or into a server that the environment names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SA2NET_VAR", str(tmp_path_factory.mktemp("var")))
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """A tiny valid data set of its own, free to be broken: 4 train and 2 test scans, 96 x 256 px."""
    return write_data_set(tmp_path / "data")


@pytest.fixture(scope="session")
def shared_data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny valid data set that is made once and only read: 6 train, 2 val and 3 test scans, 96 x 256 px."""
    return write_data_set(tmp_path_factory.mktemp("shared") / "data", train=6, val=2, test=3)


class ByFile(LoadScopeScheduling):
    """Processes share the tests by file, since tests of a file share costly fixtures; those in containers share one engine."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "tests/containers" if file.startswith("tests/containers/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    """How `--numprocesses` shares the tests."""
    return ByFile(config, log)


FROM_OUTSIDE = {"SA2NET_FIXTURES": "fixtures", "SA2NET_REAL_SCAN": "real_scan"}
"""Material that is not part of the project: variable that names it -> how `SA2NET_REQUIRE` demands it."""


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.CallInfo, None]:
    """Where `SA2NET_REQUIRE` is set, a skip is a failure, except for material from outside that it does not demand."""
    outcome = yield
    report = outcome.get_result()
    demanded = os.environ.get("SA2NET_REQUIRE", "").split(",")
    if not report.skipped or demanded == [""] or hasattr(report, "wasxfail"):
        return
    reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
    if any(variable in reason and name not in demanded for variable, name in FROM_OUTSIDE.items()):
        return
    report.outcome = "failed"
    report.longrepr = f"{item.nodeid}: nothing may skip here (SA2NET_REQUIRE={','.join(demanded)}): {reason}"
