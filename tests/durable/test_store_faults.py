"""A gateway whose database is full, locked or damaged says so, and loses, repeats or alters no token."""

import asyncio
import json
import os
import random
import resource
import signal
import sqlite3
import subprocess
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path

import pytest
import wire
from gateway import own_process

COUNT = 300
CHUNKS = [
    json.dumps({"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
                "choices": [{"index": 0, "delta": {"content": f"word{n} "}, "finish_reason": None}]},
               separators=(",", ":"))
    for n in range(COUNT)
]  # fmt: skip
END = CHUNKS[-1].replace('{"content":"word299 "}', "{}").replace("null", '"stop"')
SENT = [chunk.encode() for chunk in [*CHUNKS, END, "[DONE]"]]  # every byte of the upstream's payloads
QUICK = {"chunks": [*CHUNKS, END]}
LONG = {**QUICK, "rate": 10}  # half a minute: a fault comes in mid-stream
STREAMS = 3
PAGE = 4096  # bytes; the first one has the schema


class Witness:
    """A client of one stream that comes back, and keeps what it was shown."""

    def __init__(self) -> None:
        self.events = []
        self.faults = []  # errors that are in no log
        self.path = ""

    async def begin(self, root, model, headers):
        """Begin the stream; return when its third event is there."""
        self.client = wire.Client(root)
        await self.client.__aenter__()
        await self.client.complete(model, headers=headers)
        status, head = await self.client.head()
        assert status == 200
        self.path = f"/v1/streams/{head['x-stream-id']}"
        await self.client.events(3)

    async def rest(self):
        """Read to the proper end of the response."""
        while await self.client.more():
            pass
        self.client.leave()
        blocks = self.client.body.replace(wire.COMMENT, b"").split(b"\n\n")
        assert blocks.pop() == b""
        for block in blocks:
            if block.startswith(b"data: "):
                self.faults.append(json.loads(block[6:])["error"])
            else:
                self.events += wire.events_of(block + b"\n\n")

    async def resume(self, root):
        """Ask for what it has not been shown yet, and read that."""
        self.client = wire.Client(root)
        await self.client.__aenter__()
        await self.client.ask("GET", self.path, headers={"Last-Event-ID": str(self.events[-1].id)})
        status, _ = await self.client.head()
        assert status == 200
        await self.rest()

    def check(self):
        """Check every id, and every byte."""
        assert [event.id for event in self.events] == list(range(1, len(self.events) + 1))
        assert [event.data for event in self.events] == SENT[: len(self.events)]


@pytest.fixture
def path(tmp_path):
    """The database, on a disk of its own where a test has one mounted there."""
    folder = tmp_path / "disk"
    folder.mkdir()
    return folder / "streams.db"


def gateway(provider, path, **more):
    """Run one that restarts what was cut."""
    store = {"kind": "sqlite", "path": str(path), "lease": 1.0}
    return own_process(provider.url, store=store, recovery={"strategy": "auto", "backoff": 0.05}, **more)


async def begun(root, model, **headers):
    """Give streams that have been shown some tokens."""
    witnesses = [Witness() for _ in range(STREAMS)]
    for witness in witnesses:
        await witness.begin(root, model, headers)
    return witnesses


async def stopped(witnesses):
    """Each stream ends with a typed error behind whole ids."""
    for witness in witnesses:
        await witness.rest()
        witness.check()
        assert len(witness.events) < len(SENT)
        assert [fault["code"] for fault in witness.faults] == ["store_unavailable"]


async def unready(root, words):
    """`/readyz` says in words what is wrong, each time that it is asked; new streams are refused."""
    for _ in range(3):
        answer = await wire.call(root, "GET", "/readyz")
        assert answer.status == 503
        assert words in answer.json["status"]
    refused = await wire.complete(root, "any")
    assert (refused.status, refused.error["code"]) == (503, "store_unavailable")
    assert "retry-after" in refused.headers
    assert (await wire.call(root, "GET", "/healthz")).status == 200


async def mended(root, model, witnesses):
    """`/readyz` is 200 again, every client gets the rest of its stream, and a new stream is whole."""

    async def ready():
        return (await wire.call(root, "GET", "/readyz")).status == 200

    await wire.until(ready)
    for witness in witnesses:
        await witness.resume(root)
        witness.check()
        assert len(witness.events) == len(SENT)
        again = await wire.call(root, "GET", witness.path)
        assert again.events == witness.events
    fresh = await wire.complete(root, model)
    assert [event.data for event in fresh.events] == SENT
    assert [event.id for event in fresh.events] == list(range(1, len(SENT) + 1))


@asynccontextmanager
async def full_disk(provider, path):
    """A gateway on a small disk of its own, and how to fill that."""
    mount = 'mount -t tmpfs -o size=8m none "$0" && exec "$@"'
    command = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(path.parent))
    if await asyncio.to_thread(subprocess.call, [*command, "true"], stderr=subprocess.DEVNULL):
        pytest.skip("file systems cannot be mounted here")
    async with gateway(provider, path, command=command) as running:
        filler = Path(f"/proc/{running.pid}/root{path.parent}/filler")

        @contextmanager
        def full():
            with filler.open("wb", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(bytes(4096))
            assert os.statvfs(filler).f_bavail == 0
            yield "the disk is full"
            filler.unlink()

        yield running, full


@asynccontextmanager
async def limited_files(provider, path, **tables):
    """A gateway whose files may not grow, when it is said so: the kernel refuses its writes as a broken disk does."""
    async with gateway(provider, path, **tables) as running:

        @contextmanager
        def full():
            _, hard = resource.prlimit(running.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (4096, hard))
            yield "the disk reports an error"
            resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (hard, hard))

        yield running, full


