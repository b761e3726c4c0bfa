"""Many coarse timers in little memory: a hashed timing wheel (G. Varghese, T. Lauck, 1987)."""

import asyncio
import math
from functools import lru_cache
from typing import Protocol

TICK = 1 / 16  # seconds that a call may come late


class Due(Protocol):
    """What can be put into a wheel."""

    def due(self) -> None:
        """Do what the time has come for."""


class TimerWheel:
    """Calls `due` once, at its time or up to `TICK` later.

    A timer of uvloop takes 540 bytes, and a stream has three that may be late. Here one timer of the loop serves all
    of them, and runs only while there is something to wait for. Times are in seconds of the loop's clock.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, set[Due]] = {}  # by the tick in which they are due
        self._passed = 0  # the tick that was looked at last
        self._ticking = False

    def put(self, at: float, what: Due) -> int:
        """Have `what` called at a time; return where it is, to `drop` it."""
        if not self._ticking:
            self._ticking = True
            self._passed = math.floor(self._loop.time() / TICK)
            self._loop.call_at((self._passed + 1) * TICK, self._tick)
        slot = max(math.ceil(at / TICK), self._passed + 1)
        self._slots.setdefault(slot, set()).add(what)
        return slot

    def drop(self, slot: int, what: Due) -> None:
        """Take it out again, if it is still there. A call that its tick has begun may still come."""
        found = self._slots.get(slot)
        if found is not None:
            found.discard(what)
            if not found:
                del self._slots[slot]

    def sleep(self, seconds: float) -> asyncio.Future[None]:
        """Return what is done after so many seconds."""
        sleeper = _Sleeper(loop=self._loop)
        self.put(self._loop.time() + seconds, sleeper)
        return sleeper

    def _tick(self) -> None:
        """Call what is due, each in a turn of its own: the error of one must not be another's."""
        now = math.floor(self._loop.time() / TICK)
        for slot in range(self._passed + 1, now + 1):
            for what in self._slots.pop(slot, ()):
                self._loop.call_soon(what.due)
        self._passed = now
        self._ticking = bool(self._slots)
        if self._ticking:
            self._loop.call_at((now + 1) * TICK, self._tick)


class _Sleeper(asyncio.Future[None]):
    """A future that is done when it is due."""

    __slots__ = ()

    def due(self) -> None:
        if not self.done():  # else who slept was cancelled
            self.set_result(None)


@lru_cache(maxsize=8)
def _of(loop: asyncio.AbstractEventLoop) -> TimerWheel:
    return TimerWheel(loop)


def timer_wheel() -> TimerWheel:
    """Return the wheel of the running loop."""
    return _of(asyncio.get_running_loop())
