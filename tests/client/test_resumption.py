"""The protocol of resuming, without I/O: which events are passed on, when to try again, when a stream is lost."""

import httpx2
import orjson
import pytest

from server.core.openai.sse import Decoder
from sluiceway.outage import Outage, Patience
from sluiceway.resumption import Answer, Resumption, can_resume, prepare

URL = "https://gate.example/prefix/v1/chat/completions"
PATIENCE = Patience(give_up_after=10.0, first_wait=1.0, longest_wait=4.0)


def _resumption(url: str = URL) -> Resumption:
    request = httpx2.Request("POST", url, headers={"Authorization": "Bearer k", "OpenAI-Project": "p"}, json={})
    assert can_resume(request)
    prepare(request)
    return Resumption(request, PATIENCE)


def _answer(status: int = 200, **headers: str) -> httpx2.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    stream = {"content-type": "text/event-stream; charset=utf-8", "x-stream-id": "strm_1"} if status == 200 else {}
    return httpx2.Response(status, headers={**stream, **named})


def test_an_unfinished_event_is_dropped_and_its_id_not_kept() -> None:
    """An id counts when its event has ended with a blank line. The rest of a cut event is dropped."""
    resumption = _resumption()
    assert resumption.answer(_answer()) is Answer.STREAM
    assert resumption.feed(b"id: 1\ndata: a\n\nid: 2\ndata: b") == b"id: 1\ndata: a\n\n"
    assert resumption.resume_request().headers["Last-Event-ID"] == "1"
    assert resumption.answer(_answer()) is Answer.STREAM
    assert resumption.feed(b"id: 2\ndata: b\n\n") == b"id: 2\ndata: b\n\n"


def test_what_was_passed_on_is_not_repeated() -> None:
    """Events up to the last id are dropped if they are sent again."""
    resumption = _resumption()
    resumption.answer(_answer())
    resumption.feed(b"id: 1\ndata: a\n\nid: 2\ndata: b\n\n")
    assert resumption.feed(b"id: 1\ndata: a\n\nid: 2\ndata: b\n\nid: 3\ndata: c\n\n") == b"id: 3\ndata: c\n\n"


def test_several_events_of_one_record() -> None:
    """In the other form a record may make several events under one id. After a cut each is passed on once."""
    resumption = _resumption()
    resumption.answer(_answer())
    first, second, third = b"id: 7\ndata: a\n\n", b"id: 7\ndata: b\n\n", b"id: 8\ndata: c\n\n"
    assert resumption.feed(first + second) == first + second
    resumption.answer(_answer())
    assert resumption.feed(second + second + third) == second + third  # the two after 7, of which one has come
    resumption.answer(_answer())
    assert resumption.feed(b"id: 8\ndata: d\n\n") == b"id: 8\ndata: d\n\n"
    assert resumption.resume_request().headers["Last-Event-ID"] == "8"


def test_several_events_before_the_first_id() -> None:
    """The first record's events may have the id 0, which stands for no cursor. Each is passed on once as well."""
    resumption = _resumption()
    resumption.answer(_answer())
    assert resumption.feed(b"id: 0\ndata: a\n\n") == b"id: 0\ndata: a\n\n"
    resumption.answer(_answer())
    assert resumption.feed(b"id: 0\ndata: a\n\nid: 1\ndata: b\n\n") == b"id: 1\ndata: b\n\n"


def test_asks_the_stream_beside_the_path_that_created_it() -> None:
    """The resuming request keeps prefix and credentials, and leaves what belongs to the POST alone."""
    resumption = _resumption()
    resumption.answer(_answer())
    request = resumption.resume_request()
    assert (request.method, str(request.url)) == ("GET", "https://gate.example/prefix/v1/streams/strm_1")
    assert request.headers["Authorization"] == "Bearer k"
    assert request.headers["OpenAI-Project"] == "p"
    assert not {"idempotency-key", "content-type", "content-length", "last-event-id"} & set(request.headers)


def test_native_streams_stay_native() -> None:
    """A stream of `/api/stream` is resumed in the native form."""
    resumption = _resumption("http://gate.example/api/stream")
    resumption.answer(_answer())
    assert str(resumption.resume_request().url) == "http://gate.example/v1/streams/strm_1?format=native"


@pytest.mark.parametrize(
    ("events", "ended"),
    [
        (b"data: [DONE]\n\n", True),
        (b'data: {"error": {"code": "cancelled"}}\n\n', True),
        (b'data: {"error": {"code": "gap"}}\n\n', True),
        (b'data: {"choices": [{"delta": {"content": "an \\"error\\""}}]}\n\n', False),
        (b'event: error\ndata: {"type": "error"}\n\n', False),
        (b'event: gap\ndata: {"requested": 3}\n\n', False),
        (b'event: done\nid: 9\ndata: {"status": "complete"}\n\n', True),
    ],
)
def test_knows_the_end(events: bytes, ended: bool) -> None:
    """`[DONE]` and an error end a stream in the OpenAI form, `done` alone in the native one; all are passed on."""
    resumption = _resumption()
    resumption.answer(_answer())
    assert resumption.feed(events) == events
    assert resumption.ended is ended


