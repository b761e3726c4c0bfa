"""The circuit breaker of one target, shared by all streams (pattern: Nygard, "Release It!")."""

from collections.abc import Callable
from typing import Literal

CircuitState = Literal["closed", "half_open", "open"]


class Breaker:
    """Opens after `failures` consecutive failures. `reset` seconds later it lets one probe through."""

    def __init__(self, failures: int, reset: float, clock: Callable[[], float]) -> None:
        self._limit = failures
        self._reset = reset
        self._clock = clock
        self._consecutive = 0
        self._opened_at: float | None = None
        self._probing = False

    @property
    def state(self) -> CircuitState:
        """`closed`: requests go through. `half_open`: one probe does. `open`: none does."""
        if self._opened_at is None:
            return "closed"
        return "half_open" if self._probing or self._clock() >= self._opened_at + self._reset else "open"

    @property
    def available(self) -> bool:
        """Whether `acquire` would let a request through now."""
        return self._opened_at is None or (not self._probing and self._clock() >= self._opened_at + self._reset)

    @property
    def opens_in(self) -> float:
        """Seconds until a probe may go through; 0 if one may now."""
        return 0.0 if self._opened_at is None else max(0.0, self._opened_at + self._reset - self._clock())

    def acquire(self) -> "Permit | None":
        """Return the permit to send one request, or None if the circuit lets none through."""
        if not self.available:
            return None
        self._probing = self._opened_at is not None
        return Permit(self, probe=self._probing)

    def answered(self) -> None:
        """Close the circuit: the probe has its first token. One more failure opens it, until a request succeeds.

        A probe may be a stream of several minutes, and a target that sends tokens is up. But a target that cuts every
        stream must not get the whole number of failures again each time that it has sent a token.
        """
        self._probing = False
        self._opened_at = None
        self._consecutive = self._limit - 1

    def settle(self, *, probe: bool, ok: bool | None) -> None:
        """Take the outcome of a permit's request.

        True closes the circuit, False counts as a failure. None says nothing about the target.
        """
        if probe:
            self._probing = False
        # A request from before the circuit opened says nothing about the target now. Its success must not close the
        # circuit, and its failure must not delay the next probe.
        if self._opened_at is not None and not probe:
            return
        if ok:
            self._consecutive = 0
            self._opened_at = None
        elif ok is False:
            self._consecutive += 1
            if probe or self._consecutive >= self._limit:
                self._opened_at = self._clock()


class Permit:
    """The right to send one request. Only its first outcome counts."""

    def __init__(self, breaker: Breaker, *, probe: bool) -> None:
        self._breaker: Breaker | None = breaker
        self._probe = probe

    def answered(self) -> None:
        """Report the first token."""
        if self._probe and self._breaker is not None:
            self._breaker.answered()
            self._probe = False  # from now on it is a request like any other

    def settle(self, ok: bool | None) -> None:
        """Report the outcome of the request. None: the client left, or the request itself was wrong."""
        if self._breaker is not None:
            self._breaker.settle(probe=self._probe, ok=ok)
            self._breaker = None
