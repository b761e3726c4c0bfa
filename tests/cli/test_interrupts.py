"""Ctrl-C while an answer comes."""

import os
import signal

import pytest

from sluiceway.commands.terminal import Interrupts


class Dying:
    """An object whose destructor is interrupted."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.filterwarnings("ignore:Exception ignored in. <function Dying:pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_python_drops_is_noted() -> None:
    """An interrupt in a destructor is raised at the next check, until it is forgotten. Then SIGINT is as before."""
    before = signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        interrupts.check()
        Dying()  # made and gone
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
        interrupts.forget()
        interrupts.check()
    assert signal.getsignal(signal.SIGINT) is before
