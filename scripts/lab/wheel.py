"""A timer wheel: one timer for all paced streams, instead of a task or a timer for each."""

import asyncio
from collections.abc import Callable
from random import randrange
from time import monotonic

TICK = 0.001  # seconds; the resolution of the event loop
SLOTS = 1000  # one turn of the wheel takes one second, so that one token per second is the slowest pace


class Wheel:
    """Calls each step at its own pace until it returns False. The wheel ticks only while there are steps."""

    def __init__(self) -> None:
        self._slots: list[list[tuple[int, Callable[[], bool]]]] = [[] for _ in range(SLOTS)]
        self._members = 0
        self._started = 0.0
        self._turned = 0  # ticks done since the start

    def add(self, rate: int, step: Callable[[], bool]) -> None:
        """Call `step` `rate` times per second. The first call is at a random time, as real streams are not in step."""
        period = SLOTS // rate
        if not self._members:
            self._started, self._turned = monotonic(), 0
            asyncio.get_running_loop().call_later(TICK, self._tick)
        self._members += 1
        self._slots[(self._turned + 1 + randrange(period)) % SLOTS].append((period, step))  # noqa: S311

    def _tick(self) -> None:
        due = int((monotonic() - self._started) / TICK)  # more than one tick if this process had to wait
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
