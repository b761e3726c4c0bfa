"""How much of the machine other processes used meanwhile. A figure counts only if the benchmark had the machine."""

import os
import time
from pathlib import Path

from .processes import TICKS, Watched


class Machine:
    """Watches the CPU that processes outside of the benchmark use."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._others = _busy() - _ours()

    def others(self) -> float:
        """Return how many cores other processes kept busy on average since the last call, or the start."""
        now, others = time.monotonic(), _busy() - _ours()
        cores = (others - self._others) / (now - self._began)
        self._began, self._others = now, others
        return max(0.0, cores)


def _busy() -> float:
    """Return the seconds that all processors together were busy since the boot."""
    # user, nice, system, idle, iowait, irq, softirq, steal of proc(5): stolen time was used by another guest.
    user, nice, system, _, _, irq, softirq, steal = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    return sum(map(int, (user, nice, system, irq, softirq, steal))) / TICKS


def _ours() -> float:
    """Return the seconds of CPU of the benchmark and its children, also of those that have ended."""
    return Watched(os.getpid()).cpu()
