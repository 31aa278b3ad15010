"""Small matrices are quicker on one thread: a spine was fitted in 0.1 s instead of 0.9 s on two cores.

The BLAS of numpy and scipy otherwise shares each product of a few hundred rows among all cores, and its threads wait for
each other by turning in circles.
"""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from threadpoolctl import threadpool_limits

Given = ParamSpec("Given")
Result = TypeVar("Result")


def on_one_thread(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Make a function compute its matrix products on one thread; afterwards the number is what it was."""
    limited: Callable[Given, Result] = threadpool_limits.wrap(limits=1, user_api="blas")(function)
    return limited
