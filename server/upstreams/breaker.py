"""The circuit of one target, shared by all streams (Nygard, Release It!: Circuit Breaker)."""

from collections.abc import Callable
from typing import Literal

CircuitState = Literal["closed", "half_open", "open"]


class Breaker:
    """Opens after `failures` consecutive failures; lets one probe through `reset` seconds later."""

    def __init__(self, failures: int, reset: float, clock: Callable[[], float]) -> None:
        self._limit = failures
        self._reset = reset
        self._clock = clock
        self._consecutive = 0
        self._opened_at: float | None = None
        self._probing = False

    @property
    def state(self) -> CircuitState:
        """Whether requests go through, one goes through, or none does."""
        if self._opened_at is None:
            return "closed"
        return "half_open" if self._probing or self._clock() >= self._opened_at + self._reset else "open"

    @property
    def available(self) -> bool:
        """Whether `acquire` would let a request through now."""
        return self._opened_at is None or (not self._probing and self._clock() >= self._opened_at + self._reset)

    @property
    def opens_in(self) -> float:
        """Seconds until a probe may go through; 0 where it may now."""
        return 0.0 if self._opened_at is None else max(0.0, self._opened_at + self._reset - self._clock())

    def acquire(self) -> "Permit | None":
        """Take the right to send one request, or None while the circuit is open."""
        if not self.available:
            return None
        self._probing = self._opened_at is not None
        return Permit(self, probe=self._probing)

    def answered(self) -> None:
        """Let others through: the probe has its first token. Until it is whole, one more failure opens again.

        A probe may be a stream of minutes, and a target that speaks is up; but one that cuts every stream must not
        get the whole count of failures again each time that it has spoken.
        """
        self._probing = False
        self._opened_at = None
        self._consecutive = self._limit - 1

    def settle(self, *, probe: bool, ok: bool | None) -> None:
        """Take a permit's verdict: True closes the circuit, False counts, None says nothing about the target."""
        if probe:
            self._probing = False
        # A straggler from before the circuit opened says nothing about the target now: neither may its success close
        # the circuit, nor its failure push the next probe away.
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
    """The right to send one request. It is settled once: a later verdict is ignored."""

    def __init__(self, breaker: Breaker, *, probe: bool) -> None:
        self._breaker: Breaker | None = breaker
        self._probe = probe

    def answered(self) -> None:
        """Report the first token."""
        if self._probe and self._breaker is not None:
            self._breaker.answered()
            self._probe = False  # from here on a request like any other

    def settle(self, ok: bool | None) -> None:
        """Report what became of the request; None: the client left, or the request itself was at fault."""
        if self._breaker is not None:
            self._breaker.settle(probe=self._probe, ok=ok)
            self._breaker = None
