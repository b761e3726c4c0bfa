"""A target that is silent and then hangs up: another one is asked before it is asked again."""

import asyncio
import contextlib

import pytest
from raw_upstream import CHUNK, HELLO, RawUpstream, gateway_over
from wire import complete

SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
ONE = CHUNK + b'"delta":{"content":"he"}}]}\n\n'


class Sleepy(RawUpstream):
    """Says `opening`, is silent, says `ending`, and hangs up. After `times` requests it answers."""

    def __init__(self, opening: bytes, ending: bytes = b"", *, seconds: float, times: int = 100) -> None:
        super().__init__(HELLO)
        self._opening, self._ending, self._seconds, self._times = opening, ending, seconds, times

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        if len(self.bodies) >= self._times:
            await super().serve(reader, writer)
            return
        await reader.readuntil(b"\r\n\r\n")
        self.bodies.append({})
        writer.write(self._opening)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(reader.read(), self._seconds)  # or until the gateway leaves
        writer.write(self._ending)


LIMITS = {"ttft_timeout": 2.0, "idle_timeout": 2.0}  # a quarter of it is half a second
TIMEOUT = b"HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
HANGS = {
    "before the head": (b"", b""),
    "after the head": (SSE, b""),
    "after comments": (SSE + b": ping\n\n", b""),
    "after a role": (SSE + CHUNK + b'"delta":{"role":"assistant","content":""}}]}\n\n', b""),
    "a proxy's 504": (b"", TIMEOUT),
    "in the middle": (SSE + ONE, b""),
}


@pytest.mark.parametrize("what", HANGS)
async def test_another_target_first(what) -> None:
    """Silent for more than a quarter of its limit, a target is not asked again while another one is there."""
    opening, ending = HANGS[what]
    a, b = Sleepy(opening, ending, seconds=0.8), RawUpstream(HELLO)
    async with gateway_over(a, b, settings=LIMITS) as gateway:
        answer = await complete(gateway.root, "m")
    assert (answer.status, answer.events[-1].data) == (200, b"[DONE]")
    assert (len(a.bodies), len(b.bodies)) == (1, 1)


async def test_a_cut_is_no_silence() -> None:
    """A target that hangs up at once is asked again: it may only have been restarted."""
    a, b = Sleepy(b"", seconds=0.0, times=1), RawUpstream(HELLO)
    async with gateway_over(a, b, settings={"ttft_timeout": 60.0}) as gateway:
        assert (await complete(gateway.root, "m")).status == 200
    assert (len(a.bodies), len(b.bodies)) == (2, 0)


async def test_nobody_else() -> None:
    """With a single target a stall, and then silent attempts, cost their share of the budget and no more."""
    chunk = SSE + CHUNK + b'"delta":{"content":"hello"}}]}\n\n'

    class Stalling(Sleepy):
        """Stalls in the middle, is silent four times, and answers."""

        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._opening = b"" if self.bodies else chunk
            await super().serve(reader, writer)

    a = Stalling(b"", seconds=30.0, times=5)
    recovery = {"max_retries": 40, "max_recoveries": 40}
    settings = {"ttft_timeout": 0.3, "idle_timeout": 0.3}
    async with gateway_over(a, settings=settings, recovery=recovery) as gateway:
        answer = await complete(gateway.root, "m")
    assert answer.events[-1].data == b"[DONE]"
    assert answer.body.count(b"hello") == 1
    assert len(a.bodies) == 6
