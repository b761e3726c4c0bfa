"""A client that checks every id and all text of one stream.

It cuts its connection or stalls at random, and resumes with `Last-Event-ID` whenever it is cut.
"""

import asyncio
import random
from collections import Counter
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from server.core.openai.sse import Decoder

PATIENCE = 150.0  # seconds until a stream counts as unfinished
RETRY_AFTER = 0.2  # seconds before a client comes back
CONNECTION_ERRORS = (aiohttp.ClientError, ConnectionError, TimeoutError, asyncio.IncompleteReadError)


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


class DeliberateCut(Exception):  # it is no error
    """The client cut its connection on purpose."""


class Client:
    """Reads one stream from its creation to its ending. `text` is what it must be shown in all."""

    path = "/v1/chat/completions"

    def __init__(self, session: aiohttp.ClientSession, root: str, model: str, text: str, chance: random.Random) -> None:
        self._session = session
        self._root = root
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
                    except (DeliberateCut, *CONNECTION_ERRORS) as error:
                        self.verdict.faults["came back"] += not isinstance(error, DeliberateCut)
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
        # If the answer to a POST is lost, the same request joins the stream that it created.
        headers = {"Idempotency-Key": self.verdict.model}
        post = self._session.post
        request = self._again() if self._stream_id else post(self._root + self.path, json=self._body(), headers=headers)
        async with request as response:
            if response.status == 200:
                self._stream_id = response.headers["X-Stream-Id"]
                await self._read(response)
            elif response.status in (400, 404, 422):
                self.verdict.words = f"{response.status} {self._stream_id} at {self._last}: {await response.text()}"
                self.verdict.unfinished = 1
                self._ended = True

    def _again(self) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Ask for what comes after the last record."""
        url = f"{self._root}/v1/streams/{self._stream_id}"
        return self._session.get(url, headers={"Last-Event-ID": str(self._last)})

    def _body(self) -> dict[str, Any]:
        return {"model": self.verdict.model, "stream": True, "messages": [{"role": "user", "content": "Say it."}]}

    async def _read(self, response: aiohttp.ClientResponse) -> None:
        decoder = Decoder()
        async for data in response.content.iter_any():
            for event in decoder.feed(data):
                self._take(event.id, event.data)
                if self._ended:
                    return
            await self._misbehave(response, len(data))

    def _take(self, identity: bytes | None, data: bytes) -> None:
        chunk: dict[str, Any] = {} if data == b"[DONE]" else orjson.loads(data)
        error = chunk.get("error") or {}
        if identity is None:
            self._told(error.get("code"))
            return
        self._count(int(identity))
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

    async def _misbehave(self, response: aiohttp.ClientResponse, size: int) -> None:  # noqa: ARG002
        after, what = self._fault
        if self._last < after:
            return
        more, following = self._next_fault()
        self._fault = (self._last + more, following)
        if what == "cut":
            self.verdict.faults["client cut"] += 1
            response.close()
            raise DeliberateCut
        if what == "stall":
            self.verdict.faults["client stalled"] += 1
            await asyncio.sleep(self._chance.uniform(0.5, 3.0))
