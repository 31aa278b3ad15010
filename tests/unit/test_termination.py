"""A Ctrl-C that arrives while an object is cleaned up is not lost."""

import os
import signal

import pytest

from sa2net.termination import kept_interrupt


class Interrupted:
    """Something whose end a Ctrl-C meets."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_dropped_interrupt_is_raised_by_the_next_check() -> None:
    before = signal.getsignal(signal.SIGINT)
    with kept_interrupt() as check:
        check()
        thing = Interrupted()
        del thing  # Python drops the exception here
        with pytest.raises(KeyboardInterrupt):
            check()
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_is_raised_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), kept_interrupt():
        os.kill(os.getpid(), signal.SIGINT)
