"""The targets that one stream may ask, in the order of the configuration, and what became of each attempt there."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from server.core.errors import Kind, UpstreamError
from server.core.ports import TargetView
from server.upstreams.breaker import Permit
from server.upstreams.pool import Target


@dataclass(slots=True)
class Tried:
    """What one target did in this stream."""

    attempts: int = 0
    last: Kind | None = None
    rest: float | None = None  # until this time (of time.monotonic()) it wants to be left alone


class Tries:
    """Counts attempts and keeps failures; decides nothing."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = targets
        self._tried = [Tried() for _ in targets]
        self.first_cause: UpstreamError | None = None
        self.diverged = False  # a restart told another story
        self.failed_last = 0  # which target failed last

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, index: int) -> Target:
        return self._targets[index]

    def named(self, name: str) -> int | None:
        """Return the number of the target with this name, if there is one."""
        return next((index for index, target in enumerate(self._targets) if target.name == name), None)

    def first(self) -> int:
        """Return the first target whose circuit lets a request through.

        Raises:
            UpstreamError: there is none (`no_target`).

        """
        for index, target in enumerate(self._targets):
            if target.breaker.available:
                return index
        soonest = min(target.breaker.opens_in for target in self._targets)
        raise UpstreamError(
            Kind.CONNECT, "No target is available: all circuits are open.", status=503, code="no_target",
            retry_after=max(1.0, soonest),
        )  # fmt: skip

    def attempts(self, index: int) -> int:
        """Return how often this stream has asked a target."""
        return self._tried[index].attempts

    def spare(self, index: int) -> int | None:
        """Return a target after `index` that this stream has not asked and whose circuit is not open, if any."""
        for other in range(index + 1, len(self._targets)):
            if self._tried[other].attempts == 0 and self._targets[other].breaker.available:
                return other
        return None

    def begin(self, index: int) -> Permit:
        """Count an attempt and take the right to make it.

        Raises:
            UpstreamError: the target's circuit is open. It counts all the same, so that no strategy can ask for ever.

        """
        self._tried[index].attempts += 1
        permit = self._targets[index].breaker.acquire()
        if permit is None:
            error = UpstreamError(Kind.CONNECT, "The target's circuit is open.")
            self.fail(index, error)
            raise error
        return permit

    def fail(self, index: int, error: UpstreamError) -> None:
        """Note why an attempt failed."""
        self.failed_last = index
        self.first_cause = self.first_cause or error
        self.diverged = self.diverged or error.kind is Kind.DIVERGED
        tried = self._tried[index]
        tried.last = error.kind
        tried.rest = None if error.retry_after is None else time.monotonic() + error.retry_after

    def views(self) -> tuple[TargetView, ...]:
        """Return what a strategy may know of the targets."""
        now = time.monotonic()
        return tuple(
            TargetView(
                target.name,
                tried.attempts,
                target.settings.continuation,
                target.breaker.available,
                tried.last,
                None if tried.rest is None else max(0.0, tried.rest - now),
            )
            for target, tried in zip(self._targets, self._tried, strict=True)
        )
