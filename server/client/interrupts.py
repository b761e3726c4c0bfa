"""Ctrl-C that is not lost."""

import signal
from types import FrameType
from typing import Any, Self


class Interrupts:
    """Python's own handling of SIGINT, with a note of it: `with` it in force.

    KeyboardInterrupt is raised wherever the program is. In a destructor or a callback of the garbage collector Python
    prints and drops it, and the answer that was to be stopped would go on.
    """

    def __init__(self) -> None:
        self._noted = False
        self._before: Any = None

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._noted = True
        raise KeyboardInterrupt

    def forget(self) -> None:
        """Begin anew: what was noted has been acted on."""
        self._noted = False

    def check(self) -> None:
        """Raise KeyboardInterrupt where there was one since `forget`."""
        if self._noted:
            raise KeyboardInterrupt