@pytest.mark.parametrize("disk", [full_disk, limited_files])
async def test_full(provider, model, path, disk):
    """No room: streams end with a typed error, `/readyz` says why; with room again clients get what is missing."""
    await provider.script(model, *[LONG] * STREAMS, QUICK)
    async with disk(provider, path) as (running, full):
        witnesses = await begun(running.root, model)
        with full() as words:
            await stopped(witnesses)
            await unready(running.root, words)
            for witness in witnesses:  # what was stored can be read
                state = await wire.call(running.root, "GET", witness.path, headers={"Accept": "application/json"})
                assert state.json["records"] == len(witness.events)
        await mended(running.root, model, witnesses)


@pytest.mark.parametrize(("policy", "linger", "state"), [("continue", 60.0, "complete"), ("cancel", 0.5, "cancelled")])
async def test_nobody_comes_back(provider, model, path, policy, linger, state):
    """With room again a stream that nobody asks for goes on, or ends, as its policy says: it does not stay for ever."""
    await provider.script(model, LONG, QUICK)
    async with limited_files(provider, path, streams={"linger": linger}) as (running, full):
        witness = Witness()
        await witness.begin(running.root, model, {"X-On-Disconnect": policy})
        with full():
            await stopped([witness])

        async def over():
            found = await wire.call(running.root, "GET", witness.path, headers={"Accept": "application/json"})
            return found.json["state"] == state

        await wire.until(over)
        told = (await wire.call(running.root, "GET", witness.path)).events
    assert told[: len(witness.events)] == witness.events
    assert [event.id for event in told] == list(range(1, len(told) + 1))
    assert len(await provider.seen(model)) == (2 if policy == "continue" else 1)
    if policy == "continue":
        assert [event.data for event in told] == SENT


@contextmanager
def locked(path):
    """Hold the lock of the database, from another process than the gateway's."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


async def test_locked(provider, model, path):
    """A lock held for a moment delays tokens; one held for longer than the store waits ends streams, until it goes."""
    await provider.script(model, *[LONG] * STREAMS, QUICK)
    async with gateway(provider, path) as running:
        witnesses = await begun(running.root, model)
        with locked(path):
            await asyncio.sleep(0.5)
        for witness in witnesses:
            await witness.client.events(8)
        with locked(path):
            await stopped(witnesses)
            await unready(running.root, "is locked by another process")
        await mended(running.root, model, witnesses)


@asynccontextmanager
async def standing_still(running, path):
    """Everything is in the file, and its gateway knows of nothing that happens to it now."""
    with closing(sqlite3.connect(path, timeout=0)) as db:
        while True:
            running.signal(signal.SIGSTOP)
            try:
                if db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0:
                    yield
                    return
            finally:
                running.signal(signal.SIGCONT)
            await asyncio.sleep(0.01)  # it had the lock


async def test_damaged(provider, model, path):
    """Noise over all pages but the first: streams end with a typed error, and nothing is said but what is wrong."""
    await provider.script(model, QUICK, *[LONG] * STREAMS, QUICK)
    async with gateway(provider, path) as running:
        whole = await wire.complete(running.root, model)
        witnesses = await begun(running.root, model)
        async with standing_still(running, path):
            noise = random.Random(5).randbytes(path.stat().st_size - PAGE)
            with path.open("r+b") as file:
                file.seek(PAGE)
                file.write(noise)
        await stopped(witnesses)
        await unready(running.root, "is damaged")
        ended = f"/v1/streams/{whole.headers['x-stream-id']}"
        for method, asked in [("GET", "/v1/streams"), ("GET", ended), ("GET", witnesses[0].path), ("DELETE", ended)]:
            answer = await wire.call(running.root, method, asked)
            assert (answer.status, answer.error["code"]) == (503, "store_unavailable")
        assert not running.logged("handler failed")
    assert running.process.returncode == 0
    with pytest.raises(RuntimeError, match=r"sluiceway: The database \S+/streams.db is damaged\."):
        async with gateway(provider, path):
            pass


async def test_altered_in_one_place(provider, model, path):
    """A letter changes in a stream that is kept: it is not shown, `/readyz` says why, and running streams go on."""
    stalled = {**QUICK, "stall_after": 50, "stall_for": 2.0}
    await provider.script(model, QUICK, *[stalled] * STREAMS)
    async with gateway(provider, path) as running:
        kept = Witness()
        await kept.begin(running.root, model, {})
        await kept.rest()
        witnesses = await begun(running.root, model)
        async with standing_still(running, path):
            path.write_bytes(path.read_bytes().replace(b"word150 ", b"Word150 "))
        again = await wire.call(running.root, "GET", kept.path)
        assert b"id: " not in again.body
        assert b'"store_unavailable"' in again.body
        later = await wire.call(running.root, "GET", kept.path, headers={"Last-Event-ID": "160"})
        assert (later.status, later.error["code"]) == (503, "store_unavailable")
        ready = await wire.call(running.root, "GET", "/readyz")
        assert (ready.status, "is damaged" in ready.json["status"]) == (503, True)
        for witness in witnesses:
            await witness.rest()
            witness.check()
            assert len(witness.events) == len(SENT)
            assert witness.faults == []
