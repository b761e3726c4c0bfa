"""Many coarse timers in little memory: a hashed timing wheel."""

import asyncio
import math
from functools import lru_cache
from typing import Protocol

TICK = 1 / 16  # seconds between two looks at the timers, and so the most that one is late


class Due(Protocol):
    """An object that can be put into a wheel."""

    def due(self) -> None:
        """Do what is to be done at the time."""


class TimerWheel:
    """Calls an object's `due` once, at its time or up to `TICK` later. Times are in seconds of the loop's clock.

    A timer of uvloop takes 540 bytes, and a stream has three timers that may be late. Here one timer of the event loop
    serves all of them. It runs only while an object waits.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, set[Due]] = {}  # the objects, by the tick in which they are due
        self._passed = 0  # the last tick whose objects were called
        self._ticking = False

    @property
    def now(self) -> float:
        """The time of the loop's clock."""
        return self._loop.time()

    def put(self, at: float, timer: Due) -> int:
        """Have `timer.due` called at a time. Return the slot, which `drop` needs."""
        if not self._ticking:
            self._ticking = True
            self._passed = math.floor(self._loop.time() / TICK)
            self._loop.call_at((self._passed + 1) * TICK, self._tick)
        slot = max(math.ceil(at / TICK), self._passed + 1)
        self._slots.setdefault(slot, set()).add(timer)
        return slot

    def drop(self, slot: int, timer: Due) -> None:
        """Take a timer out, if it is still there. If its tick has begun, its call may still come."""
        timers = self._slots.get(slot)
        if timers is not None:
            timers.discard(timer)
            if not timers:
                del self._slots[slot]

    def sleep(self, seconds: float) -> asyncio.Future[None]:
        """Return a future that is done after so many seconds."""
        sleeper = _Sleeper(loop=self._loop)
        self.put(self._loop.time() + seconds, sleeper)
        return sleeper

    def _tick(self) -> None:
        """Call the timers that are due. Each has a call of its own: the error of one must not stop another."""
        now = math.floor(self._loop.time() / TICK)
        for slot in range(self._passed + 1, now + 1):
            for timer in self._slots.pop(slot, ()):
                self._loop.call_soon(timer.due)
        self._passed = now
        self._ticking = bool(self._slots)
        if self._ticking:
            self._loop.call_at((now + 1) * TICK, self._tick)


class _Sleeper(asyncio.Future[None]):
    """A future that is done when it is due."""

    __slots__ = ()

    def due(self) -> None:
        if not self.done():  # else the sleeping task was cancelled
            self.set_result(None)


@lru_cache(maxsize=8)
def _of(loop: asyncio.AbstractEventLoop) -> TimerWheel:
    return TimerWheel(loop)


def timer_wheel() -> TimerWheel:
    """Return the wheel of the running loop."""
    return _of(asyncio.get_running_loop())
