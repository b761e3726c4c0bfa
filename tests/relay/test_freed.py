"""An ended stream is freed by reference counting alone, with all that its relay has made, however it ended.

A collection comes only after many allocations. Until then an object in a cycle keeps its request, and requests are
large: thirty of 8 MB, one after the other, took 2.8 GB.
"""

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from contract import ending
from gateway import in_process, settings
from redis_server import RedisServer, running
from wire import Client, call, completion

from server.relay.plan import Planner
from server.relay.progress import Progress
from server.relay.relay import Relay
from server.relay.stream import Stream
from server.relay.turn import Turn
from server.stores.redis import RedisStore
from server.stores.sqlite import SqliteStore
from server.tools.loop import ToolLoop

WATCHED = (Stream, Relay, Turn, Planner, Progress, ToolLoop)
SECONDS = 10.0  # for the last step of a response and of a store's thread: they still hold the stream then
PATHS = {"chat": "/v1/chat/completions", "native": "/api/stream"}
ERROR = {"message": "Out of order.", "type": "server_error", "code": "broken"}
CALL = {"index": 0, "id": "call_1", "name": "calculate", "arguments": {"expression": "1 + 1"}}


@pytest.fixture(scope="session")
def redis(tmp_path_factory):
    """One server for the session."""
    with running(tmp_path_factory.mktemp("redis")) as one:
        yield one


@pytest.fixture(params=["memory", "sqlite", "redis"])
def store(request, tmp_path):
    """The table of each store."""
    if request.param == "redis":
        return {"kind": "redis", "url": request.getfixturevalue("redis").url}
    return {"kind": request.param, "path": str(tmp_path / "streams.db")}


