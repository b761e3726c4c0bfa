"""The way of a token through the pump, held against the plain way: every frame parsed, one by one."""

import asyncio
from types import SimpleNamespace
from typing import Any

import orjson
from gateway import settings
from hypothesis import given
from hypothesis import strategies as st
from live_reader import LiveReader

from server.aio.aiohttp_internals.pushing import push
from server.aio.aiohttp_internals.queues import FakeTransport
from server.aio.aiohttp_internals.upstream import UpstreamProtocol
from server.aio.deadline import Deadline
from server.aio.private_part import completed
from server.core.openai.intake import Intake
from server.core.openai.transcript import Transcript
from server.core.records import Beginning, Record
from server.dialects.chat import Chat
from server.dialects.chat.writer import ChatWriter
from server.relay.pump import Pump
from server.relay.stream import Stream
from server.stores.memory.store import MemoryStore
from server.telemetry.metrics import Metrics

BEGINNING = Beginning(id="strm_1", owner="", dialect="chat", model="m", created=0.0, body=b"{}")
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
WORDS = st.sampled_from([" a", " word", "字", "ü", '"', "\\", "\n", "\u2028", "", " x" * 200])


def frame(delta: dict[str, Any], reason: str | None = None, **more: Any) -> bytes:
    """Give one event of an upstream."""
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    facts = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: " + orjson.dumps({**facts, "choices": [choice], **more}) + b"\n\n"


OTHERS = st.sampled_from(
    [
        b": a comment\n\n",
        b"data: {}\n\n",
        b'event: ping\ndata: {"type":"ping"}\n\n',
        frame({"reasoning_content": "hm"}),
        frame({"content": "b"}, logprobs=None),
        frame({}, usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}),
        b'data: {"error":{"message":"no"}}\n\n',
        b"data: no JSON\n\n",
    ]
)
TOKENS = WORDS.map(lambda word: frame({"content": word}))
BODIES = st.lists(st.one_of(TOKENS, TOKENS, TOKENS, OTHERS), max_size=12).map(
    lambda frames: [frame({"role": "assistant", "content": ""}), *frames, frame({}, "stop"), b"data: [DONE]\n\n"]
)


def plainly(body: bytes) -> tuple[list[Record], Intake]:
    """Give what is logged if every frame is parsed, and the intake that has read the body."""
    intake = Intake(Transcript(), show_usage=True, parsed=True)
    return ChatWriter(show_usage=True).pieces(intake.feed(body)), intake


def outcome(intake: Intake) -> tuple[object, ...]:
    """Give all that an attempt knows of an answer."""
    told, failure = intake.transcript, intake.failure
    counts = (told.tokens, told.finish, told.usage, told.reasoning, told.calls)
    return counts, intake.over, intake.done, failure and (failure.kind, failure.message)


async def relayed(reads: list[bytes], holds: set[int]) -> tuple[Stream, LiveReader, Intake]:
    """Relay reads of a socket. Before each read of `holds` the stream is held, as for a stalled client, and let go."""
    log = await MemoryStore(settings("http://127.0.0.1:1/v1")).create(BEGINNING)
    stream, reader = Stream(log, Chat(), max_lag_bytes=1000, max_stream_bytes=1 << 20), LiveReader()
    stream.readers.append(reader)
    transport, protocol = FakeTransport(), UpstreamProtocol(asyncio.get_running_loop())
    protocol.transport = transport  # type: ignore[assignment]
    protocol.set_response_params(read_bufsize=16_384)
    protocol.data_received(HEAD)
    _, body = completed(protocol.read())
    response: Any = SimpleNamespace(content=body, connection=SimpleNamespace(protocol=protocol))
    intake = Intake(Transcript(), show_usage=True, parsed=False)

    async def relay() -> None:
        with Deadline() as deadline:
            pump = Pump(stream, ChatWriter(show_usage=True), intake, deadline, Metrics(), "a", 60.0)
            while not intake.over and await push(response, pump):
                await pump.catch_up()

    relaying = asyncio.create_task(relay())
    await asyncio.sleep(0)
    for number, read in enumerate(reads):
        if number in holds:
            stream.held = True
        protocol.data_received(read)
        if number in holds:
            logged = log.tail
            for _ in range(3):
                await asyncio.sleep(0)
            assert log.tail == logged  # nothing is fed to a stream that is held
            stream.held = False
            stream.progressed()
        for _ in range(3):
            await asyncio.sleep(0)
    relaying.cancel()
    await asyncio.gather(relaying, return_exceptions=True)
    before = log.tail
    protocol.data_received(b"5\r\nlate!\r\n")
    assert log.tail == before  # nor to one whose relay was cancelled
    return stream, reader, intake


@given(BODIES, st.data())
def test_pushed_as_if_parsed(frames: list[bytes], data: st.DataObject) -> None:
    """For any chunks, reads, pauses and cuts: records, frames, counts and failures are those of parsing."""
    body = b"".join(frames)
    ends = sorted({*data.draw(st.lists(st.integers(1, len(body) - 1), max_size=6)), len(body)})
    starts = [0, *ends[:-1]]
    if data.draw(st.booleans()):  # as upstreams write them: a chunk for each frame
        ends = [sum(map(len, frames[: number + 1])) for number in range(len(frames))]
        starts = [0, *ends[:-1]]
    wire, places = b"", []
    for start, end in zip(starts, ends, strict=True):
        wire += b"%x\r\n" % (end - start)
        places += range(len(wire), len(wire) + end - start)
        wire += body[start:end] + b"\r\n"
    cut = data.draw(st.integers(0, len(wire)) | st.just(len(wire)))
    cuts = sorted({*data.draw(st.lists(st.integers(0, cut), max_size=8)), cut})
    if data.draw(st.booleans()):
        cuts = sorted({*(place + 2 for place in (places[end - 1] + 1 for end in ends) if place + 2 <= cut), cut})
    reads = [wire[start:end] for start, end in zip([0, *cuts[:-1]], cuts, strict=True)]
    holds = data.draw(st.sets(st.integers(0, len(reads)), max_size=3))
    stream, reader, intake = asyncio.run(relayed(reads, holds))
    expected, plain = plainly(body[: sum(place < cut for place in places)])
    assert list(completed(stream.log.read(0, 1 << 30))) == expected
    assert reader.given == (Chat().frames(1, expected) if expected else b"")
    assert outcome(intake) == outcome(plain)
