"""The attacks beside a load: `python -m loadgen.hostile PORT RATE` makes them until SIGTERM, then prints what came.

One owner attacks, by its requests and by the upstream that answers them (`hostile_upstream`). The load is another
owner's. A third one asks the hostile upstream as well, and must get its own answers only.
"""

import asyncio
import hashlib
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from lab.processes import SCRIPTS, Child, wait_until
from ports import free_port

from .hostile_upstream import KEY, MODES

TOKENS = {name: f"{name}-token-0123456789abcdef" for name in ("victim", "mallory", "bystander")}
KEYS = [{"name": name, "sha256": hashlib.sha256(token.encode()).hexdigest()} for name, token in TOKENS.items()]
KEY_TABLE = '[[keys]]\nname = "%(name)s"\nsha256 = "%(sha256)s"\nrequests_per_minute = 100000\n'
TABLES = """
[store]
kind = "sqlite"
path = "%(folder)s/streams.db"

[tools]
timeout = 0.5
[tools.functions]
hang = "loadgen.hostile_tool:hang"

[[upstreams]]
name = "evil"
base_url = "http://127.0.0.1:%(port)d/v1"
api_key_env = "HOSTILE_KEY"
idle_timeout = 2.0
ttft_timeout = 2.0
last_resort_timeout = 2.0

[[models]]
name = "evil-*"
targets = ["evil/*"]

"""
CHAT, NATIVE = "/v1/chat/completions", "/api/stream"
PATIENCE = 20.0  # seconds for one attack
WORKERS = 4  # attacks at a time
KILOBYTE, MEGABYTE = 1 << 10, 1 << 20


def tables(folder: Path, port: int) -> str:
    """Return what the gateway's configuration needs beside the load's own."""
    os.environ["HOSTILE_KEY"] = KEY  # which the gateway inherits
    return TABLES % {"folder": folder, "port": port} + "".join(KEY_TABLE % key for key in KEYS)


# --- one request ------------------------------------------------------------------------------------------------------


