"""What a dialect logs in a silence: records of its own while nothing else comes, and nothing at any other time."""

from collections.abc import Sequence

import pytest
from gateway import settings

from server.core.dialect import Writer
from server.core.openai.transcript import Transcript
from server.core.records import Beginning, Ending, Record
from server.core.upstream_api import Piece
from server.dialects.chat import Chat
from server.dialects.chat.writer import ChatWriter
from server.relay import idle
from server.relay.idle import IdleRecords
from server.relay.stream import Stream
from server.stores.memory.store import MemoryStore

BEGINNING = Beginning(id="strm_1", owner="", dialect="chat", model="m", created=0.0, body=b"{}")


class Pinging(Writer):
    """A dialect that logs a `ping` after a silence of a second."""

    idle_after = 1.0

    def idle(self) -> list[Record]:
        """Return the record of a silence."""
        return [Record("ping", b"{}")]

    def pieces(self, pieces: Sequence[Piece]) -> list[Record]:
        """Return nothing."""
        return []

    def ending(self, ending: Ending, transcript: Transcript) -> list[Record]:
        """Return nothing."""
        return []


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in seconds, which stands still."""
    now = [100.0]
    monkeypatch.setattr(idle.time, "monotonic", lambda: now[0])
    return now


async def begun(writer: Writer) -> tuple[Stream, IdleRecords]:
    store = MemoryStore(settings("http://127.0.0.1:9/v1"))
    stream = Stream(await store.create(BEGINNING), Chat(), max_lag_bytes=1000, max_stream_bytes=10_000)
    records = IdleRecords(stream, writer)
    records.start()
    return stream, records


async def test_only_silence_is_filled(clock: list[float]) -> None:
    """A record follows each second without another one, but not while the reader is behind, and not after `stop`."""
    stream, records = await begun(Pinging())
    kinds = []
    for seconds, said in ((0.5, None), (0.5, "a"), (0.9, None), (0.2, None), (0.9, None), (0.2, None)):
        clock[0] += seconds
        if said:
            stream.append_now([Record("chunk", said.encode())])
        records.due()
        kinds.append([record.kind for record in await stream.records()])
    assert kinds[-1] == ["chunk", "ping", "ping"]
    assert kinds[:3] == [[], ["chunk"], ["chunk"]]
    stream.held = True  # its client is stalled
    clock[0] += 5
    records.due()
    stream.held = False
    records.due()
    assert stream.log.tail == 3
    records.stop()
    clock[0] += 5
    records.due()
    assert stream.log.tail == 3


async def test_a_dialect_without_such_records(clock: list[float]) -> None:
    """Nothing is logged for a dialect that has no such records."""
    stream, records = await begun(ChatWriter(show_usage=False))
    clock[0] += 100
    records.due()
    assert stream.log.tail == 0


async def test_a_log_that_is_full(clock: list[float]) -> None:
    """A record that a full log refuses is the last one that is tried: the relay itself ends the stream."""
    stream, records = await begun(Pinging())
    stream.append_now([Record("chunk", b"a" * 10_000)])
    records.due()
    for _ in range(3):
        clock[0] += 5
        records.due()
    assert stream.log.tail == 2
