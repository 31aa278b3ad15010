"""SIGTERM as an exception: what is half done is cleared away and a run is closed, as on Ctrl-C."""

import signal
import threading
from collections.abc import Iterator
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
