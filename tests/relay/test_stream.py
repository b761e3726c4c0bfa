"""A live stream over a log that is waited for."""

import asyncio
from pathlib import Path

import internals
import pytest
from live_reader import LiveReader

from server.config.check import parse
from server.core.errors import StoreError, StreamError
from server.core.lifecycle import State
from server.core.records import Beginning, Ending, Record
from server.dialects.chat import Chat
from server.relay.stream import Stream
from server.stores.sqlite.store import SqliteStore

BIRTH = Beginning(id="strm_1", owner="", dialect="chat", model="small", created=0.0, body=b"{}")
ENDING = Ending(state=State.COMPLETE, reason="stop", at=0.0, target="local/small")


def chunks(*words: str) -> list[Record]:
    """Give a record for each word."""
    return [Record("chunk", word.encode()) for word in words]


async def opened(tmp_path: Path, max_stream_bytes: int = 1000) -> tuple[SqliteStore, Stream, LiveReader]:
    """Open a store with one stream and one reader."""
    settings = parse(
        {
            "upstreams": [{"name": "local", "base_url": "http://127.0.0.1:1/v1"}],
            "models": [{"name": "*", "targets": ["local/*"]}],
            "store": {"kind": "sqlite", "path": str(tmp_path / "streams.db")},
        },
        {},
    )
    store = SqliteStore(settings)
    await store.open()
    log = await store.create(BIRTH)
    stream = Stream(log, Chat(), max_lag_bytes=1000, max_stream_bytes=max_stream_bytes)
    reader = LiveReader()
    stream.move(State.STREAMING)
    stream.readers.append(reader)
    return store, stream, reader


async def one_that_fails(store: SqliteStore, stream: Stream) -> None:
    """Log a token, without waiting for it, while the store cannot be written."""
    await internals.database(store).maintain(lambda db: db.execute("PRAGMA query_only = 1").fetchall())
    assert stream.append_now(chunks("one"))
    await store.batches.flush()
    await internals.database(store).maintain(lambda db: db.execute("PRAGMA query_only = 0").fetchall())


async def test_a_token_is_shown_when_it_is_durable(tmp_path: Path) -> None:
    """Several appends are under way while the relay reads on. All are shown when they are stored; ids have no gap."""
    store, stream, reader = await opened(tmp_path)
    assert stream.append_now(chunks("one", "two"))
    assert stream.append_now(chunks("three"))
    assert reader.given == b""
    await stream.append(chunks("four"))
    assert reader.ids == [1, 2, 3, 4]
    assert stream.append_now(chunks("five"))
    assert await stream.records() == chunks("one", "two", "three", "four", "five")  # a recovery joins all that was said
    assert stream.append_now(chunks("six"))
    await stream.finish([Record("done", b"[DONE]")], ENDING)
    assert reader.ids == [1, 2, 3, 4, 5, 6, 7]
    assert reader.offset == stream.log.size
    await store.close()


async def test_a_slow_store_holds_the_upstream_back(tmp_path: Path) -> None:
    """What is not stored yet is bounded as the lag of a reader is: past it the upstream waits for the store."""
    store, stream, reader = await opened(tmp_path, max_stream_bytes=100_000)
    assert stream.append_now(chunks("x" * 600))
    assert not stream.append_now(chunks("y" * 600))
    assert stream.must_pause
    await stream.room()
    assert not stream.must_pause
    assert reader.ids == [1, 2]
    await store.close()


async def test_whoever_is_cancelled_meanwhile_shows_what_was_stored(tmp_path: Path) -> None:
    """A relay that is stopped behind an append under way: everything that is in the log is shown, once."""
    store, stream, reader = await opened(tmp_path)
    assert stream.append_now(chunks("one"))
    task = asyncio.create_task(stream.append(chunks("two")))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert reader.ids == list(range(1, stream.log.tail + 1))
    await stream.finish([Record("done", b"[DONE]")], ENDING)
    assert reader.ids == list(range(1, stream.log.tail + 1))
    await store.close()


async def test_what_cannot_be_stored_is_not_shown(tmp_path: Path) -> None:
    """An append that nothing waited for fails. The next append and the ending raise its error."""
    store, stream, reader = await opened(tmp_path)
    await one_that_fails(store, stream)
    with pytest.raises(StoreError, match="is read-only"):
        stream.append_now(chunks("two"))
    with pytest.raises(StoreError, match="is read-only"):
        await stream.records()
    with pytest.raises(StoreError, match="is read-only"):
        await stream.append(chunks("two"))
    with pytest.raises(StoreError, match="is read-only"):
        await stream.finish([Record("done", b"[DONE]")], ENDING)
    assert reader.given == b""
    assert not stream.ended.is_set()
    await store.close()


async def test_the_limit_holds(tmp_path: Path) -> None:
    """A log that has grown past `max_stream_bytes` takes no more tokens, whichever way they come."""
    store, stream, reader = await opened(tmp_path, max_stream_bytes=5)
    assert stream.append_now(chunks("123456"))
    await store.batches.flush()
    with pytest.raises(StreamError, match="larger than 5 bytes"):
        stream.append_now(chunks("more"))
    assert reader.ids == [1]
    await store.close()


async def test_a_relay_after_a_fault(tmp_path: Path) -> None:
    """A reader that comes when a stream is relayed again does not get the old fault, and tokens go on."""
    store, stream, reader = await opened(tmp_path)
    await one_that_fails(store, stream)
    stream.fail(StreamError("out of reach", "store_unavailable", 503))
    assert stream.ended.is_set()
    assert await store.claim(stream.log)
    stream.relayed()
    assert (stream.fault, stream.ended.is_set(), stream.opened.is_set()) == (None, False, False)
    assert stream.append_now(chunks("one"))
    assert await stream.records() == chunks("one")
    assert reader.ids == [1]
    await store.close()