@contextmanager
def without_collector() -> Iterator[None]:
    """Run the block without collections."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.fixture
def made(monkeypatch) -> list[weakref.ref[Any]]:
    """Every object of the watched classes that the test makes."""
    references: list[weakref.ref[Any]] = []
    for kind in WATCHED:
        monkeypatch.setattr(kind, "__init__", noting(kind.__init__, references))
    return references


def noting(initialize: Callable[..., None], references: list[weakref.ref[Any]]) -> Callable[..., None]:
    """Return a constructor that also notes the object."""

    def __init__(self: object, *values: Any, **options: Any) -> None:  # noqa: N807  # it takes the place of one
        initialize(self, *values, **options)
        references.append(weakref.ref(self))

    return __init__


async def left(made: list[weakref.ref[Any]]) -> list[str]:
    """Wait until all objects are gone, but not for ever; return the kinds of those that are not."""
    kinds: list[str] = []
    for _ in range(int(SECONDS / 0.01)):
        kinds = [type(one).__name__ for reference in made if (one := reference()) is not None]
        if not kinds:
            break
        await asyncio.sleep(0.01)
    return kinds


# --- how a client ends its stream, or lets it end ---------------------------------------------------------------------


async def reads(root: str, path: str, body: dict[str, Any]) -> None:
    """Read to the end."""
    await call(root, "POST", path, body)


async def reads_whole(root: str, path: str, body: dict[str, Any]) -> None:  # no native form
    """Ask for an answer that is not streamed."""
    await call(root, "POST", PATHS["chat"], {**body, "stream": False})


async def leaves(root: str, path: str, body: dict[str, Any]) -> None:
    """Leave after the first token."""
    async with Client(root) as client:
        await client.ask("POST", path, body)
        await client.head()
        await client.events(1)


async def resets(root: str, path: str, body: dict[str, Any]) -> None:
    """Cut the connection in the middle of a flood."""
    async with Client(root) as client:
        await client.ask("POST", path, body)
        await client.head()
        await client.events(20)
        client.leave("rst")


async def stalls(root: str, path: str, body: dict[str, Any]) -> None:
    """Read nothing more in the middle of a flood, until the gateway cuts the connection."""
    async with Client(root) as client:
        await client.ask("POST", path, body)
        _, headers = await client.head()
        client.pause_reading()
        await listed(root, headers["x-stream-id"], readers=0)
        await call(root, "DELETE", f"/v1/streams/{headers['x-stream-id']}")


async def deletes(root: str, path: str, body: dict[str, Any]) -> None:
    """Delete the stream after its first token."""
    async with Client(root) as client:
        await client.ask("POST", path, body)
        _, headers = await client.head()
        await client.events(1)
        await call(root, "DELETE", f"/v1/streams/{headers['x-stream-id']}")
        await client.rest()


async def reads_twice(root: str, path: str, body: dict[str, Any]) -> None:
    """Read to the end, and then once more in the other dialect."""
    answer = await call(root, "POST", path, body)
    form = "native" if path == PATHS["chat"] else "openai"
    await call(root, "GET", f"/v1/streams/{answer.headers['x-stream-id']}?format={form}")


async def listed(root: str, stream_id: str, **wanted: object) -> None:
    """Wait until the state of a stream has these values."""
    async with asyncio.timeout(20):
        while True:
            state = (await call(root, "GET", f"/v1/streams/{stream_id}", headers={"Accept": "application/json"})).json
            if wanted.items() <= state.items():
                return
            await asyncio.sleep(0.02)


# --- the test ---------------------------------------------------------------------------------------------------------

RETRY = {"recovery": {"strategy": "auto", "backoff": 0.01, "max_retries": 1}}
TWO_TARGETS = [{"name": "*", "targets": ["local/*", "local/other"]}]
HEDGE = {"recovery": {"strategy": "none", "hedge_after": 0.05}, "models": TWO_TARGETS}
FLOOD = {"tokens": 10_000_000, "big": 100}

WAYS = [
    pytest.param([{}], {}, reads, id="complete"),
    pytest.param([{"tool_calls": [CALL]}, {}], {}, reads, id="tools"),
    pytest.param([{}], {}, reads_twice, id="projected"),
    pytest.param([{"stall_after": 3}], {}, deletes, id="deleted"),
    pytest.param([{"stall_after": 3}], {"streams": {"total_timeout": 0.6}}, reads, id="total timeout"),
    pytest.param([{"status": 500}], RETRY, reads, id="5xx, twice"),
    pytest.param([{"status": 400, "error": ERROR}], {}, reads, id="refused"),
    pytest.param([{"reset_before_head": True}], {}, reads, id="reset"),
    pytest.param([{"cut_after": 3}], {}, reads, id="cut"),
    pytest.param([{"eof_after": 3}], {}, reads, id="truncated"),
    pytest.param([{"eof_after": 0}], {}, reads, id="empty"),
    pytest.param([{"reset_after": 3}], {}, reads, id="reset in the middle"),
    pytest.param([{"bad_chunk_header_at": 3}], {}, reads, id="bad chunk"),
    pytest.param([{"json_body": {"error": ERROR}}], {}, reads, id="JSON instead"),
    pytest.param([{}], {}, reads_whole, id="whole"),
    pytest.param([{"status": 500}], RETRY, reads_whole, id="whole, 5xx"),
    pytest.param([{"cut_after": 3}, {}], RETRY, reads, id="cut and recovered"),
    pytest.param([{"error_at": 2, "error": ERROR}], {}, reads, id="error in band"),
    pytest.param([{"garbage_at": 2}], {}, reads, id="garbage"),
    pytest.param([{"stall_after": 2}], {"upstream": {"idle_timeout": 0.3}}, reads, id="silent"),
    pytest.param([{"never_answer": True}], {"upstream": {"ttft_timeout": 0.3}}, reads, id="no token"),
    pytest.param([{"ttft": 0.6}, {}], HEDGE, reads, id="hedged"),
    pytest.param([{"ttft": 0.6, "cut_after": 0}, {"status": 500}], HEDGE, reads, id="hedged in vain"),
    pytest.param([{"stall_after": 3}], {}, leaves, id="left"),
    pytest.param([FLOOD], {}, resets, id="left in a flood"),
    pytest.param([FLOOD], {"flow": {"drain_timeout": 0.5}}, stalls, id="stalled"),
    pytest.param([FLOOD], {"streams": {"max_stream_bytes": 20_000}}, reads, id="too large"),
]


@pytest.mark.parametrize("dialect", PATHS)
@pytest.mark.parametrize(("scripts", "tables", "client"), WAYS)
async def test_freed(provider, model, store, made, scripts, tables, client, dialect) -> None:
    """Whatever ended a stream: when it has ended, nothing of it is alive."""
    await provider.script(model, *scripts)
    tools = {"functions": {"calculate": "server.tools.examples:calculate"}}
    async with in_process(provider.url, store=store, tools=tools, **tables) as gateway:
        body = completion(model)
        with without_collector():
            await client(gateway.root, PATHS[dialect], body)
            await gateway.idle()
            assert made
            assert await left(made) == []


# --- the store fails, or gives the log away ---------------------------------------------------------------------------


async def breaks(store: dict[str, str], stream_id: str, server: RedisServer | None) -> None:
    """Let the store fail: its files are gone, or its server is."""
    if server is not None:
        server.kill()
    else:
        await asyncio.to_thread(Path(store["path"]).unlink)


async def claims(store: dict[str, str], stream_id: str, server: RedisServer | None) -> None:
    """Let another instance claim the log: the relay here is fenced."""
    other = (RedisStore if store["kind"] == "redis" else SqliteStore)(settings("http://127.0.0.1:1/v1", store=store))
    await other.open()
    log = await other.find(stream_id)
    assert log is not None
    assert await other.claim(log, force=True)
    await log.append([], ending())
    await other.close()


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
@pytest.mark.parametrize("happens", [breaks, claims])
@pytest.mark.parametrize("dialect", PATHS)
async def test_freed_by_its_store(provider, model, tmp_path, made, happens, kind, dialect) -> None:
    """A stream whose store fails, or whose relay is fenced, leaves nothing alive when its reader has been told."""
    await provider.script(model, {"tokens": 400, "rate": 50})
    server = RedisServer(tmp_path) if kind == "redis" else None
    if server is not None:
        await asyncio.to_thread(server.start)
    store = {"kind": kind, "path": str(tmp_path / "streams.db"), **({"url": server.url} if server else {})}
    try:
        async with in_process(provider.url, store={**store, "lease": 30.0}) as gateway:
            with without_collector():
                async with Client(gateway.root) as client:
                    await client.ask("POST", PATHS[dialect], completion(model))
                    _, headers = await client.head()
                    await client.events(3)
                    await happens(store, headers["x-stream-id"], server)
                    while await client.more():
                        pass
                    assert client.body.count(b"\nid: ") < 400
                await gateway.idle()
                assert made
                assert await left(made) == []
    finally:
        if server is not None:
            server.kill()
