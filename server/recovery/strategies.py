"""The built-in recovery strategies: pure functions from a `Failure` to a decision.

Each strategy is a ladder: it takes the first step that is possible. An answer that its target goes on with is resumed
there before anything else: it is not paid again, and it is exact. Third parties register a strategy of their own, a
class without constructor arguments, under the entry point group `sluiceway.recovery`.
"""

from collections.abc import Callable

from server.core.errors import TRAITS, Kind
from server.core.ports import Continue, Decision, Failure, GiveUp, Restart, Resume, Retry

MAX_WAIT = 10.0  # seconds; a target that asks for a longer wait is skipped
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
    """`restart`: as `retry`; after content, send the request again and suppress the part that was delivered."""

    def decide(self, failure: Failure) -> Decision:
        """Retry before content; after it, restart if nothing forbids it."""
        if not after_content(failure):
            return before_content(failure)
        return first_of(failure, resume, restart) if within_budget(failure) else GiveUp()


class ContinueOnly:
    """`continue`: as `retry`; after content, ask a target to go on from the delivered text, if one can."""

    def decide(self, failure: Failure) -> Decision:
        """Retry before content; after it, continue if a target can and nothing forbids it."""
        if not after_content(failure):
            return before_content(failure)
        return first_of(failure, resume, continuation) if within_budget(failure) else GiveUp()


class Auto:
    """`auto`: as `retry`; after content, resume, then restart, then continue, then end with an error."""

    def decide(self, failure: Failure) -> Decision:
        """Take the first step that is possible."""
        if not after_content(failure):
            return before_content(failure)
        if not within_budget(failure):
            return GiveUp()
        steps = (resume, continuation) if failure.diverged else (resume, restart, continuation)
        return first_of(failure, *steps)


# --- the steps --------------------------------------------------------------------------------------------------


def first_of(failure: Failure, *steps: Callable[[Failure], Decision]) -> Decision:
    """Return the first step that is possible."""
    decisions = (step(failure) for step in steps)
    return next((decision for decision in decisions if not isinstance(decision, GiveUp)), GiveUp())


def resume(failure: Failure) -> Decision:
    """Ask the same target for the rest of an answer that it goes on with. This takes none of its attempts."""
    if not (failure.resumable and failure.targets[failure.target].available):
        return GiveUp()
    return Resume(min(backoff(failure, failure.target), failure.time_left))


def before_content(failure: Failure) -> Decision:
    """Retry the same target, then try the next. A silent target is asked again if there is no other one."""
    if not failure.client_present or failure.time_left <= 0:
        return GiveUp()
    if isinstance(step := resume(failure), Resume):
        return step
    wait = wait_for(failure, failure.target)
    if wait is None:
        other = next_target(failure)
        wait = wait_for(failure, failure.target, silent=True) if isinstance(other, GiveUp) else None
        return other if wait is None else Retry(wait)
    return Retry(wait)


def restart(failure: Failure) -> Decision:
    """Ask the same target again, or the next one. Give up after a delivered tool call: the client may have run it."""
    if failure.delivered.calls:
        return GiveUp()
    other = next_target(failure)
    # The same target most likely produces the same text, so it gets a second attempt. It does not get one if it went
    # silent in the middle, and it does not get a third one if there is another target: a client is waiting.
    had_second_attempt = failure.targets[failure.target].attempts > 1
    if (had_second_attempt or failure.kind is Kind.IDLE_TIMEOUT) and isinstance(other, Restart):
        return other
    nobody_else = isinstance(other, GiveUp)
    wait = wait_for(failure, failure.target, silent=nobody_else)
    return other if wait is None else Restart(failure.target, wait)


def continuation(failure: Failure) -> Decision:
    """Ask a target that supports it to go on from the delivered text.

    Give up if the answer has state that the text does not show: calls, reasoning, a structure, tools, several choices.
    """
    delivered = failure.delivered
    if delivered.calls or delivered.reasoning or delivered.structured or delivered.tools or delivered.choices != 1:
        return GiveUp()
    if delivered.others and not delivered.characters:
        return GiveUp()  # there is no text to go on from, and a picture would come again
    silent = failure.kind in SILENT or failure.kind is Kind.IDLE_TIMEOUT
    order = [*others(failure), failure.target] if silent else [failure.target, *others(failure)]
    for index in order:
        view = failure.targets[index]
        # A target whose restart produced another text is up, so it needs no pause.
        diverged = view.last is Kind.DIVERGED and within_attempts(failure, index)
        wait = 0.0 if diverged else wait_for(failure, index, silent=True)
        if view.continuation != "none" and wait is not None:
            return Continue(index, wait)
    return GiveUp()


# --- conditions and delays --------------------------------------------------------------------------------------


def after_content(failure: Failure) -> bool:
    """Whether the client has received something that a new attempt must join on to."""
    delivered = failure.delivered
    return bool(delivered.characters or delivered.calls or delivered.reasoning or delivered.others)


def within_budget(failure: Failure) -> bool:
    """Whether another recovery may be tried: there is budget and time left, and a client that waits."""
    budget = failure.takeover or failure.recoveries < failure.max_recoveries  # a takeover is no recovery
    return budget and failure.time_left > 0 and failure.client_present


def within_attempts(failure: Failure, index: int) -> bool:
    """Whether a target has attempts left, and its circuit lets one through."""
    view = failure.targets[index]
    return view.available and view.attempts <= failure.max_retries


def backoff(failure: Failure, index: int) -> float:
    """Return the seconds before a target is asked again.

    They double with each attempt, up to `MAX_WAIT`. Jitter shortens them by up to a half.
    """
    attempts = failure.targets[index].attempts
    return min(MAX_WAIT, failure.backoff * 2.0 ** max(0, attempts - 1) * (0.5 + failure.jitter / 2))


def wait_for(failure: Failure, index: int, *, silent: bool = False) -> float | None:
    """Return the seconds until a target may be asked, or None if asking it is no use. `Retry-After` wins.

    `silent`: it may be asked again although it was silent.
    """
    view = failure.targets[index]
    if not within_attempts(failure, index):
        return None
    if view.last is None:
        return 0.0
    if not (TRAITS[view.last].same or (silent and view.last in SILENT)):
        return None
    wait = backoff(failure, index) if view.wait is None else view.wait
    return wait if wait <= min(MAX_WAIT, failure.time_left) else None


def others(failure: Failure) -> list[int]:
    """Return the indexes of the other targets, beginning after the failed one."""
    count = len(failure.targets)
    return [(failure.target + step) % count for step in range(1, count)]


def next_target(failure: Failure) -> Decision:
    """Ask another target: a new one first, then one that may do better now, then one that was silent."""
    if not failure.other:
        return GiveUp()
    views = failure.targets
    candidates = sorted(
        others(failure), key=lambda index: views[index].attempts > 0
    )  # sorted() is stable: the order stays
    for index in candidates:
        if (wait := wait_for(failure, index)) is not None:
            return Restart(index, wait)
    for index in candidates:
        if views[index].last in SILENT and within_attempts(failure, index):
            return Restart(index)
    return GiveUp()
