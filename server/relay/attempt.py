"""One attempt: one request to one target, relayed frame by frame until the answer is whole or it fails.

It has steps. `first` connects, sends and reads to the first token, and so does `resume`. `rest` relays to the end of
the answer. `tidy` reads the end of the body, so that the connection can be used again. `release` lets the connection
go, after any step.
"""

import asyncio
import dataclasses
import time
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any

import aiohttp

from server.aio.aiohttp_internals.pushing import push, read, read_on
from server.aio.aiohttp_internals.upstream import SinkError
from server.aio.deadline import Deadline
from server.core.dialect import Writer
from server.core.errors import Kind, UpstreamError
from server.core.openai.chunks import MAX_CHOICES
from server.core.openai.finish_reasons import check_failures
from server.core.openai.frames import is_error
from server.core.openai.intake import MAX_ANSWER_VALUES, STEP, Intake
from server.core.recovery.classify import in_band
from server.core.shape import Shape, most_values
from server.core.timing import Phases
from server.core.upstream_api import Piece
from server.core.wide_json import loads
from server.relay.pump import Pump
from server.relay.stream import Stream
from server.telemetry.metrics import Metrics
from server.telemetry.traces import AttemptSpan
from server.upstreams.breaker import Permit
from server.upstreams.pool import Target
from server.upstreams.translate import FOREIGN, translate

TIDY = 0.1  # seconds to wait for the end of a finished body
JSON_BODY = 65_536  # bytes that are read of a JSON answer to a streaming request
JSON_STARTS = (b"{", b"[")  # no line of SSE that means anything begins so
SPACE = b" \t\r\n\xef\xbb\xbf"  # before the first field, also a byte order mark


