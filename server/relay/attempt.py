"""One attempt: one request to one target, its body relayed frame by frame until the answer is whole or it fails."""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import aiohttp
import orjson

from server.aio.deadline import Deadline
from server.core.dialect import Writer
from server.core.errors import Kind, UpstreamError
from server.core.openai.intake import Intake
from server.core.openai.transcript import Transcript
from server.core.recovery.classify import in_band
from server.core.timing import Phases
from server.relay.stream import Stream
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
                    if response.content_type == "application/json":
                        raise await _json_instead(response)
                    await self._pump(response, deadline)
                    if self.intake.failure is not None:
                        raise self.intake.failure
                    if not self.intake.spoke:
                        raise UpstreamError(Kind.GARBAGE, "The upstream said that it was done without a token.")
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
        stream, intake, phases, finish = self.stream, self.intake, self.phases, self.transcript.finish
        idle_timeout = self.target.settings.idle_timeout
        read, gap = response.content.readany, self.metrics.gaps.of(self.target.label).observe
        while not intake.over:
            if (stream.held or not stream.keeps_up) and stream.must_pause:
                await self._pause(deadline)
            try:
                data = await read()
            except FOREIGN as error:
                self._broke_off(error)
                return
            if not data:
                self._came_to_an_end()
                return
            pieces = intake.feed(data)
            if pieces or intake.swallowed:
                if phases.first_token is None:
                    await self._first_token(deadline)
                else:
                    at = time.monotonic()
                    gap(at - phases.last_token)
                    phases.last_token = at
                if finish:
                    self._finishing(deadline)
                else:
                    deadline.at = phases.last_token + idle_timeout
            if pieces:
                self.metrics.delivered += len(pieces)
                records = self.writer.pieces(pieces)
                if not stream.append_now(records):
                    await stream.append(records)
                del records
            del data, pieces  # a stream that waits, for its upstream or its reader, holds nothing of its last read

    def _broke_off(self, error: Exception) -> None:
        """Raise UpstreamError where a body broke off before everything that was asked for had come."""
        if not self.transcript.finished:
            raise translate(error, in_body=True) from error

    def _came_to_an_end(self) -> None:
        """Raise UpstreamError where a body ended before everything that was asked for had come."""
        if missing := self.intake.at_end():
            raise missing

    async def _first_token(self, deadline: Deadline) -> None:
        """Tell everyone who has waited for it; the upstream's next silence has another limit."""
        self.phases.first_token = self.phases.last_token = time.monotonic()
        await self.spoke(self)
        deadline.set(self.phases.last_token + self.target.settings.idle_timeout)

    def _finishing(self, deadline: Deadline) -> None:
        """Move the deadline after a read once there is a finish reason; after the last one only a moment is left."""
        phases = self.phases
        if not self.transcript.finished:
            deadline.at = phases.last_token + self.target.settings.idle_timeout
        elif not phases.finishing:
            phases.finishing = True
            deadline.set(phases.last_token + AFTER_FINISH)

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
        self.writer.whole_answer(bytes(data))
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
