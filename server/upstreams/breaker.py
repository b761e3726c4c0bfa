"""The circuit breaker of one target, shared by all streams (pattern: Nygard, "Release It!").

A failure that a request may have caused itself is a weak witness: one client could take a target away from all others
with it. Such failures count once per request body, and not while the target answers somebody else.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

CircuitState = Literal["closed", "half_open", "open"]
Role = Literal["usual", "probe", "panic"]  # of a request: the latter two were let through while the circuit was open

# Requests at a time that an open circuit lets through to a target without an alternative. Envoy calls it the panic
# threshold: a circuit must not hide the only target's own error.
PANIC = 16
MAX_WITNESSES = 1000  # streams and bodies that are remembered while a circuit is open


@dataclass(frozen=True, slots=True)
class Fault:
    """A failure as its circuit sees it.

    `cause` is the name of what failed. `stream` and `owner` say whose request it was. `body` is a number for the
    request's body if the request itself may have caused the failure, else None. `early`: before the first token.
    """

    cause: str
    stream: str
    owner: str
    body: int | None = None
    early: bool = True


class Breaker:
    """Opens after `failures` consecutive failures. `reset` seconds later it lets one probe through.

    A stream counts once, however often it asks.
    """

    def __init__(self, failures: int, reset: float, clock: Callable[[], float]) -> None:
        self._limit = failures
        self._reset = reset
        self._clock = clock
        self._consecutive = 0
        self._witnesses: set[str | int] = set()  # streams and bodies whose failure has counted since the last success
        self._served: OrderedDict[str, float] = OrderedDict()  # when the last two owners got a token
        self._opened_at: float | None = None
        self._probing = False
        self._asking = 0  # requests that were let through while it was open, and have no outcome
        self.last_cause = ""  # of the last failure that counted

    @property
    def state(self) -> CircuitState:
        """`closed`: requests go through. `half_open`: one probe does. `open`: none does."""
        if self._opened_at is None:
            return "closed"
        return "half_open" if self._probing or self._clock() >= self._opened_at + self._reset else "open"

    @property
    def available(self) -> bool:
        """Whether a request goes through now that could go elsewhere."""
        return self._opened_at is None or (not self._probing and self._clock() >= self._opened_at + self._reset)

    @property
    def opens_in(self) -> float:
        """Seconds until a probe may go through; 0 if one may now."""
        return 0.0 if self._opened_at is None else max(0.0, self._opened_at + self._reset - self._clock())

    def admits(self, *, alone: bool) -> bool:
        """Whether `acquire` would let a request through now. `alone`: there is no other target for it."""
        return self._asking < PANIC if alone else self.available

    def acquire(self, *, alone: bool = False) -> "Permit | None":
        """Return the permit to send one request, or None if the circuit lets none through."""
        if not self.admits(alone=alone):
            return None
        if self._opened_at is None:
            return Permit(self, "usual")
        probe = self.available
        self._probing = self._probing or probe
        self._asking += 1
        return Permit(self, "probe" if probe else "panic")

    def answered(self, role: Role, owner: str) -> None:
        """Note that a request has its first token. If the circuit is not closed, that closes it.

        A probe may be a stream of several minutes, and a target that sends tokens is up. But a target that cuts every
        stream must not get the whole number of failures again each time that it has sent a token: one more failure
        opens the circuit, until a request succeeds.
        """
        self._served[owner] = self._clock()
        self._served.move_to_end(owner)
        if len(self._served) > 2:
            self._served.popitem(last=False)
        if role != "usual":
            self._asking -= 1
        if role == "probe":
            self._probing = False
        if role != "usual" and self._opened_at is not None:
            self._opened_at = None
            self._consecutive = self._limit - 1

    def settle(self, role: Role, ok: bool | None, fault: Fault | None) -> None:
        """Take the outcome of a permit's request.

        True closes the circuit, False counts as a failure. None says nothing about the target.
        """
        if role != "usual":
            self._asking -= 1
        if role == "probe":
            self._probing = False
        # A request from before the circuit opened says nothing about the target now. Its success must not close the
        # circuit, and its failure must not delay the next probe.
        if self._opened_at is not None and role == "usual":
            return
        if ok:
            self._consecutive = 0
            self._opened_at = None
            self._witnesses.clear()
        elif ok is False and self._counts(fault) and role != "panic":
            self._consecutive += 1
            if role == "probe" or self._consecutive >= self._limit:
                self._opened_at = self._clock()

    def _counts(self, fault: Fault | None) -> bool:
        """Whether a failure says something new about the target. If so, remember it."""
        if fault is None:
            return True
        if fault.body is not None and (fault.body in self._witnesses or (fault.early and self._serves_others(fault))):
            return False
        # A stream that has counted may still be the probe that fails.
        if fault.stream in self._witnesses and self._opened_at is None:
            return False
        if len(self._witnesses) < MAX_WITNESSES:
            self._witnesses.add(fault.stream)
            if fault.body is not None:
                self._witnesses.add(fault.body)
        self.last_cause = fault.cause
        return True

    def _serves_others(self, fault: Fault) -> bool:
        """Whether somebody else got a token from the target, not longer ago than a circuit would be open."""
        since = self._clock() - self._reset
        return any(owner != fault.owner and at > since for owner, at in self._served.items())


class Permit:
    """The right to send one request. Only its first outcome counts."""

    def __init__(self, breaker: Breaker, role: Role) -> None:
        self._breaker: Breaker | None = breaker
        self._role: Role = role

    def answered(self, owner: str = "") -> None:
        """Report the first token, and whose request it is."""
        if self._breaker is not None:
            self._breaker.answered(self._role, owner)
            self._role = "usual"  # from now on it is a request like any other

    def settle(self, ok: bool | None, fault: Fault | None = None) -> None:
        """Report the outcome of the request. None: the client left, or the request itself was wrong."""
        if self._breaker is not None:
            self._breaker.settle(self._role, ok, fault)
            self._breaker = None
