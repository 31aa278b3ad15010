"""Small matrices run on one thread, and the process has its threads back afterwards."""

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from sa2net.scoliosis import measurement
from sa2net.scoliosis.threads import on_one_thread


def threads() -> set[int]:
    np.linalg.inv(np.eye(3))
    return {item["num_threads"] for item in threadpool_info() if item["user_api"] == "blas"}


def test_threads_come_back_also_after_an_error() -> None:
    with threadpool_limits(limits=2, user_api="blas"):
        before = threads()
        assert on_one_thread(threads)() == {1}
        assert threads() == before
        with pytest.raises(ZeroDivisionError):
            on_one_thread(lambda: 1 / 0)()
        assert threads() == before


def test_a_measurement_runs_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[int]] = []
    monkeypatch.setattr(measurement, "find_landmarks", lambda *_, **__: seen.append(threads()) or 1 / 0)
    with threadpool_limits(limits=2, user_api="blas"), pytest.raises(ZeroDivisionError):
        measurement.measure(np.zeros((64, 64), np.uint8), cfg=measurement.MeasureConfig())
    assert seen == [{1}]
