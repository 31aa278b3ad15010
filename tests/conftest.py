"""Fixtures every room may use: tiny data sets."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # `import factories` under --import-mode=importlib

from factories import write_data_set


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """A tiny valid data set of its own, free to be broken: 4 train and 2 test scans, 96 x 256 px."""
    return write_data_set(tmp_path / "data")


@pytest.fixture(scope="session")
def shared_data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny valid data set that is made once and only read: 6 train, 2 val and 3 test scans, 96 x 256 px."""
    return write_data_set(tmp_path_factory.mktemp("shared") / "data", train=6, val=2, test=3)
