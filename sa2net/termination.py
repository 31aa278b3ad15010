"""SIGTERM as an exception: what is half done is cleared away and a run is closed, as on Ctrl-C. And a Ctrl-C that is kept."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


def leave(number: int, _: FrameType | None) -> None:
    """A signal handler that ends the process by an exception, with the shell's exit code for the signal."""
    raise SystemExit(128 + number)


@contextmanager
def terminable() -> Iterator[None]:
    """Turn SIGTERM into an exception; only where nobody else handles it."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def kept_interrupt() -> Iterator[Callable[[], None]]:
    """Keep Ctrl-C in mind: Python drops an exception that is raised while an object is cleaned up, wherever that is.

    Yields:
        Raises KeyboardInterrupt if one was dropped; to be called in each turn of a loop.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    arrived = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        arrived.set()
        signal.default_int_handler(number, frame)

    def check() -> None:
        if arrived.is_set():
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)
