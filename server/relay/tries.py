"""The targets that one stream may ask, in the order of the configuration, and the attempts at each."""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass

from server.core.errors import TRAITS, Kind, UpstreamError
from server.core.ports import TargetView
from server.recovery.strategies import SILENT
from server.upstreams.breaker import Permit
from server.upstreams.pool import Target


@dataclass(slots=True)
class TargetHistory:
    """The attempts of this stream at one target."""

    attempts: int = 0
    last: Kind | None = None
    quiet_until: float | None = None  # time.monotonic() until which it should not be asked (`Retry-After`)


class Tries:
    """Counts attempts and remembers failures. It decides nothing."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = targets
        self._alone = len(targets) == 1  # asked all the same when its circuit is open
        self._histories = [TargetHistory() for _ in targets]
        self.first_cause: UpstreamError | None = None
        self.diverged = False  # a restart gave another text than the delivered one
        self.failed_last = 0  # number of the target that failed last

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, index: int) -> Target:
        return self._targets[index]

    def named(self, name: str) -> int | None:
        """Return the number of the target with this name, if there is one."""
        return next((index for index, target in enumerate(self._targets) if target.name == name), None)

    def first(self) -> int:
        """Return the number of the first target whose circuit lets a request through.

        Raises:
            UpstreamError: there is no such target (`no_target`).

        """
        for index, target in enumerate(self._targets):
            if target.breaker.admits(alone=self._alone):
                return index
        raise self._no_target()

    def _no_target(self) -> UpstreamError:
        """Return the error of a request that nobody may be asked for now: why, and when to come back.

        Of the causes only our own names are told. The upstream's words were for another client.
        """
        breakers = [(target.name, target.breaker) for target in self._targets]
        causes = ", ".join(f"{name} with {breaker.last_cause}" for name, breaker in breakers if breaker.last_cause)
        last = f" Failed last: {causes}." if causes else ""
        soonest = min(breaker.opens_in for _, breaker in breakers)
        return UpstreamError(
            Kind.NO_TARGET, f"No target is available: all circuits are open.{last}", retry_after=max(1.0, soonest)
        )

    def attempts(self, index: int) -> int:
        """Return how many attempts this stream has made at a target."""
        return self._histories[index].attempts

    def is_last(self, index: int, max_retries: int) -> bool:
        """Whether no other target is left to ask: one whose circuit is not open, with attempts that may help."""
        return not any(
            history.attempts <= max_retries
            and target.breaker.available
            and (history.last is None or history.last in SILENT or TRAITS[history.last].same)
            for other, (target, history) in enumerate(zip(self._targets, self._histories, strict=True))
            if other != index
        )

    def spare(self, index: int) -> int | None:
        """Return the number of a later target that was not asked yet and whose circuit is not open, or None."""
        for other in range(index + 1, len(self._targets)):
            if self._histories[other].attempts == 0 and self._targets[other].breaker.available:
                return other
        return None

    def resume(self, index: int) -> Permit:
        """Return the permit to ask for the rest of an answer, which is no further attempt.

        Raises:
            UpstreamError: the target's circuit is open.

        """
        permit = self._targets[index].breaker.acquire(alone=self._alone)
        if permit is None:
            raise self._no_target()
        return permit

    def begin(self, index: int) -> Permit:
        """Count an attempt and return the permit to make it.

        Raises:
            UpstreamError: the target's circuit is open. The attempt still counts, so that a strategy cannot retry
                for ever.

        """
        self._histories[index].attempts += 1
        permit = self._targets[index].breaker.acquire(alone=self._alone)
        if permit is None:
            self.fail(index, self._no_target())
            raise self._no_target()
        return permit

    def fail(self, index: int, error: UpstreamError) -> None:
        """Note why an attempt failed."""
        self.failed_last = index
        if self.first_cause is None or self.first_cause.kind is Kind.NO_TARGET:
            # A target that was asked and failed says more than one that was not asked. It is a copy that is kept: the
            # error itself knows the frames that it has passed, and by them this object.
            self.first_cause = dataclasses.replace(error)
        self.diverged = self.diverged or error.kind is Kind.DIVERGED
        history = self._histories[index]
        history.last = error.kind
        history.quiet_until = None if error.retry_after is None else time.monotonic() + error.retry_after

    def final_error(self, index: int, error: UpstreamError) -> UpstreamError:
        """Return the error for the client: the first cause, and what ended the recovery if that is another kind.

        `error` is the last failure, of target number `index`.
        """
        first = dataclasses.replace(self.first_cause or error)  # what is kept is never raised: see `fail`
        if first.kind in (Kind.RATE_LIMIT, Kind.QUOTA):
            waits = [view.wait for view in self.views() if view.wait is not None]
            first = dataclasses.replace(first, retry_after=min(waits, default=None))
        if first.kind is error.kind:
            return first
        last_failure = f"{error.kind.value} at {self[index].name}"
        return dataclasses.replace(first, message=f"{first.message} (Recovery ended with {last_failure}.)")

    def views(self) -> tuple[TargetView, ...]:
        """Return the targets as a strategy sees them."""
        now = time.monotonic()
        return tuple(
            TargetView(
                target.name,
                history.attempts,
                target.settings.continuation,
                target.breaker.admits(alone=self._alone),
                history.last,
                None if history.quiet_until is None else max(0.0, history.quiet_until - now),
            )
            for target, history in zip(self._targets, self._histories, strict=True)
        )
