"""How long to wait for a gateway that is away, and when to give it up."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """Bounds of one stream's reconnecting; all in seconds.

    `give_up_after` counts the time spent without a connection since the last event. `silence` is the longest pause
    between two reads of an open stream: a gateway sends a heartbeat every 15 s, so a quieter connection is dead.
    """

    give_up_after: float = 60.0
    first_wait: float = 0.25
    longest_wait: float = 5.0
    silence: float = 45.0


class Outage:
    """The clock of one stream's lost connections: backoff with jitter, reset by every event that arrives.

    A connection alone resets nothing: one that is cut again and again before its first event must not go on for ever.
    """

    def __init__(self, patience: Patience, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience = patience
        self._clock = clock
        self._attempts = 0
        self._without = 0.0  # seconds without a connection, up to the last time there was one
        self._since: float | None = None  # the connection was lost then

    def lost(self) -> None:
        """Note that there is no connection now."""
        if self._since is None:
            self._since = self._clock()

    def connected(self) -> None:
        """Note that there is a connection."""
        if self._since is not None:
            self._without += self._clock() - self._since
            self._since = None

    def over(self) -> None:
        """Note that an event came through."""
        self._attempts = 0
        self._without = 0.0
        self._since = None

    def wait(self, at_least: float = 0.0) -> float | None:
        """Return the seconds to wait before the next attempt, or None where it is time to give up.

        `at_least` is what the gateway asked for (`retry:`, `Retry-After`); jitter is added to it, never taken off.
        """
        self.lost()
        assert self._since is not None
        left = self._patience.give_up_after - self._without - (self._clock() - self._since)
        if left <= 0:
            return None
        backoff = min(self._patience.first_wait * 2.0**self._attempts, self._patience.longest_wait)
        self._attempts = min(self._attempts + 1, 16)
        jitter = random.random()  # noqa: S311 — spreads clients after a restart, keeps no secret
        return min(max(backoff * (0.5 + jitter / 2), at_least * (1 + jitter / 4)), left)
