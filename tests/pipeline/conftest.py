"""What all tests of pipelines share: kfp at its own speed."""

import inspect
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace

import pytest
from kfp.dsl import pipeline_task


@pytest.fixture(scope="session", autouse=True)
def _short_stacks() -> Iterator[None]:
    """kfp asks for its caller's name some sixty times a pipeline, and gets the source of every frame with it.

    In a test process, with its deep stack and thousands of modules, that takes most of the time. The name is the same
    without the sources.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline_task, "inspect", SimpleNamespace(stack=partial(inspect.stack, 0)))
        yield