@pytest.mark.parametrize(
    ("status", "headers", "verdict"),
    [
        (204, {}, Answer.ENDED),
        (404, {}, Answer.OTHER),
        (400, {}, Answer.OTHER),
        (503, {}, Answer.AWAY),
        (502, {}, Answer.AWAY),
        (502, {"x_stream_id": "strm_1"}, Answer.OTHER),  # the generation failed: the gateway is there
        (429, {}, Answer.AWAY),
    ],
)
def test_reads_the_answer_to_a_resumption(status: int, headers: dict[str, str], verdict: Answer) -> None:
    """Only a gateway that is away or busy is asked again."""
    resumption = _resumption()
    resumption.answer(_answer())
    assert resumption.answer(_answer(status, **headers)) is verdict


def test_a_429_before_there_is_a_stream_is_the_programs() -> None:
    """The limit that a new request meets is passed on: its SDK knows what to do."""
    assert _resumption().answer(_answer(429)) is Answer.OTHER


def test_losing_a_stream_speaks_its_form() -> None:
    """The ending that the client adds is an error in the OpenAI form, and an error with `done` in the native one."""
    plain = _resumption()
    plain.answer(_answer())
    plain.answer(_answer(404))
    (error,) = Decoder().feed(plain.give_up())
    assert orjson.loads(error.data)["error"]["code"] == "stream_lost"
    assert "does not know this stream any more" in orjson.loads(error.data)["error"]["message"]
    native = _resumption("http://gate.example/api/stream")
    native.answer(_answer())
    assert [event.type for event in Decoder().feed(native.give_up())] == [b"error", b"done"]


def test_waits_as_the_gateway_asks() -> None:
    """`retry:` right before a cut and `Retry-After` are lower bounds of the wait."""
    resumption = _resumption()
    resumption.answer(_answer())
    resumption.feed(b"id: 1\ndata: a\n\nretry: 3000\n")
    assert 3.0 <= (resumption.wait() or 0) <= 3.75
    assert 6.0 <= (resumption.wait(_answer(503, retry_after="6")) or 0) <= 7.5


def test_backs_off_and_gives_up() -> None:
    """Waits double up to the longest one; time without a connection adds up until an event comes."""
    now = 0.0
    outage = Outage(PATIENCE, clock=lambda: now)
    for longest in (1.0, 2.0, 4.0, 4.0):
        wait = outage.wait()
        assert wait is not None
        assert longest / 2 <= wait <= longest
    now = 9.5
    assert (outage.wait() or 0) <= 0.5
    outage.connected()
    now = 100.0
    outage.lost()
    now = 100.6
    assert outage.wait() is None
    outage.over()
    assert outage.wait() is not None


def test_leaves_alone_what_it_cannot_resume() -> None:
    """The transport leaves other paths alone, and the state of a stream as JSON."""
    assert not can_resume(httpx2.Request("POST", "http://gate.example/v1/embeddings"))
    assert not can_resume(httpx2.Request("GET", "http://gate.example/v1/streams"))
    state = httpx2.Request("GET", "http://gate.example/v1/streams/strm_1", headers={"Accept": "application/json"})
    assert not can_resume(state)
    assert not can_resume(httpx2.Request("POST", "ftp://gate.example/v1/chat/completions"))
    assert not can_resume(httpx2.Request("POST", "/v1/chat/completions"))


def test_aborts_only_what_its_program_began() -> None:
    """A client that leaves early aborts its own stream, but none that has ended, was only read, or ends by itself."""
    mine = _resumption()
    mine.answer(_answer())
    request = mine.stop_request()
    assert request is not None
    assert (request.method, request.url.path) == ("DELETE", "/prefix/v1/streams/strm_1")
    mine.feed(b"data: [DONE]\n\n")
    assert mine.stop_request() is None
    session = {"session_id": "strm_1", "last_event_id": 7}
    for read in (
        httpx2.Request("GET", "http://gate.example/v1/streams/strm_1"),
        httpx2.Request("POST", "http://gate.example/api/stream", json=session),
    ):
        prepare(read)
        resumption = Resumption(read, PATIENCE)
        resumption.answer(_answer())
        assert resumption.stop_request() is None


@pytest.mark.parametrize(
    ("body", "last"),
    [
        ({"session_id": "strm_1", "last_event_id": 7}, "7"),
        ({"session_id": "strm_1", "last_event_id": "7"}, "7"),
        ({"session_id": "strm_1"}, None),
        ({"session_id": None, "last_event_id": 7, "prompt": "a"}, None),
        (["session_id"], None),
    ],
)
def test_a_session_goes_on_where_it_was(body: object, last: str | None) -> None:
    """A session that is cut before its first event is resumed from the cursor in its body."""
    resumption = Resumption(httpx2.Request("POST", "http://gate.example/api/stream", json=body), PATIENCE)
    resumption.answer(_answer())
    assert resumption.resume_request().headers.get("Last-Event-ID") == last
