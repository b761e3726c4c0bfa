"""The progress of one stream over all its turns and attempts: its time, its first token, its bill."""

import time
from collections.abc import Mapping
from typing import Any

from server.core.billing import Bill
from server.core.timing import Phases
from server.relay.attempt import Attempt
from server.telemetry.metrics import Metrics
from server.telemetry.traces import StreamSpan


class Progress:
    """Filled in by the turns. All times are from time.monotonic(), in seconds.

    `accepted` is when the request came. After a takeover it is when this relay began, and `before` is how long ago the
    request had come. The time to the first token is then unknown.
    """

    def __init__(
        self,
        request: Mapping[str, Any],
        accepted: float,
        total_timeout: float,
        metrics: Metrics,
        span: StreamSpan | None = None,
        before: float | None = None,
    ) -> None:
        self.metrics = metrics
        self.span = span
        self.bill = Bill(request)
        self.taken_over = before is not None
        self.accepted = accepted - (before or 0.0)
        self.total_timeout = total_timeout
        self.attempts = 0  # requests that were made, failed ones too, or that an open circuit prevented
        self.tokens = 0  # of the earlier turns
        self.phases: Phases | None = None  # of the first attempt that had a token
        self.ttft: float | None = None
        self.duration: float | None = None  # seconds from the request to the ending

    @property
    def ends(self) -> float:
        """When the time of the stream is over."""
        return self.accepted + self.total_timeout

    @property
    def time_left(self) -> float:
        """Seconds until the time of the stream is over."""
        return self.ends - time.monotonic()

    def note_ending(self) -> None:
        """Note how long the stream took. Not by the wall clock, which may be set meanwhile."""
        self.duration = time.monotonic() - self.accepted

    def note_first_token(self, attempt: Attempt) -> None:
        """Note an attempt's first token."""
        self.phases = self.phases or attempt.phases
        if self.ttft is None and not self.taken_over:
            self.ttft = time.monotonic() - self.accepted
            self.metrics.observe_ttft(attempt.target.label, self.ttft)
