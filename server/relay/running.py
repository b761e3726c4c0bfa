"""Answers that go on at their upstreams without a connection: how one is resumed there, and when one is cancelled.

Such an answer is paid in any case. After a cut the rest of it is asked for, and no second answer is needed. When nobody
wants it any more, its upstream has to be told: to close the connection does not stop it.
"""

from dataclasses import dataclass

from server.core.errors import Kind, UpstreamError
from server.core.openai.intake import Intake, Seam
from server.relay.attempt import Attempt
from server.relay.stream import Stream
from server.relay.tries import Tries

# Failures of a connection, and not of the answer that came over it.
BROKEN = frozenset({Kind.RESET, Kind.CUT, Kind.TRUNCATED, Kind.GARBAGE, Kind.IDLE_TIMEOUT})
# Failures of a request for the rest that may pass. After any other one the upstream is not asked for it again.
PASSING = frozenset({
    Kind.DNS, Kind.CONNECT, Kind.CONNECT_TIMEOUT, Kind.RESET, Kind.CUT, Kind.TRUNCATED, Kind.OVERLOADED, Kind.EXHAUSTED,
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rest:
    """The rest of an answer that broke off. `running` is the upstream's id of the answer, `path` gives its rest.

    `intake` has read what came before, joined by `seam`. Without an intake, another relay has read that, and `path`
    gives the whole answer.
    """

    target: int
    running: str
    path: str
    intake: Intake | None = None
    seam: Seam | None = None

    @property
    def is_billed(self) -> bool:
        """Whether what came before counts as an answer that is paid."""
        return self.intake is not None and self.intake.has_token


class Running:
    """The answers of one turn that go on without a connection.

    `max_retries`: so many more requests are made for a rest after one that brought nothing.
    """

    def __init__(self, stream: Stream, tries: Tries, max_retries: int) -> None:
        self.cut: UpstreamError | None = None  # what the answer broke off with
        self._stream = stream
        self._tries = tries
        self._max_retries = max_retries
        self._answers: set[tuple[int, str]] = set()  # that nobody reads: the number of the target, the id
        self._in_vain = 0  # requests for the same rest

    def inherited(self, error: UpstreamError | None = None) -> Rest | None:
        """Return the answer that an earlier relay of this stream was reading, and that goes on by itself.

        `error` says what became of that relay.
        """
        self.cut = error
        running, number = self._stream.running, self._tries.named(self._stream.target)
        if not running or number is None:
            return None
        self._answers.add((number, running))
        return Rest(number, running, self._tries[number].api.again(running))

    def note(self, attempt: Attempt) -> None:
        """Note that nobody reads the answer of an attempt any more."""
        if attempt.running:
            self._answers.add((attempt.number, attempt.running))

    def over(self) -> None:
        """Note that the answer of this turn is whole."""
        self._answers.clear()
        self._stream.asks(self._stream.target)

    def cancel(self, *keep: tuple[int, str]) -> None:
        """Let the upstreams end the answers that nobody reads, but not those in `keep`."""
        for number, running in self._answers - {*keep}:
            target = self._tries[number]
            target.client.cancel(target.api.cancelling(running))
        self._answers &= {*keep}

    def broke_off(self, attempt: Attempt, seam: Seam | None, error: UpstreamError) -> Rest | None:
        """Return the rest of an answer that has just broken off, if its upstream goes on with it."""
        self.cut, self._in_vain = error, 0
        path = attempt.intake.rest() if error.kind in BROKEN and attempt.running else ""
        return Rest(attempt.number, attempt.running, path, attempt.intake, seam) if path else None

    def brought_nothing(self, rest: Rest, error: UpstreamError) -> Rest | None:
        """Return what to ask for again after a request for the rest has failed; None: the rest cannot be had."""
        self._in_vain += 1
        if error.kind not in PASSING or self._in_vain > self._max_retries:
            return None
        if rest.intake is None:
            return rest
        path = rest.intake.rest()
        return Rest(rest.target, rest.running, path, rest.intake, rest.seam) if path else None
