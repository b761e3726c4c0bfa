"""How much of the machine others used meanwhile: figures are of a relay only as long as the machine is the bench's."""

import os
import time
from pathlib import Path

from .process import TICKS, tree_cpu


class Machine:
    """Watches the CPU that processes outside of the bench use."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._others = _busy() - _ours()

    def others(self) -> float:
        """Return the cores that others kept busy on average since the last call, or the start."""
        now, others = time.monotonic(), _busy() - _ours()
        cores = (others - self._others) / (now - self._began)
        self._began, self._others = now, others
        return max(0.0, cores)


def _busy() -> float:
    """Return the seconds of CPU that all processors were not idle since the boot."""
    # user, nice, system, idle, iowait, irq, softirq, steal of proc(5): a stolen moment is somebody's too.
    user, nice, system, _, _, irq, softirq, steal = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    return sum(map(int, (user, nice, system, irq, softirq, steal))) / TICKS


def _ours() -> float:
    """Return the seconds of CPU of the bench and its children, those that have ended included."""
    return tree_cpu(os.getpid())
