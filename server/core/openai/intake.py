"""The body of one attempt, read frame by frame: bytes in, chunks to deliver out.

This is the path of every token. A plain token (one choice, one piece of content) costs one `loads`, a few look-ups and
an append. The rest of an attempt's pure logic is here too: hold role-only deltas back until the first token, join a
recovered text to the delivered one, hide the usage chunk.
"""

import dataclasses
from contextlib import suppress
from typing import Any, Protocol

import orjson

from server.core.errors import Kind, UpstreamError
from server.core.openai.chunks import DONE_DATA, Chunk, goes_on, index_of, says_anything
from server.core.openai.finish_reasons import check_failures
from server.core.openai.frames import chunk_of, value_of
from server.core.openai.sse import Decoder, Event, EventTooLargeError
from server.core.openai.stencil import Stencil
from server.core.openai.transcript import Transcript
from server.core.records import Tokens
from server.core.shape import has_more_values
from server.core.upstream_api import CHAT, Piece, Translator
from server.core.wide_json import dumps_like

MAX_HELD = 1024  # frames that are held before an attempt's first token
MAX_HELD_BYTES = 1024 * 1024  # of those frames together
STEP = 16_384  # bytes of small frames that are parsed in one turn of the event loop
MANY_LINES = 64  # in a read that is larger than that
MAX_VALUES = 50_000  # of a chunk: 300 tokens with 20 log probabilities each, or 8,000 calls, which fail as such
MAX_ANSWER_VALUES = 200_000  # of an event that may have a whole answer
PARSED_ALONE = 8  # frames of an attempt that are parsed one by one, although more have come, to learn the pattern
WORTH_A_RUN = 4  # plain tokens: after fewer, all that a read brought is parsed at once


# NamedTuple's own constructor is a Python function. This one saves that call per token.
_piece = tuple.__new__


class Seam(Protocol):
    """Joins the chunks of a later attempt to the delivered text."""

    def join(self, chunk: Chunk) -> list[Chunk]:
        """Return the new part of this chunk, as chunks. Raises UpstreamError (diverged) if the texts do not join."""

    def end(self) -> list[Chunk]:
        """Return what is still held back at `[DONE]`. Raises UpstreamError if the text ended too early."""


