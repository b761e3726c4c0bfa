"""What a dialect logs in a silence, so that its clients see that the stream is alive: Messages' `ping`, for example."""

import time

from server.aio.timers import timer_wheel
from server.core.dialect import Writer
from server.core.errors import StoreError, StreamError
from server.relay.stream import Stream

LOOKS = 8  # at the log within `idle_after`: a silence is noticed by an eighth of it too late at most


class IdleRecords:
    """Logs `writer.idle()` whenever nothing was logged for `writer.idle_after` seconds."""

    def __init__(self, stream: Stream, writer: Writer) -> None:
        self._stream = stream
        self._writer = writer
        self._tail = 0
        self._since = 0.0  # time.monotonic() when the tail was another
        self._slot: int | None = None

    def start(self) -> None:
        """Begin, if the dialect has such records."""
        if self._writer.idle_after:
            self._since = time.monotonic()
            self._look_again()

    def stop(self) -> None:
        """Log nothing any more: the ending must stay the last record."""
        if self._slot is not None:
            timer_wheel().drop(self._slot, self)
            self._slot = None

    def _look_again(self) -> None:
        wheel = timer_wheel()
        self._slot = wheel.put(wheel.now + self._writer.idle_after / LOOKS, self)

    def due(self) -> None:
        """Look whether something was logged."""
        if self._slot is None:
            return  # it was stopped in this turn
        stream, now = self._stream, time.monotonic()
        # A client that does not read must not make the log grow.
        if stream.log.tail != self._tail or stream.must_pause:
            self._tail, self._since = stream.log.tail, now
        elif now - self._since >= self._writer.idle_after:
            self._since = now
            try:
                if records := self._writer.idle():
                    stream.append_now(records)
                    self._tail = stream.log.tail  # its own record does not end the silence
            except (StreamError, StoreError):
                self.stop()  # the relay's own next append fails in the same way, and ends the stream
                return
        self._look_again()
