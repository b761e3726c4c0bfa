"""The built-in strategies. Each is a pure function from a frozen `Failure` to a decision, so it reads as a ladder.

Third parties register theirs under the entry point group `sluiceway.recovery`: a class without arguments.
"""

from server.core.errors import Kind
from server.core.ports import Continue, Decision, Failure, GiveUp, Restart, Retry

MAX_WAIT = 10.0  # seconds: who asks for more is passed over
SILENT = frozenset({Kind.TTFT_TIMEOUT, Kind.CONNECT_TIMEOUT})


def backoff(failure: Failure) -> float:
    """Return the delay before the next attempt at the failed target: doubled each time, jittered by up to a half."""
    made = failure.targets[failure.target].attempts
    return failure.backoff * 2.0 ** max(0, made - 1) * (0.5 + failure.jitter / 2)


def may_retry(failure: Failure) -> bool:
    """Whether the failed target may be asked again: it can help, attempts are left, and the wait is worth it."""
    view = failure.targets[failure.target]
    wait = backoff(failure) if failure.retry_after is None else failure.retry_after
    return (
        failure.same
        and view.attempts <= failure.max_retries
        and view.available
        and wait <= min(MAX_WAIT, failure.time_left)
    )


def retry_wait(failure: Failure) -> float:
    """Return how long to wait before asking the failed target again; `Retry-After` wins over the backoff."""
    return backoff(failure) if failure.retry_after is None else failure.retry_after


def next_target(failure: Failure, *, attempted: bool = True) -> int | None:
    """Return another target worth asking: the following ones first, then (if `attempted`) those asked before."""
    count = len(failure.targets)
    order = [(failure.target + step) % count for step in range(1, count)]
    fresh = [index for index in order if failure.targets[index].attempts == 0]
    again = [index for index in order if 0 < failure.targets[index].attempts <= failure.max_retries]
    for index in fresh + (again if attempted else []):
        if failure.other and failure.targets[index].available:
            return index
    return None


class Nothing:
    """`none`: every failure ends the stream."""

    def decide(self, failure: Failure) -> Decision:  # noqa: ARG002 — the Strategy protocol's
        """Give up."""
        return GiveUp()


class RetryOnly:
    """`retry`: the same target again, then the next one, but only before content."""

    def decide(self, failure: Failure) -> Decision:
        """Retry or fail over before content; give up after it."""
        return GiveUp() if failure.delivered.characters or failure.delivered.calls else before_content(failure)


class RestartOnly:
    """`restart`: as `retry`, and after content by restart with verified prefix suppression."""

    def decide(self, failure: Failure) -> Decision:
        """Restart where nothing forbids it."""
        if not after_content(failure):
            return before_content(failure)
        return restart(failure) if within_budget(failure) else GiveUp()


class ContinueOnly:
    """`continue`: as `retry`, and after content by continuation, where a target can."""

    def decide(self, failure: Failure) -> Decision:
        """Continue where a target can and nothing forbids it."""
        if not after_content(failure):
            return before_content(failure)
        return continuation(failure) if within_budget(failure) else GiveUp()


class Auto:
    """`auto`: retry, next target; after content restart, then continuation, then an honest error."""

    def decide(self, failure: Failure) -> Decision:
        """Take the first step of the ladder that is possible."""
        if not after_content(failure):
            return before_content(failure)
        if not within_budget(failure):
            return GiveUp()
        step = GiveUp() if failure.diverged else restart(failure)
        return continuation(failure) if isinstance(step, GiveUp) else step


def after_content(failure: Failure) -> bool:
    """Whether the client has been given something that a new attempt must join."""
    delivered = failure.delivered
    return bool(delivered.characters or delivered.calls or delivered.reasoning)


def within_budget(failure: Failure) -> bool:
    """Whether another recovery may be tried: budget and time left, and someone to tell the rest to."""
    return failure.recoveries < failure.max_recoveries and failure.time_left > 0 and failure.client_present


def before_content(failure: Failure) -> Decision:
    """Retry the same target, then try the next; one that stayed silent is left for another at once."""
    if not failure.client_present or failure.time_left <= 0:
        return GiveUp()
    other = next_target(failure, attempted=False)
    if failure.kind in SILENT and other is not None:
        return Restart(other)
    if may_retry(failure):
        return Retry(retry_wait(failure))
    other = next_target(failure, attempted=failure.kind not in SILENT)
    return GiveUp() if other is None else Restart(other)


def restart(failure: Failure) -> Decision:
    """Ask the same target again, or the next; never past a delivered tool call, which a client may have run."""
    if failure.delivered.calls:
        return GiveUp()
    # A target that went silent in the middle is asked again only where no other is there.
    other = next_target(failure)
    if failure.kind is Kind.IDLE_TIMEOUT and other is not None:
        return Restart(other)
    if may_retry(failure):
        return Restart(failure.target, retry_wait(failure))
    return GiveUp() if other is None else Restart(other)


def continuation(failure: Failure) -> Decision:
    """Ask a target that can to go on from the delivered text; refused where its inner state would be lost."""
    delivered = failure.delivered
    if delivered.calls or delivered.reasoning or delivered.structured or delivered.tools or delivered.choices != 1:
        return GiveUp()
    count = len(failure.targets)
    for index in [(failure.target + step) % count for step in range(count)]:
        view = failure.targets[index]
        if view.continuation == "none" or not view.available or view.attempts > failure.max_retries:
            continue
        if index == failure.target and not (failure.same or failure.kind is Kind.DIVERGED):
            continue
        return Continue(
            index, backoff(failure) if index == failure.target and failure.kind is not Kind.DIVERGED else 0.0
        )
    return GiveUp()


BUILT_IN = {"none": Nothing, "retry": RetryOnly, "restart": RestartOnly, "continue": ContinueOnly, "auto": Auto}
