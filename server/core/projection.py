"""A stream shown in another dialect than the one that created it: a reader of the one, a writer of the other.

A projection takes every record from the first, so that it knows which tool calls are open. It shows the records after
the client's cursor. One record may become several records here, or none. All but the last of them carry the id that
the client has *already*. If the connection breaks between them, the client gets all of them again. It has counted
those that it saw since that id, so it can skip them.
"""

from collections.abc import Iterable

from server.core.dialect import Dialect, LoggedCall
from server.core.errors import StreamError
from server.core.generation import Generation
from server.core.openai.transcript import Transcript
from server.core.ports import Log
from server.core.records import Record
from server.core.upstream_api import Piece


class Projection:
    """Makes the frames for one client. `after` is the number of its last record, `generation` the stream's request."""

    def __init__(self, log: Log, generation: Generation, created: Dialect, shown: Dialect, after: int) -> None:
        self._log = log
        self._dialect = shown
        self._reader = created.reader(log.beginning)
        self._writer = shown.writer(log, generation, None)
        self._after = after
        self._seq = 0
        self._client_id = after  # the last id that the client got

    def skip_to(self, seq: int) -> None:
        """Go on after record `seq`, because the records up to it are lost."""
        self._seq = seq

    def frames(self, records: Iterable[Record]) -> bytes:
        """Return the frames of the next records; empty if this dialect has none for them, or the client has them."""
        frames: list[bytes] = []
        for record in records:
            self._seq += 1
            try:
                translated = self._translated(record)
            except StreamError:
                continue  # this dialect cannot say it, such as thousands of calls; the one that created the stream can
            if translated and self._seq > self._after:
                *others, last = translated
                frames += [self._dialect.frames(self._client_id, [other]) for other in others]
                frames.append(self._dialect.frames(self._seq, [last]))
                self._client_id = self._seq
        return b"".join(frames)

    def _translated(self, record: Record) -> list[Record]:
        entries = [entry.piece if isinstance(entry, LoggedCall) else entry for entry in self._reader.read(record)]
        pieces = [entry for entry in entries if isinstance(entry, Piece)]
        records = self._writer.pieces(pieces) if pieces else []
        # The last record and the ending are written in one append, so the ending is known here.
        if self._log.ending is not None and self._seq == self._log.tail:
            if self._log.ending.error is None:
                records += self._writer.end_turn()
            records += self._writer.ending(self._log.ending, Transcript())
        return records
