"""One attempt's body, read frame by frame: bytes in, chunks to deliver out.

This is the way of every token, so the common chunk (one choice, one piece of content) costs one `loads`, a few
look-ups and an append. Everything else about an attempt that is pure logic is here too: holding role-only deltas
back until there is something to say, joining a recovered text to the delivered one, hiding the usage chunk.
"""

from typing import NamedTuple, Protocol

import orjson

from server.core.chunks import Chunk, has_substance, well_formed
from server.core.classify import in_band
from server.core.errors import Kind, UpstreamError
from server.core.records import DONE_DATA
from server.core.sse import Decoder, Event, EventTooLargeError
from server.core.transcript import Transcript

MAX_HELD = 256  # frames that are kept while an attempt has not said anything


class Piece(NamedTuple):
    """One chunk to deliver: its bytes as they go out, and the same, parsed."""

    data: bytes
    chunk: Chunk


class Seam(Protocol):
    """Joins the chunks of a later attempt to what was delivered."""

    def join(self, chunk: Chunk) -> list[Chunk]:
        """Return what of this chunk is new. Raises UpstreamError (diverged) where the texts do not join."""


class Intake:
    """Decodes, checks and counts the frames of one attempt.

    `show_usage`: the client asked for the extra usage chunk. `seam`: set in a recovery.
    """

    def __init__(self, transcript: Transcript, *, show_usage: bool, seam: Seam | None = None) -> None:
        self._transcript = transcript
        self._show_usage = show_usage
        self._seam = seam
        self._decoder = Decoder()
        self._held: list[Piece] = []
        self.swallowed = False  # the last feed brought tokens that the client has already
        self.done = False  # saw [DONE]: nothing after it counts
        self.spoke = False  # this attempt has sent a token (delivered or swallowed by the seam)
        self.failure: UpstreamError | None = None  # found in the frames; what came before it is still returned

    def feed(self, data: bytes) -> list[Piece]:
        """Return what `data` completes, in order. A bad frame sets `failure` and ends the reading."""
        pieces: list[Piece] = []
        self.swallowed = False
        if self.done or self.failure is not None:
            return pieces
        try:
            for event in self._decoder.feed(data):
                if event.data == DONE_DATA:
                    self.done = True
                    break
                self._take(event, pieces)
        except EventTooLargeError as error:
            self.failure = UpstreamError(Kind.GARBAGE, f"The upstream sent garbage: {error}.")
        except UpstreamError as error:
            self.failure = error
        return pieces

    def _take(self, event: Event, pieces: list[Piece]) -> None:
        try:
            chunk = orjson.loads(event.data)
        except orjson.JSONDecodeError as error:
            raise UpstreamError(Kind.GARBAGE, "The upstream sent a frame that is not JSON.") from error
        if not well_formed(chunk):
            raise UpstreamError(Kind.GARBAGE, "The upstream sent a frame that is not a chat completion chunk.")
        if chunk.get("error") or event.type == b"error":
            raise in_band(chunk)
        choices = chunk.get("choices")
        if not choices:
            self._take_choiceless(Piece(event.data, chunk), pieces)
        elif self.spoke and self._seam is None:
            self._transcript.observe(chunk)
            pieces.append(Piece(event.data, chunk))
        else:
            self._take_guarded(Piece(event.data, chunk), pieces)

    def _take_choiceless(self, piece: Piece, pieces: list[Piece]) -> None:
        """Handle the usage chunk, and chunks such as Azure's prompt filter results."""
        if usage := piece.chunk.get("usage"):
            self._transcript.observe_usage(usage)
            if not self._show_usage:
                return
            self._transcript.usage_shown = self._seam is None
        if self._seam is None:  # after a recovery the relay sends one usage chunk itself, merged over the attempts
            self._hold_or_take(piece, pieces)

    def _hold_or_take(self, piece: Piece, pieces: list[Piece]) -> None:
        (pieces if self.spoke else self._held).append(piece)
        if len(self._held) > MAX_HELD:
            raise UpstreamError(Kind.GARBAGE, f"The upstream sent {MAX_HELD} frames without a token.")

    def _take_guarded(self, piece: Piece, pieces: list[Piece]) -> None:
        """Handle a chunk before the attempt's first token, or one that has to be joined."""
        if not self.spoke:
            if not any(has_substance(choice) for choice in piece.chunk["choices"]):
                self._hold_or_take(piece, pieces)
                return
            self.spoke = True
            if self._seam is None:
                for held in (*self._held, piece):
                    self._transcript.observe(held.chunk)
                pieces += self._held
                pieces.append(piece)
                self._held = []
                return
        if self._seam is None:
            self._transcript.observe(piece.chunk)
            pieces.append(piece)
            return
        self.swallowed = True
        for chunk in self._seam.join(piece.chunk):
            joined = {**chunk, **self._transcript.first}
            self._transcript.observe(joined)
            pieces.append(Piece(orjson.dumps(joined), joined))

    def at_end(self) -> UpstreamError | None:
        """Return why the body must not end here, or None where everything that was asked for has come."""
        if self._transcript.finished:
            return None
        if self.spoke:
            return UpstreamError(Kind.TRUNCATED, "The upstream ended the stream without a finish reason.")
        return UpstreamError(Kind.GARBAGE, "The upstream ended the stream without a token.")
