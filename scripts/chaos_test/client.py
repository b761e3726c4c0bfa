"""A client that checks every id and all text of one stream.

It cuts its connection or stalls at random, and resumes with `Last-Event-ID` whenever it is cut.
"""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import orjson
from lab.reader import Connection, EventStream, WrongError, request

PATIENCE = 150.0  # seconds until a stream counts as unfinished
RETRY_AFTER = 0.2  # seconds before a client comes back
SILENCE = 30.0  # seconds without a byte, after which it comes back as well


@dataclass
class Verdict:
    """What became of one stream. `lost` to `unfinished` must be 0.

    `faults` counts what went wrong on the way, `records` the records that were shown. `words` says what is wrong.
    """

    model: str
    path: str = ""
    records: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    repeated: int = 0
    altered: int = 0
    truncated: int = 0
    unfinished: int = 0
    words: str = ""


class Client:
    """Reads one stream from its creation to its ending, and is the receiver of each of its connections.

    `text` is what it must be shown in all.
    """

    path = "/v1/chat/completions"

    def __init__(self, port: int, model: str, text: str, chance: random.Random) -> None:
        self.done = self.over = False
        self._port = port
        self._response = EventStream()
        self._text = text
        self._chance = chance
        self._stream_id = ""
        self._last = 0
        self._pieces: list[str] = []
        self._ended = False
        self._fault = self._next_fault()
        self.verdict = Verdict(model)

    def _next_fault(self) -> tuple[int, str]:
        """Choose after how many more records this client does something, and what: cut, stall or nothing."""
        return self._chance.randrange(1, 40), self._chance.choice(("cut", "stall", "nothing", "nothing"))

    async def run(self) -> Verdict:
        """Read until the stream has ended, or for `PATIENCE` seconds."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not self._ended:
                    try:
                        await self._connect()
                    except (OSError, WrongError):  # also a timeout; and half a head, if nginx is stopped
                        self.verdict.faults["came back"] += 1
                    await asyncio.sleep(RETRY_AFTER)
        except TimeoutError:
            self.verdict.unfinished = 1
            self.verdict.words = self.verdict.words or f"{self._stream_id} stood at {self._last}"
        text = "".join(self._pieces)
        self.verdict.records = self._last
        if not self.verdict.unfinished and text != self._text:
            self.verdict.truncated = int(self._text.startswith(text))
            self.verdict.altered = int(not self.verdict.truncated)
            at = next((n for n, (a, b) in enumerate(zip(text, self._text, strict=False)) if a != b), len(text))
            words = f"{self._stream_id} at character {at}: {text[at:][:60]!r} instead of {self._text[at:][:60]!r}"
            self.verdict.words = self.verdict.words or words
        return self.verdict

    async def _connect(self) -> None:
        self._response, self.done, self.over = EventStream(), False, False
        connection = await Connection().open(self._port)
        try:
            async with asyncio.timeout(SILENCE) as self._silence:
                await connection.exchange(self._again() if self._stream_id else self._post(), self)
        finally:
            connection.close()
        if self._response.status in (400, 404, 422):
            words = f"{self._response.status} {self._stream_id} at {self._last}: {self._response.body.decode()}"
            self.verdict.words = words
            self.verdict.unfinished = 1
            self._ended = True

    def _post(self) -> bytes:
        # If the answer to a POST is lost, the same request joins the stream that it created.
        return self._request(self.path, self._body(), f"Idempotency-Key: {self.verdict.model}")

    def _again(self) -> bytes:
        """Ask for what comes after the last record."""
        return self._request(f"/v1/streams/{self._stream_id}", None, f"Last-Event-ID: {self._last}")

    def _request(self, path: str, body: object = None, *fields: str) -> bytes:
        return request(f"127.0.0.1:{self._port}", path, body, fields)

    def _body(self) -> dict[str, Any]:
        return {"model": self.verdict.model, "stream": True, "messages": [{"role": "user", "content": "Say it."}]}

    def take(self, data: bytes, now: float) -> float:  # noqa: ARG002 - no time is measured
        """Take bytes; return how long to read nothing, as this client stalls at random. It cuts at random, too."""
        self._silence.reschedule(asyncio.get_running_loop().time() + SILENCE)
        for event in self._response.events(data):
            self._take(event.id, event.data)
            if self._ended:
                break
        if self._response.status == 200:
            self._stream_id = self._response.headers["x-stream-id"]
        self.over = self._response.over
        self.done = self._ended or self.over
        return 0.0 if self.done else self._misbehave()

    def place(self) -> str:
        """Return the last record."""
        return f"after {self._last}"

    def _take(self, identity: int | None, data: bytes) -> None:
        chunk: dict[str, Any] = {} if data == b"[DONE]" else orjson.loads(data)
        error = chunk.get("error") or {}
        if identity is None:
            self._told(error.get("code"))
            return
        self._count(identity)
        if error:
            self._failed(data)
        self._ended = bool(error) or not chunk
        for choice in chunk.get("choices") or ():
            self._pieces.append((choice.get("delta") or {}).get("content") or "")

    def _told(self, code: object) -> None:
        """Note an error that is not in the log: the stream goes on."""
        self.verdict.faults[f"told {code}"] += 1
        self.verdict.lost += code == "gap"

    def _failed(self, data: bytes) -> None:
        """Note an event that ends the stream before its text is whole."""
        self.verdict.words = self.verdict.words or f"{self._stream_id} ended: {data[:200]!r}"
        self.verdict.truncated = 1

    def _count(self, seq: int) -> None:
        """Note the number of a record: it must be the next one."""
        self.verdict.lost += max(0, seq - self._last - 1)
        self.verdict.repeated += seq <= self._last
        if seq != self._last + 1:
            self.verdict.words = self.verdict.words or f"{self._stream_id}: {seq} after {self._last}"
        self._last = max(seq, self._last)

    def _misbehave(self) -> float:
        after, what = self._fault
        if self._last < after:
            return 0.0
        more, following = self._next_fault()
        self._fault = (self._last + more, following)
        if what == "cut":
            self.verdict.faults["client cut"] += 1
            self.done = True
        elif what == "stall":
            self.verdict.faults["client stalled"] += 1
            return self._chance.uniform(0.5, 3.0)
        return 0.0
