"""The kinds of streams: how the client of each behaves from its request to the end."""

import asyncio
import random
from time import monotonic

from benchmark.connection import request

from .connection import Connection, Gone, Listener
from .expected import answer
from .plan import Plan
from .response import Response

PAUSE = (0.05, 1.0)  # seconds between a cut and the request to resume
CUTS = 3
CHAT = "/v1/chat/completions"
STALL_AFTER = 20  # events


class Refused(Exception):
    """The gateway answered with another status than 200."""


class Streams:
    """Opens streams at one gateway. Idle connections are used again, as SDKs do."""

    def __init__(self, plan: Plan, port: int, listener: Listener) -> None:
        self._plan = plan
        self._port = port
        self._listener = listener
        self._idle: list[Connection] = []
        self.left: dict[str, float] = {}  # tag: when its client left (CLOCK_MONOTONIC)

    async def run(self, kind: str, number: int) -> tuple[Response, int]:
        """Run one stream to its end; return the last response, and how often the stream was resumed.

        Raises:
            WrongError, Refused, Gone, OSError: it went wrong.

        """
        plan, tag = self._plan, f"{kind}:{number}" if kind in ("leaves", "cut", "fails") else ""
        message = self._known(request(self._port, CHAT, plan.model(kind), tag))
        expected = answer(plan.model(kind))
        match kind:
            case "slow":
                return await self._once(message, kind, pace=plan.slow_pace), 0
            case "stalled":
                return await self._stalled(message)
            case "resumes":
                message = message.replace(b"\r\n\r\n", b"\r\nX-On-Disconnect: continue\r\n\r\n", 1)
                cuts = sorted(random.sample(range(2, expected.last), min(CUTS, expected.last - 2)))
                return await self._resumed(message, kind, [*cuts, 0])
            case "leaves":
                connection = await self._connection()
                response = await connection.exchange(message, expected, until=expected.last // 2)
                self._must_be(response)
                connection.close()
                self.left[tag] = monotonic()
                return response, 0
        return await self._once(message, kind), 0

    async def _once(self, message: bytes, kind: str, *, pace: float = 0.0) -> Response:
        connection = await (Connection.open(self._port, self._listener, small=True) if pace else self._connection())
        try:
            response = await connection.exchange(message, answer(self._plan.model(kind)), pace=pace)
        except BaseException:
            connection.close()
            raise
        self._keep(connection)
        self._must_be(response)
        return response

    async def _stalled(self, message: bytes) -> tuple[Response, int]:
        connection = await Connection.open(self._port, self._listener, small=True)
        stall = (STALL_AFTER, self._plan.drain_timeout * 1.5)
        try:
            response = await connection.exchange(message, answer(self._plan.model("stalled")), stall=stall)
        except Gone as gone:
            if not gone.response.stream_id:
                raise
            return await self._resumed(b"", "stalled", [0], gone.response)
        finally:
            connection.close()
        self._must_be(response)
        return response, 0

    async def _resumed(
        self, message: bytes, kind: str, cuts: list[int], last: Response | None = None
    ) -> tuple[Response, int]:
        """Resume the stream after each cut, and read to the next."""
        expected, resumed = answer(self._plan.model(kind)), 0
        for until in cuts:
            connection = await self._connection()
            if last is not None:
                message, resumed = self._again(last), resumed + 1
            try:
                response = await connection.exchange(message, expected, after=last.seq if last else 0, until=until)
            except BaseException:
                connection.close()
                raise
            self._must_be(response)
            if response.over:
                self._keep(connection)
            else:
                connection.close()
                await asyncio.sleep(random.uniform(*PAUSE))  # noqa: S311
            response.first_token_at = last.first_token_at if last else response.first_token_at
            response.stream_id = response.stream_id or (last.stream_id if last else "")
            last = response
            if last.whole:  # the rest came together with the event to cut after
                break
        assert last is not None
        return last, resumed

    def _known(self, message: bytes) -> bytes:
        """Return a request with the plan's key, if it has one."""
        key = f"\r\nAuthorization: Bearer {self._plan.key}\r\n\r\n".encode()
        return message.replace(b"\r\n\r\n", key, 1) if self._plan.key else message

    def _again(self, last: Response) -> bytes:
        again = (
            f"GET /v1/streams/{last.stream_id} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n"
            f"Accept: text/event-stream\r\nLast-Event-ID: {last.seq}\r\n\r\n"
        )
        return self._known(again.encode())

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return await Connection.open(self._port, self._listener)

    def _keep(self, connection: Connection) -> None:
        if connection.usable:
            self._idle.append(connection)

    @staticmethod
    def _must_be(response: Response) -> None:
        if response.status != 200:
            raise Refused(f"{response.status} {response.body[:200].decode(errors='replace')}")

    def close(self) -> None:
        """Close the idle connections."""
        for connection in self._idle:
            connection.close()
