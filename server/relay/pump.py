"""The way of a token: from a read of the upstream's socket to the log, and to the readers that keep up.

It is one turn of the event loop, without a task. With hundreds of streams in turn, what a token costs is mostly the
memory that it touches for the first time. So what every token needs is in one object.
"""

import asyncio
import time
from bisect import bisect_left
from collections.abc import Sequence

from server.aio.deadline import Deadline
from server.core.dialect import Writer
from server.core.openai.intake import Intake
from server.core.upstream_api import Piece
from server.relay.stream import Stream
from server.telemetry.metrics import FINE, Metrics

AFTER_FINISH = 1.0  # seconds to wait for usage and [DONE] after the finish reason


class Pump:
    """Takes the body of one attempt from its first token on. `last` is when the answer went on last.

    `label` is the target's in metrics. `idle_timeout` is in seconds.
    What goes wrong is in `intake.failure`, unless it is raised.
    """

    __slots__ = (
        "_deadline",
        "_finishing",
        "_gaps",
        "_idle_timeout",
        "_intake",
        "_kind",
        "_metrics",
        "_stream",
        "_writer",
        "last",
    )

    def __init__(
        self,
        stream: Stream,
        writer: Writer,
        intake: Intake,
        deadline: Deadline,
        metrics: Metrics,
        label: str,
        idle_timeout: float,
    ) -> None:
        self.last = time.monotonic()
        self._stream = stream
        self._writer = writer
        self._kind = writer.token_kind
        self._intake = intake
        self._deadline = deadline
        self._idle_timeout = idle_timeout
        self._finishing = False
        self._metrics = metrics
        self._gaps = metrics.gaps.of(label)
        self.expect_more()

    def expect_more(self) -> None:
        """Let the deadline follow what the upstream says. After the finish reason, only a moment is left."""
        self._finishing = self._intake.transcript.closing
        self._deadline.follow(self, AFTER_FINISH if self._finishing else self._idle_timeout)

    async def catch_up(self) -> None:
        """Return when the upstream may be read on: there is room, and nothing is left of the last read.

        Raises as `receive` does.
        """
        while not self._intake.over:
            if self._stream.must_pause:
                await self._pause()
            if not (unparsed := self._intake.take_unparsed()):
                return
            await asyncio.sleep(0)  # the tokens of other streams have their turn
            self.receive(unparsed)

    async def _pause(self) -> None:
        """Wait for the clients and the store. The upstream is not the slow one, so its deadline does not run."""
        self._deadline.set(None)
        await self._stream.room()
        self.last = time.monotonic()
        self.expect_more()

    def receive(self, data: bytes) -> bool:
        """Check, count, log and show what one read has brought. Return whether more may come at once.

        Raises:
            StreamError: the log is full.
            StoreError: the log cannot be written.

        """
        intake = self._intake
        tokens = intake.tokens(data, self._kind)
        if tokens is None:
            pieces = intake.feed(data)
            if not intake.goes_on:  # comments, roles and empty texts are no tokens: the deadline runs on
                return self.relay(pieces)
        now = time.monotonic()
        gap = now - self.last
        gaps = self._gaps
        gaps.counts[bisect_left(FINE, gap)] += 1
        gaps.total += gap
        self.last = now
        if tokens is None:
            return self.relay(pieces)
        self._metrics.delivered += len(tokens.texts)
        return self._stream.append_now(self._writer.tokens(tokens))

    def relay(self, pieces: Sequence[Piece]) -> bool:
        """Log and show pieces; return whether more may come at once. Raises as `receive` does."""
        if self._finishing != self._intake.transcript.closing:
            self.expect_more()
        more = True
        if pieces:
            self._metrics.delivered += len(pieces)
            if records := self._writer.pieces(pieces):
                more = self._stream.append_now(records)
        return more and not self._intake.over and not self._intake.unparsed
