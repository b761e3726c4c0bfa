"""What a client sent to a plain path, as it goes to one target after the other: JSON, or an upload that passes.

Nobody waits until an upload is whole. It is read while it is sent, as far as its `model`, which says where to.
"""

import asyncio
import dataclasses
import itertools
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from aiohttp import web

from server.aio.cancelling import cancel
from server.api.plain.kept import Kept
from server.api.plain.multipart import FormScanner
from server.api.requests import BODY_TIMEOUT, too_large
from server.core.body import Body
from server.core.errors import Rejected

ENDS = 32_768  # bytes
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2
_numbers = itertools.count()


@dataclass(slots=True)
class Sent:
    """A body for one attempt: whole, or in pieces. `size` is in bytes, None if nobody knows it yet."""

    data: bytes | AsyncIterator[bytes]
    size: int | None


class Outgoing(Protocol):
    """A client's request."""

    content_type: str
    stream: bool  # the answer is to be streamed

    @property
    def model(self) -> object:
        """What it names as its model, which may be anything; None: nothing."""

    @property
    def fault(self) -> Rejected | None:
        """What is wrong with a body that was being sent."""

    @property
    def last(self) -> float:
        """When a piece of it was sent last (time.monotonic())."""

    @property
    def whole(self) -> bool:
        """Whether all of it has come."""

    @property
    def repeatable(self) -> bool:
        """Whether it can be sent once more, from its beginning."""

    @property
    def received(self) -> int:
        """Bytes that have come."""

    @property
    def mark(self) -> int:
        """Return a number that tells it from other requests, by which a circuit knows it again."""

    def body(self, model: str) -> Sent:
        """Return the body with the name that a target has for the model; "": it has none."""


class JsonBody:
    """A JSON object."""

    content_type = "application/json"
    fault = None
    whole = True
    repeatable = True

    def __init__(self, body: Body) -> None:
        self.model: object = body.get("model")
        self.stream = body.get("stream") is True
        self.last = time.monotonic()
        self._body = body

    @property
    def received(self) -> int:
        """Bytes of the body."""
        return len(self._body.data)

    @property
    def mark(self) -> int:
        """A number of the body: a large one is told from others by its length and its ends."""
        data = self._body.data
        return hash((len(data), data[:ENDS], data[-ENDS:]))

    def body(self, model: str) -> Sent:
        """Return the object with another model."""
        data = self._body.changed({"model": model}) if model else self._body.data
        return Sent(data, len(data))


class Upload:
    """A multipart body. `begin` reads it to its model, and an attempt reads on."""

    stream = False  # fields other than the model are not read

    def __init__(self, request: web.Request, boundary: str, kept: Kept, max_bytes: int) -> None:
        quoted = boundary if TOKEN.fullmatch(boundary) else f'"{boundary}"'
        self.content_type = f"multipart/form-data; boundary={quoted}"
        self.fault: Rejected | None = None
        self.whole = False
        self.last = time.monotonic()
        self._request = request
        self._scanner = FormScanner(boundary)
        self._kept = kept
        self._max_bytes = max_bytes
        self.received = 0
        self._passed = 0  # bytes that may be sent, kept or not
        self._piece = b""  # the last of them
        self._pulling: asyncio.Task[None] | None = None
        self._raised: Rejected | None = None
        self._number = next(_numbers)

    @property
    def model(self) -> str | None:
        """The name that the client asks for, after `begin`."""
        return self._scanner.model

    @property
    def repeatable(self) -> bool:
        """Whether all that was sent is still at hand."""
        return self._kept.whole

    @property
    def mark(self) -> int:
        """A number of this request alone: nobody knows whether another one has the same body."""
        return self._number

    async def begin(self) -> None:
        """Read to the model's name, or to the end of a body without one. Raises Rejected."""
        while self._scanner.model is None and not self.whole:
            await self._pull()
            self._check()
        self._kept.spill = False

    async def close(self) -> None:
        """Stop reading, and let what was raised know no frames: one of aiohttp's, which sent the body, knows it."""
        if self._raised is not None:
            self._raised.__traceback__ = None
        if self._pulling is not None:
            await cancel([self._pulling])

    def body(self, model: str) -> Sent:
        """Return the body with another name for its model."""
        at, name = self._scanner.model_at, model.encode()
        if at is None:
            at, name = 0, self._scanner.missing_model(model) if model else b""
        length = self._request.content_length
        if length is None or "Content-Encoding" in self._request.headers:
            return Sent(self._pieces(at, name), None)
        replaced = 0 if self._scanner.model is None else len(self._scanner.model.encode())
        return Sent(self._pieces(at, name), length - replaced + len(name))

    async def _pieces(self, insert_at: int, insertion: bytes) -> AsyncIterator[bytes]:
        """Yield the body, with `insertion` at its place."""
        at, inserted = 0, False
        while True:
            data = await self._read(at)
            if not inserted and (at + len(data) >= insert_at):
                cut = insert_at - at
                at, inserted, data = at + len(data), True, data[:cut] + insertion + data[cut:]
            else:
                at += len(data)
            if not data:
                return
            yield data
            self.last = time.monotonic()

    async def _read(self, at: int) -> bytes:
        """Return some bytes of the body without its model, from place `at` on; empty at its end. Raises Rejected."""
        while at >= self._passed and not self.whole:
            # An attempt may be cancelled while it waits, but what it waits for belongs to the next one as well.
            self._pulling = self._pulling or asyncio.create_task(self._pull(), name="read upload")
            await asyncio.wait([self._pulling])
            self._pulling = None
            self._check()
        last_at = self._passed - len(self._piece)
        if at >= last_at:
            return self._piece[at - last_at :]
        try:
            return await self._kept.get(at)
        except Rejected as fault:
            self.fault = dataclasses.replace(fault)
            raise

    def _check(self) -> None:
        """Raise Rejected if something is wrong with the body."""
        if self.fault is not None:
            self._raised = dataclasses.replace(self.fault)
            raise self._raised

    async def _pull(self) -> None:
        """Read what comes next from the client, or note what is wrong with it."""
        try:
            await self._next_piece()
        except Rejected as fault:
            self.fault = dataclasses.replace(fault)

    async def _next_piece(self) -> None:
        """Read what comes next from the client. Raises Rejected."""
        content, piece = self._request.content, b""
        while not piece and not self.whole:
            try:
                async with asyncio.timeout(BODY_TIMEOUT):
                    data = await content.readany()
            except TimeoutError:
                raise Rejected(408, "The body did not arrive in time.", "request_timeout") from None
            except (web.RequestPayloadError, ConnectionError) as error:  # the latter: the client has gone
                error.with_traceback(None)  # aiohttp keeps it in the body; its frames know the body and this upload
                raise Rejected(400, "The body could not be read.", "invalid_body") from None
            self.received += len(data)
            if self.received > self._max_bytes:
                raise too_large(self._max_bytes)
            piece = self._scanner.feed(data)
            if not data:
                self._scanner.end()
                self.whole = True
        if piece:
            await self._kept.put(piece)
            self._passed += len(piece)
            self._piece = piece
