"""The kinds of streams: how the client of each behaves from its request to the end."""

import asyncio
import random
from functools import partial
from time import monotonic
from typing import Any, Protocol

from lab.expected import Answer, Checked, answer
from lab.reader import SMALL_WINDOW, Connection, Gone, PacedConnection, request
from lab.script import CHAT, question

from .plan import Plan

PAUSE = (0.05, 1.0)  # seconds between a cut and the request to resume
CUTS = 3
STALL_AFTER = 20  # events


class Listener(Protocol):
    """Counts what arrives."""

    def arrived(self, size: int, events: int, ages: list[float], now: float) -> None:
        """Count bytes, events, and the ages of tokens in seconds."""


class Refused(Exception):
    """The gateway answered with another status than 200."""


class Counted(Checked):
    """A checked response whose bytes, events and ages are counted as they come."""

    def __init__(self, listener: Listener, *answer: Any, **options: Any) -> None:
        super().__init__(*answer, **options)
        self._arrived = listener.arrived

    def take(self, data: bytes, now: float) -> float:
        """Check what came, and count it."""
        rest = super().take(data, now)
        self._arrived(len(data), self.events, self.ages, now)
        return rest


class Streams:
    """Opens streams at one gateway. Idle connections are used again, as SDKs do."""

    def __init__(self, plan: Plan, port: int, listener: Listener) -> None:
        self._plan = plan
        self._port = port
        self._counted = partial(Counted, listener)
        self._idle: list[Connection] = []
        self.left: dict[str, float] = {}  # tag: when its client left (CLOCK_MONOTONIC)

    async def run(self, kind: str, number: int) -> tuple[Counted, int]:
        """Run one stream to its end; return the last response, and how often the stream was resumed.

        Raises:
            WrongError, Refused, Gone, OSError: it went wrong.

        """
        plan, tag = self._plan, f"{kind}:{number}" if kind in ("leaves", "cut", "fails") else ""
        more = ["X-On-Disconnect: continue"] if kind == "resumes" else []
        message = question(self._port, CHAT, plan.model(kind), tag, [*more, *self._key()])
        expected = answer(plan.model(kind))
        match kind:
            case "slow":
                slow = await PacedConnection(plan.slow_pace).open(self._port, window=SMALL_WINDOW)
                return await self._read(slow, message, self._counted(expected), keep=False), 0
            case "stalled":
                return await self._stalled(message, expected)
            case "resumes":
                cuts = sorted(random.sample(range(2, expected.last), min(CUTS, expected.last - 2)))
                return await self._resumed(message, expected, [*cuts, 0])
            case "leaves":
                part = self._counted(expected, until=expected.last // 2)
                await self._read(connection := await self._connection(), message, part)
                connection.close()
                self.left[tag] = monotonic()
                return part, 0
        return await self._read(await self._connection(), message, self._counted(expected)), 0

    async def _read(self, connection: Connection, message: bytes, response: Counted, *, keep: bool = True) -> Counted:
        """Read a response as far as its client wants. The connection is kept if it may, and if it can be used again."""
        try:
            await connection.exchange(message, response)
        except BaseException:
            connection.close()
            raise
        if not keep:
            connection.close()
        elif connection.usable:
            self._idle.append(connection)
        if response.status != 200:
            raise Refused(f"{response.status} {response.body[:200].decode(errors='replace')}")
        return response

    async def _stalled(self, message: bytes, expected: Answer) -> tuple[Counted, int]:
        connection = await Connection().open(self._port, window=SMALL_WINDOW)
        response = self._counted(expected, stall=(STALL_AFTER, self._plan.drain_timeout * 1.5))
        try:
            return await self._read(connection, message, response, keep=False), 0
        except Gone:
            if not response.stream_id:
                raise
            return await self._resumed(b"", expected, [0], response)

    async def _resumed(
        self, message: bytes, expected: Answer, cuts: list[int], last: Counted | None = None
    ) -> tuple[Counted, int]:
        """Resume the stream after each cut, and read to the next."""
        resumed = 0
        for until in cuts:
            if last is not None:
                fields = [f"Last-Event-ID: {last.seq}", *self._key()]
                message = request(f"127.0.0.1:{self._port}", f"/v1/streams/{last.stream_id}", fields=fields)
                resumed += 1
            connection = await self._connection()
            response = self._counted(expected, last.seq if last else 0, until=until)
            await self._read(connection, message, response)
            if not response.over:
                connection.close()
                await asyncio.sleep(random.uniform(*PAUSE))  # noqa: S311
            response.first_token_at = last.first_token_at if last else response.first_token_at
            last = response
            if last.whole:  # the rest came together with the event to cut after
                break
        assert last is not None
        return last, resumed

    def _key(self) -> list[str]:
        """Return the header of the plan's key, if it has one."""
        return [f"Authorization: Bearer {self._plan.key}"] if self._plan.key else []

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return await Connection().open(self._port)

    def close(self) -> None:
        """Close the idle connections."""
        for connection in self._idle:
            connection.close()
