"""Plays one script to one request: the order of the events, the pauses and the faults."""

import asyncio
import itertools
import math
import time
from http import HTTPStatus
from typing import Any

from orjson import dumps

from scripted.completion import Completion
from scripted.connection import Connection
from scripted.request import Request
from scripted.script import Script
from scripted.seen import Seen
from scripted.wire import Wire

EVENTS = "text/event-stream; charset=utf-8"
JSON = "application/json"
# Seconds. The loop's timers take no infinity.
LONG = 3600.0


class Stop(Exception):  # no error, but a way to end
    """The stream ends here with a proper end of its body."""


class Cut(Exception):
    """The connection ends here with a FIN or a RST."""

    def __init__(self, *, reset: bool) -> None:
        self.reset = reset


def answer_head(status: int, content_type: str, *fields: str) -> bytes:
    """Build a status line and headers. Each field is a whole line."""
    lines = [f"HTTP/1.1 {status} {phrase(status)}", f"Content-Type: {content_type}", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def answer(connection: Connection, status: int, body: bytes, content_type: str = JSON, *fields: str) -> None:
    """Send a whole response of known length."""
    connection.write(answer_head(status, content_type, f"Content-Length: {len(body)}", *fields) + body)


def phrase(status: int) -> str:
    """Give the reason phrase of a status, also of one that nobody registered."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Scripted"


def problem(message: str, *, kind: str = "invalid_request_error", code: str | None = None) -> dict[str, Any]:
    """Build an error object as OpenAI sends them."""
    return {"message": message, "type": kind, "param": None, "code": code}


def error_body(error: object) -> bytes:
    """Put the JSON around an error object, unless it is there already."""
    return dumps(error if isinstance(error, dict) and "error" in error else {"error": error})


class Player:
    """One answer under way."""

    def __init__(
        self,
        connection: Connection,
        request: Request,
        parameters: dict[str, Any],
        script: Script,
        seen: Seen,
        gate: asyncio.Semaphore,
    ) -> None:
        self._connection = connection
        self._request = request
        self._parameters = parameters
        self._script = script
        self._seen = seen
        self._gate = gate
        self._completion = Completion(script, parameters, seen.number)
        self._next_comment = math.inf

    async def play(self) -> None:
        """Play the script to its end. A client that leaves cancels this."""
        script = self._script
        await asyncio.sleep(script.headers_after)
        if script.never_answer:
            await asyncio.Event().wait()
        try:
            if script.reset_before_head:
                raise Cut(reset=True)  # every cut is made below
            if (refusal := self._refusal()) is not None:
                await self._plain(*refusal)
            elif not self._parameters.get("stream") or script.json_body is not None:
                await self._json()
            else:
                await self._stream()
        except Cut as cut:
            if cut.reset:
                await self._connection.reset()
            else:
                self._connection.end()
        self._seen.finished = True

    # Answers that are not streams.

    def _refusal(self) -> tuple[int, Any] | None:
        """Give the status and the error object if the whole answer is an error."""
        script = self._script
        if script.require_key and self._request.headers.get("authorization") != f"Bearer {script.require_key}":
            return 401, problem("Incorrect API key provided.", code="invalid_api_key")
        if script.reject_prefill and self._completion.prefill is not None:
            return 400, problem("This model does not support assistant message prefill.")
        if script.status == 200:
            return None
        return script.status, script.error or problem(f"Scripted {script.status}.", kind="scripted_error")

    async def _plain(self, status: int, error: Any) -> None:
        if isinstance(error, str):
            await self._whole(status, error.encode(), "text/html")
        else:
            await self._whole(status, error_body(error))

    async def _json(self) -> None:
        """Send the whole completion after the time that its stream would have taken."""
        script = self._script
        content = script.json_body
        body = self._completion.whole() if content is None or content is True else dumps(content)
        if script.json_body is None:
            await asyncio.sleep(script.ttft + (self._completion.tokens / script.rate if script.rate else 0))
            self._seen.content_chunks = self._completion.tokens
        await self._whole(200, body)

    async def _whole(self, status: int, body: bytes, content_type: str = JSON) -> None:
        """Send a response of known length. The faults of a stream come in the middle of its body."""
        script = self._script
        broken = script.cut_after, script.reset_after, script.stall_after
        whole = all(at is None for at in broken)
        head = answer_head(status, content_type, f"Content-Length: {len(body)}", *self._fields())
        self._seen.status = status
        self._connection.write(head + (body if whole else body[: len(body) // 2]))
        await self._connection.drain()
        if script.stall_after is not None:
            await asyncio.sleep(LONG if script.stall_for is None else script.stall_for)
            self._connection.write(body[len(body) // 2 :])
        elif not whole:
            raise Cut(reset=script.cut_after is None)

    def _fields(self) -> list[str]:
        return [f"{name}: {value}" for name, value in (self._script.headers or {}).items()]

    # Streams.

    async def _stream(self) -> None:
        script, completion = self._script, self._completion
        wire = self._wire = self._open()
        if script.comments:
            self._next_comment = time.monotonic() + script.comments
        try:
            if 0 not in (script.error_at, script.garbage_at):  # these must be the first event
                for event in completion.opening():
                    wire.send(event)
            await self._content()
            for event in completion.closing():
                wire.send(event)
        except Stop:
            pass
        await wire.flush()
        if script.after_finish == "hang":
            self._seen.finished = True
            await self._pause(math.inf)
        await wire.finish()

    def _open(self) -> Wire:
        """Send the head, which says how the body ends."""
        script, request = self._script, self._request
        gzipped = script.gzip_if_accepted and "gzip" in request.headers.get("accept-encoding", "")
        chunked = request.version == "HTTP/1.1" and not script.http10 and script.content_length is None
        fields = ["Cache-Control: no-cache", *self._fields()]
        if gzipped:
            fields.append("Content-Encoding: gzip")
        if chunked:
            fields.append("Transfer-Encoding: chunked")
        if script.content_length is not None:
            fields.append(f"Content-Length: {self._lie()}")
        if not request.keep_alive or not (chunked or script.content_length):  # a wrong length is not announced
            fields.append("Connection: close")
        head = answer_head(200, EVENTS, *fields)
        self._seen.status = 200
        wire = Wire(self._connection, script, chunked=chunked, gzipped=gzipped)
        wire.head(head.replace(b"HTTP/1.1", b"HTTP/1.0", 1) if script.http10 else head)
        return wire

    def _lie(self) -> int:
        """Give a Content-Length that is wrong by half the body."""
        draft = Completion(self._script, self._parameters, self._seen.number)
        length = sum(map(len, itertools.chain(draft.opening(), draft.content(), draft.closing())))
        return length // 2 if self._script.content_length == "lie_short" else length + length // 2

    async def _content(self) -> None:
        """Send the content chunks, each at its time, with the pauses and faults between them."""
        script, seen, wire = self._script, self._seen, self._wire
        marks, rate = script.marks, script.rate
        count = 0
        if script.ttft:
            await self._pause(script.ttft)
        self._origin = time.monotonic()
        for event in self._completion.content():
            bad_header = False
            if count in marks:
                await self._mark(count, event)
                bad_header = count == script.bad_chunk_header_at
            if rate:
                await self._pause(self._origin + count / rate - time.monotonic())
            wire.send(event, bad_header=bad_header)
            if not count:
                seen.first_token_at = time.monotonic()
            count += 1
            seen.content_chunks = count
            if wire.full:
                await wire.flush()
        if count in marks:
            await self._mark(count, b"")

    async def _mark(self, count: int, event: bytes) -> None:
        """Do what the script says for this number of chunks: gate, stall, garbage, error, and the ways to end."""
        script, wire = self._script, self._wire
        if count in script.gates:
            await wire.flush()
            self._seen.at_gate = True
            await self._gate.acquire()
            self._seen.at_gate = False
            self._origin = time.monotonic() - (count / script.rate if script.rate else 0)
        if count == script.stall_after:
            stall = math.inf if script.stall_for is None else script.stall_for
            await self._pause(stall)
            self._origin += stall
        if count == script.garbage_at:
            wire.send(self._completion.event('{"choices": [{"delta": {"content": not json'))
        if count == script.error_at:
            error = script.error or problem("Scripted error.", kind="server_error", code="scripted")
            wire.send(self._completion.event(error_body(error).decode()))
            raise Stop
        if count == script.eof_after:
            raise Stop
        if count == script.reset_in_utf8_at:
            wire.send(event[: inside_character(event)])
        if count in (script.cut_after, script.reset_after, script.reset_in_utf8_at):
            await wire.flush()
            raise Cut(reset=count != script.cut_after)

    async def _pause(self, seconds: float) -> None:
        """Send what waits, then wait, and send the comments that are due meanwhile."""
        await self._wire.flush()
        until = time.monotonic() + seconds
        while (left := until - (now := time.monotonic())) > 0:
            if self._next_comment <= now:
                self._next_comment += self._script.comments
                self._wire.send(self._completion.comment())
                await self._wire.flush()
            else:
                await asyncio.sleep(min(left, self._next_comment - now, LONG))


def inside_character(event: bytes) -> int:
    """Find an offset between two bytes of one character, or the middle if all characters are ASCII."""
    continuation = (i for i, byte in enumerate(event) if byte & 0xC0 == 0x80)
    return next(continuation, len(event) // 2)
