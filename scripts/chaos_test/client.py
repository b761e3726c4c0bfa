"""A client that checks every id and every byte, is cut and stalls at random, and comes back by `Last-Event-ID`."""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from server.core.openai.sse import Decoder

PATIENCE = 150.0  # seconds until a stream counts as not finished
AGAIN = 0.2  # seconds before a client comes back
GONE_FOR_NOW = (aiohttp.ClientError, ConnectionError, TimeoutError, asyncio.IncompleteReadError)


@dataclass
class Verdict:
    """What became of one stream. The last five are what must be zero."""

    model: str
    records: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    repeated: int = 0
    altered: int = 0
    truncated: int = 0
    unfinished: int = 0
    words: str = ""


class Left(Exception):  # not an error: the client meant it
    """The client cut its connection on purpose."""


class Client:
    """One stream from its creation to its ending."""

    def __init__(self, session: aiohttp.ClientSession, root: str, model: str, text: str, chance: random.Random) -> None:
        self._session = session
        self._root = root
        self._text = text
        self._chance = chance
        self._stream_id = ""
        self._last = 0
        self._said: list[str] = []
        self._over = False
        self._plan = self._next_fault()
        self.verdict = Verdict(model)

    def _next_fault(self) -> tuple[int, str]:
        """Choose what this client does after how many more records: cut, stall, or nothing."""
        return self._chance.randrange(1, 40), self._chance.choice(("cut", "stall", "nothing", "nothing"))

    async def run(self) -> Verdict:
        """Read until the stream is whole, or patience is at its end."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not self._over:
                    try:
                        await self._connect()
                    except (Left, *GONE_FOR_NOW) as error:
                        self.verdict.faults["came back"] += not isinstance(error, Left)
                    await asyncio.sleep(AGAIN)
        except TimeoutError:
            self.verdict.unfinished = 1
            self.verdict.words = self.verdict.words or f"{self._stream_id} stood at {self._last}"
        said = "".join(self._said)
        self.verdict.records = self._last
        if not self.verdict.unfinished and said != self._text:
            self.verdict.truncated = int(self._text.startswith(said))
            self.verdict.altered = int(not self.verdict.truncated)
            at = next((n for n, (a, b) in enumerate(zip(said, self._text, strict=False)) if a != b), len(said))
            words = f"{self._stream_id} at character {at}: {said[at:][:60]!r} instead of {self._text[at:][:60]!r}"
            self.verdict.words = self.verdict.words or words
        return self.verdict

    async def _connect(self) -> None:
        if self._stream_id:
            url = f"{self._root}/v1/streams/{self._stream_id}"
            request = self._session.get(url, headers={"Last-Event-ID": str(self._last)})
        else:
            body = {"model": self.verdict.model, "stream": True, "messages": [{"role": "user", "content": "Say it."}]}
            # A creation whose answer was lost is asked for again, and joins the stream that it began.
            headers = {"Idempotency-Key": self.verdict.model}
            request = self._session.post(f"{self._root}/v1/chat/completions", json=body, headers=headers)
        async with request as response:
            if response.status == 200:
                self._stream_id = response.headers["X-Stream-Id"]
                await self._read(response)
            elif response.status in (400, 404, 422):
                self.verdict.words = f"{response.status} {self._stream_id} at {self._last}: {await response.text()}"
                self.verdict.unfinished = 1
                self._over = True

    async def _read(self, response: aiohttp.ClientResponse) -> None:
        decoder = Decoder()
        async for data in response.content.iter_any():
            for event in decoder.feed(data):
                self._take(event.id, event.data)
                if self._over:
                    return
            await self._misbehave(response, len(data))

    def _take(self, identity: bytes | None, data: bytes) -> None:
        error: dict[str, Any] = {}
        if data != b"[DONE]":
            chunk = orjson.loads(data)
            error = chunk.get("error") or {}
        if identity is None:  # told to come back: the ending is not in the log
            self.verdict.faults[f"told {error.get('code')}"] += 1
            self.verdict.lost += error.get("code") == "gap"
            return
        seq = int(identity)
        self.verdict.lost += max(0, seq - self._last - 1)
        self.verdict.repeated += seq <= self._last
        if seq != self._last + 1:
            self.verdict.words = self.verdict.words or f"{self._stream_id}: {seq} after {self._last}"
        self._last = max(seq, self._last)
        if error or data == b"[DONE]":
            self._over = True
            self.verdict.words = self.verdict.words or (f"{self._stream_id} ended: {error}" if error else "")
            self.verdict.truncated += bool(error)
            return
        for choice in chunk.get("choices") or ():
            self._said.append((choice.get("delta") or {}).get("content") or "")

    async def _misbehave(self, response: aiohttp.ClientResponse, size: int) -> None:  # noqa: ARG002
        after, what = self._plan
        if self._last < after:
            return
        more, following = self._next_fault()
        self._plan = (self._last + more, following)
        if what == "cut":
            self.verdict.faults["client cut"] += 1
            response.close()
            raise Left
        if what == "stall":
            self.verdict.faults["client stalled"] += 1
            await asyncio.sleep(self._chance.uniform(0.5, 3.0))
