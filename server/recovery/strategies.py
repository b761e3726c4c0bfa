"""The built-in strategies. Each is a pure function from a frozen `Failure` to a decision, so it reads as a ladder.

Third parties register theirs under the entry point group `sluiceway.recovery`: a class without arguments.
"""

from server.core.errors import TRAITS, Kind
from server.core.ports import Continue, Decision, Failure, GiveUp, Restart, Retry

MAX_WAIT = 10.0  # seconds: who asks for more is passed over
SILENT = frozenset({Kind.TTFT_TIMEOUT, Kind.CONNECT_TIMEOUT})


class Nothing:
    """`none`: every failure ends the stream."""

    def decide(self, failure: Failure) -> Decision:  # noqa: ARG002 — the Strategy protocol's
        """Give up."""
        return GiveUp()


class RetryOnly:
    """`retry`: the same target again, then the next one, but only before content."""

    def decide(self, failure: Failure) -> Decision:
        """Retry or fail over before content; give up after it."""
        return GiveUp() if after_content(failure) else before_content(failure)


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


# --- the steps --------------------------------------------------------------------------------------------------


def before_content(failure: Failure) -> Decision:
    """Retry the same target, then try the next."""
    if not failure.client_present or failure.time_left <= 0:
        return GiveUp()
    wait = wait_for(failure, failure.target)
    return next_target(failure) if wait is None else Retry(wait)


def restart(failure: Failure) -> Decision:
    """Ask the same target again, or the next; never past a delivered tool call, which a client may have run."""
    if failure.delivered.calls:
        return GiveUp()
    other = next_target(failure)
    # The same target tells the same story most likely, so it gets a second try: but not one that went silent in the
    # middle, and not a third while somebody is watching and another target is there.
    tried = failure.targets[failure.target].attempts > 1
    if (tried or failure.kind is Kind.IDLE_TIMEOUT) and isinstance(other, Restart):
        return other
    wait = wait_for(failure, failure.target)
    return other if wait is None else Restart(failure.target, wait)


def continuation(failure: Failure) -> Decision:
    """Ask a target that can to go on from the delivered text; refused where its inner state would be lost."""
    delivered = failure.delivered
    if delivered.calls or delivered.reasoning or delivered.structured or delivered.tools or delivered.choices != 1:
        return GiveUp()
    silent = failure.kind in SILENT or failure.kind is Kind.IDLE_TIMEOUT
    order = [*others(failure), failure.target] if silent else [failure.target, *others(failure)]
    for index in order:
        view = failure.targets[index]
        # A target whose restart told another story is up, and needs no pause.
        wait = 0.0 if view.last is Kind.DIVERGED and within_attempts(failure, index) else wait_for(failure, index)
        if view.continuation != "none" and wait is not None:
            return Continue(index, wait)
    return GiveUp()


# --- what the steps weigh ---------------------------------------------------------------------------------------


def after_content(failure: Failure) -> bool:
    """Whether the client has been given something that a new attempt must join."""
    delivered = failure.delivered
    return bool(delivered.characters or delivered.calls or delivered.reasoning)


def within_budget(failure: Failure) -> bool:
    """Whether another recovery may be tried: budget and time left, and someone to tell the rest to."""
    budget = failure.takeover or failure.recoveries < failure.max_recoveries  # a takeover is no recovery
    return budget and failure.time_left > 0 and failure.client_present


def within_attempts(failure: Failure, index: int) -> bool:
    """Whether a target has attempts left and its circuit lets one through."""
    view = failure.targets[index]
    return view.available and view.attempts <= failure.max_retries


def backoff(failure: Failure, index: int) -> float:
    """Return the delay before a target is asked again: doubled each time, jittered by up to a half, bounded."""
    made = failure.targets[index].attempts
    return min(MAX_WAIT, failure.backoff * 2.0 ** max(0, made - 1) * (0.5 + failure.jitter / 2))


def wait_for(failure: Failure, index: int) -> float | None:
    """Return the seconds until a target may be asked (again), or None where that is no use; `Retry-After` wins."""
    view = failure.targets[index]
    if not within_attempts(failure, index):
        return None
    if view.last is None:
        return 0.0
    if not TRAITS[view.last].same:
        return None
    wait = backoff(failure, index) if view.wait is None else view.wait
    return wait if wait <= min(MAX_WAIT, failure.time_left) else None


def others(failure: Failure) -> list[int]:
    """Return the other targets, the following ones first."""
    count = len(failure.targets)
    return [(failure.target + step) % count for step in range(1, count)]


def next_target(failure: Failure) -> Decision:
    """Ask another target: one that was not asked yet, then one that may do better now, then one that was silent."""
    if not failure.other:
        return GiveUp()
    views = failure.targets
    candidates = sorted(others(failure), key=lambda index: views[index].attempts > 0)  # stable: the order stays
    for index in candidates:
        if (wait := wait_for(failure, index)) is not None:
            return Restart(index, wait)
    if failure.kind not in SILENT:
        for index in candidates:
            if views[index].last in SILENT and within_attempts(failure, index):
                return Restart(index)
    return GiveUp()