class Attempt:
    """One request to one target. `number` is the target's number in the turn.

    `permit` is the right to make the request, from the target's circuit. The caller settles it.
    """

    __slots__ = (
        "_metrics",
        "_pieces",
        "_response",
        "_stream",
        "_writer",
        "has_token",
        "idle_timeout",
        "intake",
        "number",
        "permit",
        "phases",
        "span",
        "target",
        "transcript",
        "ttft_timeout",
    )

    def __init__(
        self,
        number: int,
        target: Target,
        permit: Permit,
        intake: Intake,
        stream: Stream,
        writer: Writer,
        metrics: Metrics,
    ) -> None:
        self.number = number
        self.target = target
        self.permit = permit
        self.transcript = intake.transcript
        self.phases = Phases(started=time.monotonic())
        self.span: AttemptSpan | None = None
        self.has_token = False  # its first token is there
        self.ttft_timeout = target.ttft_timeout  # seconds from the sent request to the first token
        self.idle_timeout = target.idle_timeout  # seconds between two tokens
        self.intake = intake
        self._stream = stream
        self._writer = writer
        self._metrics = metrics
        self._response: aiohttp.ClientResponse | None = None
        self._pieces: Sequence[Piece] = ()  # of the read with the first token

    @property
    def running(self) -> str:
        """The upstream's id of the answer, if that goes on without a connection; empty if not."""
        return self.intake.running

    def be_patient(self) -> None:
        """Wait for each token as long as for a target that is the last one to ask."""
        last_resort = self.target.last_resort_timeout
        self.ttft_timeout = max(self.ttft_timeout, last_resort)
        self.idle_timeout = max(self.idle_timeout, last_resort)

    async def first(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Send the request and read to the first token. `rest` relays that token.

        Raises:
            UpstreamError: the attempt failed, or there was no token in time.

        """
        await self._first(self.target.client.post(body, self.phases, headers))

    async def resume(self, path: str, headers: Mapping[str, str]) -> None:
        """Ask for the rest of an answer that broke off, as `first` does for one. Raises UpstreamError."""
        await self._first(self.target.client.resume(path, self.phases, headers))

    async def _first(self, asking: Coroutine[Any, Any, aiohttp.ClientResponse]) -> None:
        try:
            with Deadline() as deadline:
                deadline.set(self.phases.started + self.ttft_timeout)
                response = self._response = await asking
                self.phases.headers = time.monotonic()
                await self._read_to_first_token(response, deadline)
        except TimeoutError:
            raise UpstreamError(Kind.TTFT_TIMEOUT, "The upstream sent no token in time.") from None

    async def _read_to_first_token(self, response: aiohttp.ClientResponse, deadline: Deadline) -> None:
        intake, begun = self.intake, False
        running = intake.running
        while not intake.over:
            if self._stream.must_pause:
                await self._pause(deadline)
            data = await self._more(response)
            if not data:
                break
            if not begun and (start := data.lstrip(SPACE)):
                # The `Content-Type` says little: some label their streams as JSON, and others their errors as streams.
                begun = True
                if start[:1] in JSON_STARTS:
                    raise await _json_instead(start, response)
            pieces = intake.feed(data)
            if intake.running != running:
                running = intake.running
                self._stream.asks(self.target.name, running)
            if pieces or intake.at_seam:
                self.phases.first_token = self.phases.last_token = time.monotonic()
                self._pieces = pieces
                return
        if intake.failure is not None:
            raise dataclasses.replace(intake.failure)  # what is kept is never raised: see `Tries.fail`
        raise UpstreamError(Kind.GARBAGE, "The upstream said that it was done without a token.")

    async def rest(self) -> None:
        """Relay from the first token to the end of the answer.

        Raises:
            UpstreamError: the attempt failed. The log has the records before that.
            StreamError: the log is full.
            StoreError: the log cannot be written.

        """
        assert self._response is not None
        try:
            with Deadline() as deadline:
                label, limit = self.target.label, self.idle_timeout
                pump = Pump(self._stream, self._writer, self.intake, deadline, self._metrics, label, limit)
                more = pump.relay(self._pieces)
                self._pieces = ()  # else a stream that waits would hold its first read in memory
                try:
                    await self._relay(self._response, pump, more=more)
                finally:
                    self.phases.last_token = pump.last
        except TimeoutError:
            if not self.transcript.finished:  # otherwise only usage or [DONE] is missing
                raise UpstreamError(Kind.IDLE_TIMEOUT, "The upstream stopped in the middle of the stream.") from None
            return
        if self.intake.failure is not None:
            raise dataclasses.replace(self.intake.failure)

    async def _relay(self, response: aiohttp.ClientResponse, pump: Pump, *, more: bool) -> None:
        """Let the pump take the body until the answer is whole. `more`: it may come at once.

        Raises the same errors as `rest`, but leaves a failure in the frames to it.
        """
        broken = None
        while not self.intake.over:
            if not more:
                await pump.catch_up()
            more = False
            try:
                if self.intake.over or not await push(response, pump):
                    break
            except SinkError as error:
                raise error.take() from None
            except FOREIGN as error:
                broken = error
                break
        await pump.catch_up()  # the end may have come with a read of which something is left
        if self.intake.over:
            return
        if broken is None:
            self._ended()
        else:
            self._broke_off(broken)

    async def _more(self, response: aiohttp.ClientResponse) -> bytes:
        """Return what the last read has left, in a turn of its own; else as `_read`."""
        if unparsed := self.intake.take_unparsed():
            await asyncio.sleep(0)
            return unparsed
        return await self._read(response)

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """Return the bytes that are there; empty at the end of a body that may end here. Raises UpstreamError."""
        try:
            data = await read(response.content)
        except FOREIGN as error:
            self._broke_off(error)
            return b""
        if not data:
            self._ended()
        return data

    def _broke_off(self, error: Exception) -> None:
        """Raise UpstreamError if the body broke off before the whole answer was there."""
        error.with_traceback(None)  # aiohttp keeps it in the body; its frames know the body and this attempt
        if not self.transcript.closing:
            raise translate(error, in_body=True) from error

    def _ended(self) -> None:
        """Raise UpstreamError if the body ended before the whole answer was there."""
        if error := self.intake.at_end():
            raise dataclasses.replace(error)  # a local variable of this frame, which it would know, is not raised

    async def _pause(self, deadline: Deadline) -> None:
        """Wait for the client. The upstream is not the slow one now, so its deadline does not run."""
        deadline.set(None)
        await self._stream.room()
        deadline.set(time.monotonic() + self.idle_timeout)

    async def tidy(self) -> None:
        """Read the end of a finished body, for a moment, so that its connection can be used again."""
        assert self._response is not None
        if self._response.content.is_eof():
            return  # nearly always: a deadline would cost a hundredth of a request
        read_on(self._response)
        with suppress(TimeoutError), Deadline() as deadline:
            deadline.set(time.monotonic() + TIDY)
            await _read_to_end(self._response)

    def release(self) -> None:
        """Let the connection go. At the end of its body it is kept; before that it is closed."""
        if self._response is not None:
            self._response.release()
            self._response = None


class WholeAttempt(Attempt):
    """One request that is not streamed. Its JSON is the only record. Only the connect and total timeouts apply."""

    __slots__ = ("_answer", "_chunk")

    async def first(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Send the request and read the whole answer. Raises UpstreamError, StreamError."""
        self._answer = bytearray()
        response = self._response = await self.target.client.post(body, self.phases, headers)
        self.phases.headers = time.monotonic()
        try:
            while part := await response.content.readany():
                self._answer += part
                self._stream.bound(len(self._answer))
        except FOREIGN as error:
            raise translate(error, in_body=True) from error.with_traceback(None)  # see `_broke_off`
        await _check_values(self._answer)
        try:
            answer = loads(self._answer)
        except ValueError as error:
            raise UpstreamError(Kind.GARBAGE, "The upstream's answer is not JSON.") from error
        if is_error(answer):
            raise in_band(answer)
        if not isinstance(answer, dict):
            raise UpstreamError(Kind.GARBAGE, "The upstream's answer is not a JSON object.")
        choices = answer.get("choices")
        if isinstance(choices, list) and len(choices) > MAX_CHOICES:
            raise UpstreamError(Kind.UNUSABLE, f"The upstream's answer has more than {MAX_CHOICES} choices.")
        self._chunk = self.target.api.whole(answer)
        check_failures(self._chunk.get("choices"))
        self.transcript.observe_whole(self._chunk)

    async def rest(self) -> None:
        """Give the answer to the writer, which logs it with the ending."""
        self._writer.whole_answer(Piece(bytes(self._answer), self._chunk, self.target.api.name))
        self._answer.clear()
        self._chunk = {}


async def _check_values(answer: bytearray) -> None:
    """Raise UpstreamError if a whole answer has too many values. Other streams have their turn between its pieces."""
    if most_values(answer) <= MAX_ANSWER_VALUES:
        return
    shape = Shape(MAX_ANSWER_VALUES)
    for at in range(0, len(answer), STEP):
        shape.feed(answer[at : at + STEP])
        if shape.too_many:
            raise UpstreamError(Kind.UNUSABLE, f"The upstream's answer has more than {MAX_ANSWER_VALUES} values.")
        await asyncio.sleep(0)


async def _read_to_end(response: aiohttp.ClientResponse) -> None:
    try:
        while await response.content.readany():
            pass
    except FOREIGN as error:
        error.with_traceback(None)  # the answer is whole, and the connection is not used again


async def _json_instead(start: bytes, response: aiohttp.ClientResponse) -> UpstreamError:
    """Return the error of an upstream that answered a streaming request with JSON, which begins with `start`."""
    body, value = bytearray(start), None
    try:
        while len(body) < JSON_BODY and (part := await response.content.readany()):
            body += part
        value = loads(body)
    except FOREIGN as error:  # it broke off, or is too long to be read
        error.with_traceback(None)  # see `Attempt._broke_off`
    if is_error(value):
        return in_band(value)
    return UpstreamError(Kind.GARBAGE, "The upstream answered a streaming request with JSON.")
