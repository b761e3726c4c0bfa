"""How long to wait for a gateway that is away, and when to give up."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a stream tries to reconnect; all in seconds.

    `give_up_after` is the time without a connection since the last event. The pause between two attempts starts at
    `first_wait`, doubles, and ends at `longest_wait`. `silence` is the longest pause between two reads of an open
    stream. A gateway sends a heartbeat every 15 s, so a connection that is silent for longer than that is dead.
    """

    give_up_after: float = 60.0
    first_wait: float = 0.25
    longest_wait: float = 5.0
    silence: float = 45.0


class Outage:
    """Measures the time that one stream spends without a connection. Backoff with jitter; every event resets it.

    A new connection alone does not reset it. Otherwise connections that are always cut before their first event would
    be tried for ever.
    """

    def __init__(self, patience: Patience, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience = patience
        self._clock = clock
        self._attempts = 0
        self._disconnected = 0.0  # seconds without a connection, before the present outage
        self._since: float | None = None  # when the connection was lost; None if there is one

    def lost(self) -> None:
        """Note that the connection is lost."""
        if self._since is None:
            self._since = self._clock()

    def connected(self) -> None:
        """Note that there is a connection."""
        if self._since is not None:
            self._disconnected += self._clock() - self._since
            self._since = None

    def over(self) -> None:
        """Note that an event came through."""
        self._attempts = 0
        self._disconnected = 0.0
        self._since = None

    def wait(self, at_least: float = 0.0) -> float | None:
        """Return the seconds to wait before the next attempt, or None if it is time to give up.

        `at_least` is the wait that the gateway asked for (`retry:`, `Retry-After`), in seconds. Jitter only makes it
        longer.
        """
        self.lost()
        assert self._since is not None
        remaining = self._patience.give_up_after - self._disconnected - (self._clock() - self._since)
        if remaining <= 0:
            return None
        backoff = min(self._patience.first_wait * 2.0**self._attempts, self._patience.longest_wait)
        self._attempts = min(self._attempts + 1, 16)
        jitter = random.random()  # noqa: S311 — it spreads the clients after a restart; it is no secret
        return min(max(backoff * (0.5 + jitter / 2), at_least * (1 + jitter / 4)), remaining)
