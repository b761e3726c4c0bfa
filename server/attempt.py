"""One attempt: one request to one target, its body relayed frame by frame until the answer is whole or it fails."""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import aiohttp
import orjson

from server.core.classify import in_band
from server.core.errors import Kind, UpstreamError
from server.core.forms import Writer
from server.core.intake import Intake
from server.core.timing import Phases
from server.core.transcript import Transcript
from server.deadline import Deadline
from server.stream import Stream
from server.telemetry.metrics import Metrics
from server.upstreams.breaker import Permit
from server.upstreams.pool import Target
from server.upstreams.translate import FOREIGN, translate

AFTER_FINISH = 1.0  # seconds for usage and [DONE] after the finish reason
TIDY = 0.1  # seconds for the end of a finished body, so that its connection can be used again
JSON_BODY = 65_536  # bytes of a JSON answer to a streaming request that are looked at


@dataclass(slots=True)
class Attempt:
    """What one attempt needs. `spoke` is called at its first token, `complete` when the answer is whole.

    `permit` is the target's circuit's; whoever runs the attempt settles it.
    """

    target: Target
    body: bytes
    headers: Mapping[str, str]
    intake: Intake
    transcript: Transcript
    stream: Stream
    writer: Writer
    metrics: Metrics
    spoke: Callable[["Attempt"], Awaitable[None]]
    complete: Callable[[], Awaitable[None]]
    permit: Permit
    phases: Phases = field(default_factory=lambda: Phases(started=time.monotonic()))

    async def run(self) -> None:
        """Relay the whole answer and its ending.

        Raises:
            UpstreamError: it failed; what had come before is in the log.

        """
        now = time.monotonic
        whole = False
        try:
            async with Deadline() as deadline:
                deadline.set(self.phases.started + self.target.settings.ttft_timeout)
                response = await self.target.client.post(self._hand_over(), self.phases, self.headers)
                try:
                    self.phases.headers = now()
                    await self._pump(response, deadline)
                    whole = True
                    await self.complete()  # the client has its ending before the upstream's connection is tidied up
                    deadline.set(now() + TIDY)
                    await _read_to_end(response)
                finally:
                    response.release()
        except TimeoutError:
            if not whole:
                await self._timed_out()

    def _hand_over(self) -> bytes:
        """Return the request's body and let go of it: it is sent once, and a stream lives for minutes."""
        body, self.body = self.body, b""
        return body

    async def _timed_out(self) -> None:
        if self.transcript.finished:
            await self.complete()  # only usage or [DONE] was still missing
        elif self.intake.spoke:
            raise UpstreamError(Kind.IDLE_TIMEOUT, "The upstream stopped in the middle of the stream.") from None
        else:
            raise UpstreamError(Kind.TTFT_TIMEOUT, "The upstream sent no token in time.") from None

    async def _pump(self, response: aiohttp.ClientResponse, deadline: Deadline) -> None:
        """Read, check, log and show until the answer is whole: the way of every token."""
        if response.content_type == "application/json":
            raise await _json_instead(response)
        stream, intake, content = self.stream, self.intake, response.content
        while not intake.done:
            if stream.must_pause:
                await self._pause(deadline)
            data = await self._read(content)
            if not data:
                return
            pieces = intake.feed(data)
            if pieces or intake.swallowed:
                await self._heard(deadline)
            if pieces:
                self.metrics.delivered += len(pieces)
                await stream.append(self.writer.pieces(pieces))
            if intake.failure is not None:
                raise intake.failure
            del data, pieces  # a stream that waits, for its upstream or its reader, holds nothing of its last read
        if not intake.spoke:
            raise UpstreamError(Kind.GARBAGE, "The upstream said that it was done without a token.")

    async def _read(self, content: aiohttp.StreamReader) -> bytes:
        """Return what has come, or nothing at the end of a body that may end here. Raises UpstreamError."""
        try:
            data = await content.readany()
        except FOREIGN as error:
            if self.transcript.finished:
                return b""
            raise translate(error, in_body=True) from error
        if not data and (missing := self.intake.at_end()):
            raise missing
        return data

    async def _heard(self, deadline: Deadline) -> None:
        """Move the deadline and take the times of a read that brought tokens."""
        now = time.monotonic()
        phases = self.phases
        if phases.first_token is None:
            phases.first_token = now
            await self.spoke(self)
            deadline.set(now + self.target.settings.idle_timeout)
        else:
            self.metrics.gaps.observe(self.target.label, now - phases.last_token)
        phases.last_token = now
        if not self.transcript.finished:
            deadline.at = now + self.target.settings.idle_timeout
        elif not phases.finishing:
            phases.finishing = True
            deadline.set(now + AFTER_FINISH)

    async def _pause(self, deadline: Deadline) -> None:
        """Wait for the reader; it is not the upstream that is slow now, so no deadline of its runs."""
        deadline.set(None)
        await self.stream.room()
        limit = AFTER_FINISH if self.transcript.finished else self.target.settings.idle_timeout
        deadline.set(time.monotonic() + limit)


class WholeAttempt(Attempt):
    """One non-streaming request: its JSON is the one record. Only connect and total timeouts apply."""

    async def run(self) -> None:
        """Read the whole answer and end the stream with it. Raises UpstreamError."""
        response = await self.target.client.post(self._hand_over(), self.phases, self.headers)
        self.phases.headers = time.monotonic()
        data = bytearray()
        try:
            while part := await response.content.readany():
                data += part
                self.stream.bound(len(data))
        except FOREIGN as error:
            raise translate(error, in_body=True) from error
        finally:
            response.release()
        try:
            answer = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise UpstreamError(Kind.GARBAGE, "The upstream's answer is not JSON.") from error
        if not isinstance(answer, dict):
            raise UpstreamError(Kind.GARBAGE, "The upstream's answer is not a JSON object.")
        if answer.get("error"):
            raise in_band(answer)
        self.transcript.observe_whole(answer)
        await self.spoke(self)
        self.writer.whole = bytes(data)
        await self.complete()


async def _read_to_end(response: aiohttp.ClientResponse) -> None:
    try:
        while await response.content.readany():
            pass
    except FOREIGN:
        pass  # the answer is whole; the connection is closed instead of being kept


async def _json_instead(response: aiohttp.ClientResponse) -> UpstreamError:
    """Return the failure of an upstream that answers a streaming request with 200 and JSON."""
    try:
        body = orjson.loads(await response.content.read(JSON_BODY))
    except (*FOREIGN, orjson.JSONDecodeError):
        body = None
    if isinstance(body, dict) and body.get("error"):
        return in_band(body)
    return UpstreamError(Kind.GARBAGE, "The upstream answered a streaming request with JSON.")