def request(path: str, body: object = None, owner: str = "mallory", **headers: str) -> bytes:
    """Return a request; a body that is not bytes goes as JSON."""
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    fields = {"Host": "127.0.0.1", "Authorization": f"Bearer {TOKENS[owner]}", "Connection": "close", **headers}
    if data:
        fields |= {"Content-Type": "application/json", "Content-Length": str(len(data))}
    lines = [f"{'POST' if data else 'GET'} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode() + data


def ask(model: str, content: str = "x", **fields: object) -> dict[str, Any]:
    """Return the body of a request."""
    return {"model": model, "stream": True, "messages": [{"role": "user", "content": content}], **fields}


async def exchange(port: int, data: bytes, *, most: int = MEGABYTE, pace: float = 0.0) -> bytes:
    """Send bytes and read the answer: at most so many bytes, at so many a second (0: as they come)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=KILOBYTE if pace else 65_536)
    with closing(writer):
        with suppress(ConnectionError):
            writer.write(data)
            await writer.drain()
        answer = bytearray()
        with suppress(ConnectionError):
            while len(answer) < most and (part := await reader.read(KILOBYTE if pace else 65_536)):
                answer += part
                if pace:
                    await asyncio.sleep(len(part) / pace)
        return bytes(answer)


# --- the attacks ------------------------------------------------------------------------------------------------------

Attack = Callable[[int], Awaitable[bytes]]


def sends(*messages: bytes, **options: Any) -> Attack:
    """Return the attack of sending one of these, and reading what comes."""

    async def attack(port: int) -> bytes:
        return await exchange(port, random.choice(messages), **options)  # noqa: S311

    return attack


def asked(mode: str) -> Attack:
    """Return the attack that the upstream makes, in any of the ways to ask it."""
    model, tools = f"evil-{mode.replace(' ', '_')}", [{"type": "function", "function": {"name": "f"}}]
    return sends(
        request(CHAT, ask(model)),
        request(CHAT, ask(model, tools=tools)),
        request(CHAT, ask(model) | {"stream": False}),
        request(NATIVE, ask(model)),
    )


async def large_and_left(port: int) -> bytes:
    """Send a prompt of 7 MB, and leave with the first byte of the answer."""
    return await exchange(port, request(CHAT, ask("evil-plain", "x" * 7 * MEGABYTE)), most=16)


async def reread(port: int) -> bytes:
    """Read a log of 20,000 tokens again and again, in the other dialect, from near its end."""
    first = await exchange(port, request(CHAT, ask("short-20000", "x" * MEGABYTE)), most=16 * MEGABYTE)
    found = first.lower().partition(b"x-stream-id: ")[2].partition(b"\r\n")[0].decode()
    stream = "strm_" + first.partition(b"strm_")[2].partition(b"\r\n")[0].decode() if found else "strm_none"
    path = f"/v1/streams/{stream}?format=native&after=19990"
    return b"".join(await asyncio.gather(*(exchange(port, request(path)) for _ in range(10))))


async def slow_reader(port: int) -> bytes:
    """Read a large answer at 1 KB/s, for some seconds."""
    return await exchange(port, request(CHAT, ask("short-5000")), most=5 * KILOBYTE, pace=KILOBYTE)


async def pipelined(port: int) -> bytes:
    """Send 400 KB of requests behind a stream, and read nothing."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=KILOBYTE)
    with closing(writer):
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(2.0):
                writer.write(request(CHAT, ask("paced-20-100"), Connection="keep-alive"))
                for _ in range(4):
                    writer.write(request("/v1/models", Connection="keep-alive") * 700)
                    await writer.drain()
        return await reader.read(KILOBYTE)


VICTIMS_MODEL = "stamped-20-100"
VALUES = b'{"model":"evil-plain","messages":[{"role":"user","content":"x"}],"x":%b}'
SHAPES = {
    "brackets": VALUES % (b"[" + b"[]," * 2_000_000 + b"[]]"),
    "floats": VALUES % (b"[" + b"0.1," * 1_800_000 + b"1]"),
    "names": VALUES % (b"{" + b",".join(b'"%d":1' % n for n in range(700_000)) + b"}"),
    "depth": VALUES % (b"[" * 240 + b"]" * 240),
    "more depth": VALUES % (b"[" * 1_000_000 + b"]" * 1_000_000),
    "texts": VALUES % (b"[" + b",".join([b'"\\u2028\\ud83d\\ude42"'] * 99_000) + b"]"),
    "escapes": VALUES % (b'"' + b"\\n" * 3_900_000 + b'"'),
}
NAMES = ("a b", "a 1 1 1 1 x 0", "a\u2028b", "\u202eb", "%s%d", "a:b", "'\"\\", "\U0001f642" * 200)
HEADS = (
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nHost: a@localhost\r\n\r\n",
    request("/v1/models", Authorization="Basic x"),
    request("/v1/models", **{"Transfer-Encoding": "x, chunked"}),
    request(CHAT, ask("evil-plain"), **{"Content-Encoding": "br"}),
    request(CHAT, b"not JSON"),
    request("/" + "a" * 40_000),
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,
    b"\r\n" * 100_000,
)
ATTACKS: dict[str, Attack] = {
    **{f"upstream: {mode}": asked(mode) for mode in MODES},
    **{f"shape: {name}": sends(request(CHAT, body)) for name, body in SHAPES.items()},
    "names of models": sends(*(request(CHAT, ask(name)) for name in NAMES)),
    # The load's own target answers these with 500: its circuit must not open for the others.
    "spoilt requests": sends(*(request(CHAT, ask(VICTIMS_MODEL, user=f"spoils:{n}")) for n in range(1000))),
    "malformed requests": sends(*HEADS),
    "large and left": large_and_left,
    "read again": reread,
    "slow reader": slow_reader,
    "pipelined": pipelined,
}


async def bystander(port: int) -> bytes:
    """Ask the hostile upstream for an echo. Return the answer if it is the right one, else what is wrong with it."""
    said = f"own {random.random()}"  # noqa: S311
    answer = await exchange(port, request(CHAT, ask("evil-echo", said), "bystander"))
    return answer if said.encode() in answer and b"[DONE]" in answer else b"WRONG"


async def stray(port: int) -> bytes:
    """Let the upstream send a second answer on the connection that the gateway keeps."""
    return await exchange(port, request(CHAT, ask("evil-echo", "stray")))


ATTACKS |= {"second answer": stray, "bystander": bystander}


# --- the process ------------------------------------------------------------------------------------------------------


async def make(port: int, name: str) -> str:
    """Make one attack; return how it was answered. An answer with the upstream's key is `LEAKED`."""
    try:
        async with asyncio.timeout(PATIENCE):
            answer = await ATTACKS[name](port)
    except (OSError, TimeoutError) as error:
        return type(error).__name__
    if KEY.encode() in answer or (name == "bystander" and answer == b"WRONG"):
        return "LEAKED" if KEY.encode() in answer else "WRONG"
    return answer[9:12].decode(errors="replace") if answer.startswith(b"HTTP/") else "closed"


async def run(port: int, rate: float) -> dict[str, Counter[str]]:
    """Make `rate` attacks a second, each in its turn, until SIGTERM; return how each was answered."""
    stop, answers = asyncio.Event(), defaultdict[str, Counter[str]](Counter)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    turns = itertools.cycle(ATTACKS)

    async def work() -> None:
        while not stop.is_set():
            name = next(turns)
            answers[name][await make(port, name)] += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), WORKERS / rate)

    await asyncio.gather(*(work() for _ in range(WORKERS)))
    return answers


@contextmanager
def upstream(folder: Path) -> Iterator[int]:
    """Run the hostile upstream until the end of the block; yield its port."""
    port = free_port()
    command = [sys.executable, "-m", "loadgen.hostile_upstream", str(port)]
    with Child("hostile upstream", command, cwd=SCRIPTS, log=folder / "hostile_upstream.log") as child:
        wait_until(lambda: _listens(port), child)
        yield port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Attackers:
    """The attacking process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def stop(self) -> dict[str, dict[str, int]]:
        """End the attacks when those under way are over; return how each was answered."""
        self._process.send_signal(signal.SIGTERM)
        told, _ = self._process.communicate(timeout=PATIENCE + 10)
        answers: dict[str, dict[str, int]] = json.loads(told or "{}")
        return answers


@contextmanager
def attackers(port: int, rate: float) -> Iterator[Attackers]:
    """Attack a gateway until the end of the block, if it was not stopped before."""
    command = [sys.executable, "-m", "loadgen.hostile", str(port), str(rate)]
    with subprocess.Popen(command, cwd=SCRIPTS, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            yield Attackers(process)
        finally:
            process.kill()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(int(sys.argv[1]), float(sys.argv[2])))))
