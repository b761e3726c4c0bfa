"""A timer wheel: one timer for all paced streams instead of a task or a timer for each."""

import asyncio
from collections.abc import Callable
from random import randrange
from time import monotonic

TICK = 0.001  # seconds; the event loop's own resolution
SLOTS = 1000  # one turn of the wheel is one second, so that one token a second is the slowest pace


class Wheel:
    """Calls each step at its own pace until it returns False; ticks only while there are any."""

    def __init__(self) -> None:
        self._slots: list[list[tuple[int, Callable[[], bool]]]] = [[] for _ in range(SLOTS)]
        self._members = 0
        self._started = 0.0
        self._turned = 0  # ticks done since the start

    def add(self, rate: int, step: Callable[[], bool]) -> None:
        """Call ``step`` ``rate`` times a second, from a random phase on: real streams do not beat in time."""
        period = SLOTS // rate
        if not self._members:
            self._started, self._turned = monotonic(), 0
            asyncio.get_running_loop().call_later(TICK, self._tick)
        self._members += 1
        self._slots[(self._turned + 1 + randrange(period)) % SLOTS].append((period, step))  # noqa: S311

    def _tick(self) -> None:
        due = int((monotonic() - self._started) / TICK)  # more than one tick if this process was kept waiting
        while self._turned < due:
            self._turned += 1
            slot = self._turned % SLOTS
            members, self._slots[slot] = self._slots[slot], []
            for period, step in members:
                if step():
                    self._slots[(self._turned + period) % SLOTS].append((period, step))
                else:
                    self._members -= 1
        if self._members:
            asyncio.get_running_loop().call_later(TICK, self._tick)
