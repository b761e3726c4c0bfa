"""Somebody else's answer: what an upstream sends on an idle connection belongs to nobody (RFC 9112, section 9.2).

The upstream, or a proxy before it, answers one owner and then sends more on the connection that the gateway has kept.
The next owner's request must get its own answer, and nothing else.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import itertools
import json
import socket
import struct
import termios
from collections.abc import AsyncIterator
from typing import Any

import pytest
from certificates import Certificate, certify
from gateway import in_process, own_process
from tcp_server import listening
from wire import Client, complete, texts, until

ALICE, BOB = "alice's token", "bob's token"
KEYS = [
    {"name": name, "sha256": hashlib.sha256(token.encode()).hexdigest()}
    for name, token in (("alice", ALICE), ("bob", BOB))
]


def answer(text: str) -> bytes:
    """Give a whole answer that says `text`."""
    frames = json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}), "[DONE]"
    body = "".join(f"data: {frame}\n\n" for frame in frames).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


AGAIN = answer("alice, again")
TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
BAD = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nbad"
ERROR = AGAIN.replace(b"200 OK", b"500 Oops")
CHUNKED = AGAIN.replace(b"Content-Length: ", b"Transfer-Encoding: chunked\r\nX-Was: ")
# What comes after an answer, and whether the connection is ended then.
STRAY = {
    "a second answer": (AGAIN, False),
    "two answers": (AGAIN + AGAIN, False),
    "a head, whose body comes later": (AGAIN.partition(b"\r\n\r\n")[0] + b"\r\n\r\n", False),
    "half a head": (AGAIN[:40], False),
    "one byte of a head": (b"H", False),
    "the head of a chunked answer": (CHUNKED[: CHUNKED.index(b"data:")], False),
    "an interim answer": (b"HTTP/1.1 100 Continue\r\n\r\n", False),
    "a proxy's 408": (TIMED_OUT, False),
    "a proxy's 408, and the end": (TIMED_OUT, True),
    "a proxy's 400": (BAD, False),
    "an error": (ERROR, False),
    "bytes of no protocol": (b"\x00\x01\x02\xff", False),
    "a frame of a stream": (b'data: {"choices": []}\n\n', False),
    "an empty line": (b"\r\n", False),
    "more than a buffer": (b"x" * 40_000, False),
    "the end": (b"", True),
}
# An empty line in the same read is no part of this: the parser skips it, as RFC 9112 lets it.
SAME_READ = [name for name, (stray, _) in STRAY.items() if stray.startswith(b"HTTP/") or stray == b"H"]


class Upstream:
    """Answers each request with its own prompt. `stray` follows each of Alice's answers.

    With `at_once` both are one write. Else the stray bytes are sent when `may_send` is set, and `arrived` is set when
    they are in the gateway's kernel.
    """

    def __init__(self, stray: bytes, *, ends: bool = False, at_once: bool = False) -> None:
        self.stray, self.ends, self.at_once = stray, ends, at_once
        self.may_send, self.arrived = asyncio.Event(), asyncio.Event()
        self.connections = 0
        self.asked: list[tuple[int, str]] = []  # the number of the connection, and the prompt

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self.connections += 1
        number = self.connections
        while True:
            prompt = await asked(reader)
            self.asked.append((number, prompt))
            is_alices = prompt.startswith("alice")
            writer.write(answer(prompt) + (self.stray if is_alices and self.at_once else b""))
            await writer.drain()
            if is_alices and not self.at_once:
                await self.may_send.wait()
                writer.write(self.stray)
                await delivered(writer)
            if is_alices and self.ends:
                writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
            if is_alices:
                self.arrived.set()


async def asked(reader: asyncio.StreamReader) -> str:
    """Read a request; return its prompt."""
    head = await reader.readuntil(b"\r\n\r\n")
    size = int(head.lower().partition(b"content-length:")[2].split()[0])
    prompt: str = json.loads(await reader.readexactly(size))["messages"][0]["content"]
    return prompt


async def delivered(writer: asyncio.StreamWriter) -> None:
    """Wait until the peer's kernel has acknowledged everything."""
    await writer.drain()
    fd = writer.get_extra_info("socket").fileno()

    async def acknowledged() -> bool:
        waiting = struct.unpack("i", fcntl.ioctl(fd, termios.TIOCOUTQ, b"\0" * 4))[0]
        return waiting == 0 and writer.transport.get_write_buffer_size() == 0

    await until(acknowledged)