class Intake:
    """Decodes, checks and counts the frames of one attempt.

    `show_usage`: the client asked for the extra usage chunk. `seam` is set if the answer joins delivered text.
    `parsed`: the dialect needs every piece parsed. `translator` reads the events; None: they are chunks.
    """

    __slots__ = (
        "_decoder",
        "_held",
        "_held_bytes",
        "_parsed_alone",
        "_plain",
        "_seam",
        "_show_usage",
        "_stencil",
        "_translator",
        "at_seam",
        "done",
        "failure",
        "goes_on",
        "has_token",
        "over",
        "transcript",
        "unparsed",
    )

    def __init__(
        self,
        transcript: Transcript,
        *,
        show_usage: bool,
        seam: Seam | None = None,
        parsed: bool = True,
        translator: Translator | None = None,
    ) -> None:
        self.transcript = transcript
        self._show_usage = show_usage
        self._seam = seam
        self._decoder = Decoder()
        self._stencil = None if parsed else Stencil()
        self._translator = translator
        self._plain = False  # chunks go out as they are: the first token is there, no seam, no translation
        self._parsed_alone = PARSED_ALONE
        self._held: list[Piece] = []
        self._held_bytes = 0
        self.at_seam = False  # the last feed went through the seam: it may hold only what the client has
        self.goes_on = False  # the last feed brought more of the answer, and not only what keeps a connection alive
        self.done = False  # the answer is whole
        self.unparsed = b""  # of a read, behind what was parsed of it in one turn of the event loop
        self.over = False  # the answer is whole or the attempt has failed: nothing that follows counts
        self.has_token = False  # this attempt has sent a token (delivered, or dropped by the seam)
        self.failure: UpstreamError | None = None  # seen in the frames; the pieces before it are still returned

    @property
    def running(self) -> str:
        """The upstream's id of this answer, if it goes on with it without a connection; empty if not."""
        return "" if self._translator is None else self._translator.running

    def rest(self) -> str:
        """Return the path that gives the rest of an answer that broke off, which is fed next; empty if none does."""
        path = "" if self._translator is None else self._translator.rest()
        if path:
            self._decoder = Decoder()
            self.done = self.over = False
            self.failure = None
        return path

    def tokens(self, data: bytes, kind: str) -> Tokens | None:
        """Return the records of `data` if it holds whole frames, and all are plain tokens; count them. Else None.

        In that case `feed` has to take the same data. `kind` is that of the records.
        """
        stencil = self._stencil
        if stencil is None or not self._plain or not self._decoder.at_rest or not (texts := stencil.match(data)):
            return None
        self.transcript.tokens += len(texts)
        return Tokens(kind, stencil.before, texts, stencil.after)

    def feed(self, data: bytes) -> list[Piece]:
        """Return the pieces that `data` completes, in order. A bad frame sets `failure` and ends the reading.

        A read may bring thousands of small frames. So a part of it may be left, which `take_unparsed` gives.
        """
        self.at_seam = self.goes_on = False
        if self._plain and self._decoder.at_rest and (pieces := self._alone(data)):
            return pieces
        pieces = []
        if self.over:
            return pieces
        try:
            while data and not self.over:
                part, data = self._take_run(data, pieces)
                if len(part) > STEP and part.count(b"\n") + part.count(b"\r") > MANY_LINES:
                    self.unparsed, part, data = part[STEP:] + data, part[:STEP], b""
                self._parse(part, pieces)
        except EventTooLargeError as error:
            self._fail(UpstreamError(Kind.UNUSABLE, f"The upstream's answer cannot be used: {error}."))
        except UpstreamError as error:
            self._fail(error)
        return pieces

    def take_unparsed(self) -> bytes:
        """Return what is to be fed next, before anything else and in another turn of the event loop."""
        unparsed, self.unparsed = self.unparsed, b""
        return unparsed

    def _take_run(self, data: bytes, pieces: list[Piece]) -> tuple[bytes, bytes]:
        """Take the plain tokens that `data` begins with. Return what is to be parsed next, and what comes after that.

        A frame that interrupts such a run is parsed alone, and so are the first frames, until the pattern is known.
        """
        stencil = self._stencil
        if stencil is None:
            return data, b""
        texts, size = stencil.leading(data) if self._plain and self._decoder.at_rest else ([], 0)
        if texts:
            self.transcript.tokens += len(texts)
            self.goes_on = True
            before, after = stencil.before, stencil.after
            pieces += [_piece(Piece, (b"%b%b%b" % (before, text, after), {}, CHAT)) for text in texts]
            data = data[size:]
            if len(texts) < WORTH_A_RUN:
                return data, b""
        elif stencil.before or not self._parsed_alone:
            return data, b""
        else:
            self._parsed_alone -= 1
        end = data.find(b"\n\n") + 2
        return (data[:end], data[end:]) if end > 1 else (data, b"")

    def _parse(self, data: bytes, pieces: list[Piece]) -> None:
        most = MAX_VALUES if self._translator is None else MAX_ANSWER_VALUES
        for event in self._decoder.feed(data):
            if has_more_values(event.data, most):
                raise UpstreamError(Kind.UNUSABLE, f"The upstream sent a frame with more than {most} values.")
            if self._plain and not event.type and self._stencil is not None and self._stencil.fits(event.data):
                self.transcript.tokens += 1
                self.goes_on = True
                pieces.append(_piece(Piece, (event.data, {}, CHAT)))
                continue
            if self._translator is None:
                self._read(event, pieces)
            else:
                self._translate(self._translator, event, pieces)
            if self.over:
                return

    def _alone(self, data: bytes) -> list[Piece]:
        """Return the piece of a read that is one plain token. For any other read return nothing, and change nothing."""
        pieces: list[Piece] = []
        if lone := self._decoder.lone(data):
            with suppress(orjson.JSONDecodeError):  # [DONE], or garbage
                self._token(lone, orjson.loads(lone), pieces)
        return pieces

    def _token(self, data: bytes, chunk: Any, pieces: list[Piece]) -> bool:
        """Take a frame if it is a plain token. Return False if it is not."""
        if not self.transcript.observe_token(chunk):
            return False
        if self._stencil is not None:
            self._stencil.learn(data)
        self.goes_on = True
        pieces.append(_piece(Piece, (data, chunk, CHAT)))
        return True

    def _read(self, event: Event, pieces: list[Piece]) -> None:
        if event.data.startswith(DONE_DATA):
            self._end(pieces)
            return
        value = value_of(event)
        if not self._plain or event.type or not self._token(event.data, value, pieces):
            chunk = chunk_of(event, value)
            if chunk is not None:
                self._take(Piece(event.data, chunk), pieces)

    def _translate(self, translator: Translator, event: Event, pieces: list[Piece]) -> None:
        for piece in translator.read(event):
            self._take(piece, pieces)
        if translator.done:
            self._end(pieces)

    def _take(self, piece: Piece, pieces: list[Piece]) -> None:
        """Handle any other chunk: without choices, before the first token, more than a text, or in a recovery."""
        chunk = piece.chunk
        if usage := chunk.get("usage"):
            self.transcript.observe_usage(usage)
        choices = chunk.get("choices")
        if not isinstance(choices, list):
            return  # an object of another kind, of which only the usage counts
        if not choices:
            # The usage chunk, or for example Azure's prompt filter results. After a recovery the relay itself sends
            # one usage chunk, merged over the attempts.
            if self._seam is None and (self._show_usage or not usage):
                self._say_or_hold(piece, pieces)
            return
        check_failures(choices)
        self.goes_on = self.goes_on or any(map(self._brings_more, choices))
        if not self.has_token and any(says_anything(choice) for choice in choices):
            self.has_token = True
            if self._seam is None:
                self._plain = self._translator is None
                for held in self._held:
                    self._deliver(held, pieces)
            self._held = []
        if self._seam is None or not self.has_token:
            self._say_or_hold(piece, pieces)
        else:
            self.at_seam = True
            self._deliver_joined(self._seam.join(chunk), pieces, piece.data)

    def _brings_more(self, choice: Chunk) -> bool:
        """Whether a choice goes on, or ends: its finish reason counts once, however often it is sent."""
        return goes_on(choice) or bool(choice.get("finish_reason") and index_of(choice) not in self.transcript.finish)

    def _say_or_hold(self, piece: Piece, pieces: list[Piece]) -> None:
        if self.has_token:
            self._deliver(piece, pieces)
            return
        self._held.append(piece)
        self._held_bytes += len(piece.data)
        if len(self._held) > MAX_HELD or self._held_bytes > MAX_HELD_BYTES:
            raise UpstreamError(Kind.UNUSABLE, f"The upstream sent {len(self._held)} frames without a token.")

    def _deliver(self, piece: Piece, pieces: list[Piece]) -> None:
        self.transcript.observe(piece.chunk)
        pieces.append(piece)

    def _deliver_joined(self, chunks: list[Chunk], pieces: list[Piece], source: bytes = b"") -> None:
        """Deliver chunks that the seam has made, those of one frame from its data `source`."""
        for chunk in chunks:
            merged = {**chunk, **self.transcript.first}
            if merged.get("usage"):
                merged["usage"] = None  # it counts this attempt alone; the client gets a merged count
            self._deliver(Piece(dumps_like(merged, source), merged), pieces)

    def _end(self, pieces: list[Piece]) -> None:
        """Take `[DONE]`. It replaces a finish reason that is missing, but not a token that is missing."""
        if not self.has_token:
            raise _silent()
        if self._seam is not None:
            self._deliver_joined(self._seam.end(), pieces)
        self.done = self.over = True
        self._plain = False

    def _fail(self, error: UpstreamError) -> None:
        self.over, self._plain = True, False
        if self.transcript.closing:
            self.done = True  # the whole answer has come: an error after it does no harm
        else:
            self.failure = dataclasses.replace(error)  # a copy: the error itself knows the frame of `feed`, and so this

    def at_end(self) -> UpstreamError | None:
        """Return why the body must not end here, or None if the whole answer has come."""
        if self.transcript.finished:
            return None
        if self.has_token:
            return UpstreamError(Kind.TRUNCATED, "The upstream ended the stream without a finish reason.")
        return _silent()


def _silent() -> UpstreamError:
    return UpstreamError(Kind.GARBAGE, "The upstream ended the stream without a token.")
