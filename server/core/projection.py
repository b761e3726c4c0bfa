"""A stream in another dialect than the one that it was created in: the reader of the one, the writer of the other.

A projection is fed every record from the first, so that it knows what is open (who called which tool), and shows what
comes after the client's cursor. A record may make several records here, or none. All but the last of them carry the id
that the client has *already*: one that is cut between them gets them again, and knows how many of them it has seen.
"""

from collections.abc import Iterable

from server.core.dialect import Dialect, LoggedCall
from server.core.generation import Generation
from server.core.openai.intake import Piece
from server.core.openai.transcript import Transcript
from server.core.ports import Log
from server.core.records import Record


class Projection:
    """Frames for one client, whose last record is number `after`. `generation` is the request of the stream."""

    def __init__(self, log: Log, generation: Generation, created: Dialect, shown: Dialect, after: int) -> None:
        self._log = log
        self._dialect = shown
        self._reader = created.reader(log.beginning)
        self._writer = shown.writer(log, generation, None)
        self._after = after
        self._seq = 0
        self._shown = after  # the id that the client has

    def skip_to(self, seq: int) -> None:
        """Go on after record `seq`: those before it are lost."""
        self._seq = seq

    def frames(self, records: Iterable[Record]) -> bytes:
        """Return the next records as they go out; nothing if they have no word here or the client has them."""
        frames: list[bytes] = []
        for record in records:
            self._seq += 1
            translated = self._translated(record)
            if translated and self._seq > self._after:
                *others, last = translated
                frames += [self._dialect.frames(self._shown, [other]) for other in others]
                frames.append(self._dialect.frames(self._seq, [last]))
                self._shown = self._seq
        return b"".join(frames)

    def _translated(self, record: Record) -> list[Record]:
        entries = [entry.piece if isinstance(entry, LoggedCall) else entry for entry in self._reader.read(record)]
        pieces = [entry for entry in entries if isinstance(entry, Piece)]
        records = self._writer.pieces(pieces) if pieces else []
        # The ending is written with the last record: both are known at once.
        if self._log.ending is not None and self._seq == self._log.tail:
            records += self._writer.ending(self._log.ending, Transcript())
        return records