async def say(root: str, token: str, prompt: str) -> list[str]:
    """Ask with a key; return the texts of the answer."""
    messages = [{"role": "user", "content": prompt}]
    told = await complete(root, "m", messages=messages, headers={"Authorization": f"Bearer {token}"})
    assert told.status == 200, told.body
    return texts(told.events)


@contextlib.asynccontextmanager
async def running(upstream: Upstream, certificate: Certificate | None, loop: str) -> AsyncIterator[str]:
    """Run a gateway in its own process before an upstream; yield its root."""
    tls = certificate.server() if certificate else None
    trust = {"ca_file": str(certificate.certificate)} if certificate else {}
    async with listening(upstream.serve, tls=tls) as port:
        url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/v1"
        tables: dict[str, Any] = {"keys": KEYS, "server": {"event_loop": loop}}
        async with own_process(url, upstream=trust, **tables) as gateway:
            yield gateway.root


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """The upstream's certificate."""
    return certify(tmp_path_factory.mktemp("tls"))


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("encrypted", [False, True], ids=["tcp", "tls"])
async def test_bob_never_gets_what_came_after_alices_answer(certificate, encrypted, loop) -> None:
    """Whatever comes on the connection while it is idle, Bob gets his own answer, on another connection."""
    upstream = Upstream(b"")
    async with running(upstream, certificate if encrypted else None, loop) as root:
        for upstream.stray, upstream.ends in STRAY.values():
            upstream.may_send.clear()
            upstream.arrived.clear()
            assert await say(root, ALICE, "alice") == ["alice"]
            upstream.may_send.set()
            await asyncio.wait_for(upstream.arrived.wait(), 20)
            assert await say(root, BOB, "bob") == ["bob"]
            (alices, _), (bobs, _) = upstream.asked[-2:]
            assert alices != bobs


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("name", SAME_READ)
async def test_nor_what_came_with_it(name, loop) -> None:
    """The same, if it comes in one read with the end of Alice's answer."""
    stray, ends = STRAY[name]
    upstream = Upstream(stray, ends=ends, at_once=True)
    async with running(upstream, None, loop) as root:
        for _ in range(3):
            assert await say(root, ALICE, "alice") == ["alice"]
            assert await say(root, BOB, "bob") == ["bob"]
    assert not [pair for pair in itertools.pairwise(upstream.asked) if pair[0] == (pair[1][0], "alice")]


async def test_a_clean_connection_is_used_again(certificate) -> None:
    """A connection on which nothing has come is kept, also if TLS itself has sent something: its session tickets."""
    upstream = Upstream(b"")
    for shown in (None, certificate):
        async with running(upstream, shown, "uvloop") as root:
            for _ in range(3):  # the gateway may be making its first connection still, and make a second one
                assert await say(root, BOB, "bob") == ["bob"]
            before = upstream.connections
            for _ in range(5):
                assert await say(root, BOB, "bob") == ["bob"]
            assert upstream.connections == before


async def test_nor_what_came_before_the_first_request() -> None:
    """A connection that was made ahead and has received an answer is not used. Nobody had asked."""
    connected = asyncio.Event()
    upstream = Upstream(b"")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not connected.is_set():  # the connection that the gateway makes at its start
            writer.write(AGAIN)
            await delivered(writer)
            connected.set()
            await reader.read()
        else:
            await upstream.serve(reader, writer)

    async with listening(serve) as port, in_process(f"http://127.0.0.1:{port}/v1", keys=KEYS) as gateway:
        await connected.wait()
        assert await say(gateway.root, BOB, "bob") == ["bob"]


async def test_alice_and_bob_at_the_same_time() -> None:
    """Many of both, one after the other and side by side: each gets its own answer, whatever follows the others'."""
    upstream = Upstream(AGAIN, at_once=True)
    async with running(upstream, None, "uvloop") as root:

        async def ask(owner: str, number: int) -> None:
            prompt = f"{owner} {number}"
            assert await say(root, ALICE if owner == "alice" else BOB, prompt) == [prompt]

        for _ in range(3):
            await asyncio.gather(*(ask(owner, number) for owner in ("alice", "bob") for number in range(10)))


async def test_a_reset_while_it_is_idle() -> None:
    """A connection that was reset is not used, whether or not the client of its answer has left."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(await asked(reader)))
        await delivered(writer)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async with listening(serve) as port, own_process(f"http://127.0.0.1:{port}/v1", keys=KEYS) as gateway:
        for _ in range(3):
            async with Client(gateway.root) as client:
                await client.complete("m", headers={"Authorization": f"Bearer {ALICE}"})
                client.leave("rst")
            assert await say(gateway.root, BOB, "bob") == ["bob"]
