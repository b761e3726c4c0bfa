"""The frames of one attempt: which are delivered, held, hidden or joined, and which are an error."""

from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server.core.errors import Kind
from server.core.openai.chunks import MAX_CHOICES, well_formed
from server.core.openai.intake import MAX_HELD, MAX_HELD_BYTES, MAX_VALUES, Intake
from server.core.openai.sse import MAX_EVENT_BYTES
from server.core.openai.transcript import Transcript
from server.core.recovery.seam import Suppression, Trim

HEAD = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
DONE = b"data: [DONE]\n\n"


def chunk(content: Any = None, *, index: int = 0, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    """A chunk of one choice, as OpenAI sends it."""
    told = delta if content is None else {"content": content, **delta}
    return {**HEAD, "choices": [{"index": index, "delta": told, "finish_reason": finish}]}


def sse(*payloads: Any) -> bytes:
    """Payloads as a stream: bytes as they are, everything else as JSON."""
    data = [payload if isinstance(payload, bytes) else orjson.dumps(payload) for payload in payloads]
    return b"".join(b"data: " + one + b"\n\n" for one in data)


def intake(choices: int = 1, *, show_usage: bool = False, seam: Any = None, transcript: Any = None) -> Intake:
    return Intake(transcript or Transcript(choices), show_usage=show_usage, seam=seam)


def payloads(taken: Sequence[Any]) -> list[Any]:
    """Return what pieces say, after a check that their bytes and their parsed form agree."""
    assert all(orjson.loads(piece.data) == piece.chunk for piece in taken)
    return [piece.chunk for piece in taken]


ROLE = chunk("", role="assistant")
END = chunk(finish="stop")


# --- what is delivered -----------------------------------------------------------------------------------------------


def test_bytes_as_they_came() -> None:
    """A chunk goes out byte for byte: spaces, order of keys, escapes and unknown fields included."""
    odd = b'{ "choices":[ {"delta":{"content":"\\u00e9"}, "x": 1e2, "index":0}],"id":"c","new":{"a":[1,2]} }'
    for size in (1, 7, 10_000):
        one, data, pieces = intake(), sse(odd, odd), []
        for at in range(0, len(data), size):
            pieces += one.feed(data[at : at + size])
        assert [piece.data for piece in pieces] == [odd, odd]


@given(st.integers(1, 60), st.booleans())
def test_any_read_size(size: int, show_usage: bool) -> None:
    """Held, ordinary, usage and last chunks come out in order, however the reads split them."""
    stream = sse(ROLE, chunk("a"), chunk("b"), END, {**HEAD, "choices": [], "usage": USAGE}) + DONE
    one, pieces = intake(show_usage=show_usage), []
    for at in range(0, len(stream), size):
        pieces += one.feed(stream[at : at + size])
    wanted = [ROLE, chunk("a"), chunk("b"), END]
    assert payloads(pieces) == wanted + ([{**HEAD, "choices": [], "usage": USAGE}] if show_usage else [])
    assert one.done
    assert one.failure is None


LEGAL: list[Any] = [
    {**HEAD, "choices": []},
    {"choices": [], "prompt_filter_results": [{"prompt_index": 0}]},
    {"choices": [{}]},
    {"choices": [{"index": 0}]},
    {"choices": [{"index": 0, "delta": None}]},
    {"choices": [{"index": 0, "delta": []}]},
    {"choices": [{"index": None, "delta": {}}]},
    {"choices": [{"index": 0, "delta": {"content": None, "tool_calls": None}, "finish_reason": None}]},
    {"choices": [{"index": 0, "delta": {"content": None, "reasoning": ""}, "finish_reason": ""}]},
    {**chunk(), "usage": None, "error": None, "x_groq": {"id": 1}},
    {**chunk(), "id": 17, "created": "yesterday", "model": None},
    {**chunk(), "error": {}},
    {**chunk(), "error": ""},
    {**chunk(), "error": False},
    {**chunk(), "error": {"code": None, "message": ""}},
    {**chunk(), "base_resp": {"status_code": 0, "status_msg": ""}},
    b'{"choices":[{"index":0,"delta":{},"logprobs":{"content":[{"token":"a","logprob":-Infinity}]}}]}',
    b'{"choices":[{"index":0,"delta":{}}],"spent":NaN,"left":Infinity}',
    b'{"choices":[{"index":0,"delta":{"role":"assistant"},"name":"\\ud83d"}]}',
    b'{"choices":[{"index":0,"delta":{}}],"created":1e999,"big":' + b"9" * 40 + b"}",
]


@pytest.mark.parametrize("odd", LEGAL)
def test_odd_but_legal(odd: Any) -> None:
    """Null and missing fields, unknown ones and ids of any type are no garbage, before and after the first token."""
    one = intake()
    frames = [frame if isinstance(frame, bytes) else orjson.dumps(frame) for frame in (odd, chunk("a"), odd, END)]
    assert [piece.data for piece in one.feed(sse(*frames) + DONE)] == frames
    assert one.failure is None
    assert one.done


PASSED_OVER = {
    "Anthropic's ping": b'event: ping\ndata: {"type": "ping"}\n\n',
    "a heartbeat": b"event: heartbeat\ndata: {}\n\n",
    "a heartbeat that is not JSON": b"event: heartbeat\ndata: 17:04:11\n\n",
    "a keep-alive without data": b"event: keep-alive\ndata:\n\n",
    "another event, which looks like a chunk": b"event: progress\n" + sse(chunk("no")),
    "Anthropic's message_start": b'event: message_start\ndata: {"type":"message_start","message":{"id":"m"}}\n\n',
    "OpenRouter's comment": b": OPENROUTER PROCESSING\n\n",
    "empty data": b"data: \n\n",
    "blank data": b"data:  \n\n",
    "null": sse(None),
    "an empty object": sse({}),
    "an empty array": sse([]),
    "a type": sse({"type": "ping"}),
    "an id alone": sse({"id": "c-1", "object": "chat.completion.chunk"}),
    "choices: null": sse({**HEAD, "choices": None}),
    "an error that says nothing": sse({"error": None}),
    "Responses' event": sse({"type": "response.created", "response": {"id": "r"}}),
    "Gemini's own API": sse({"candidates": [], "modelVersion": "x"}),
    "cost": sse({"cost": 0.1, "provider": "x"}),
}


@pytest.mark.parametrize("what", PASSED_OVER)
@pytest.mark.parametrize("finished", [False, True])
def test_passed_over(what: str, finished: bool) -> None:
    """What is no chunk and no error is passed over wherever it comes, and is no sign of life."""
    one, before = intake(), [ROLE, chunk("a"), *([END] if finished else [])]
    assert one.feed(PASSED_OVER[what]) == []
    assert payloads(one.feed(sse(*before))) == before
    assert one.feed(PASSED_OVER[what]) == []
    assert one.failure is None
    assert not one.done


@pytest.mark.parametrize("frames", [b"event: done\ndata: [DONE]\n\n", b"data: [DONE] \n\n", b"data:[DONE]\n\n"])
def test_done_in_other_words(frames: bytes) -> None:
    """The SDK takes every event whose data begins with `[DONE]` for the end."""
    one = intake()
    one.feed(sse(chunk("a")) + frames)
    assert one.done


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_halves_of_surrogate_pairs(size: int) -> None:
    """A character that is cut in two goes through byte for byte, as tokens."""
    halves = [
        b'{"choices":[{"index":0,"delta":{"content":"\\ud83d%b"},"finish_reason":null}]}' % end for end in (b"", b"!")
    ]
    halves.append(halves[0].replace(b"ud83d", b"ude00"))
    one, data, pieces = intake(), sse(*halves, END), []
    for at in range(0, len(data), size):
        pieces += one.feed(data[at : at + size])
    assert [piece.data for piece in pieces[:3]] == halves
    assert one.transcript.tokens == 3
    assert one.failure is None


@pytest.mark.parametrize(
    "delta",
    [
        {"images": [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_500_000}}]},
        {"image": "A" * 1_500_000},
        {"role": "assistant", "content": "", "annotations": [{"type": "url_citation"}]},
        {"reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]},
        {"context": {"citations": []}},
        {"signature": "x"},
    ],
)
def test_more_than_a_role_is_a_token(delta: dict[str, Any]) -> None:
    """What a delta carries beside texts is a part of the answer: it is not held, however large it is."""
    one = intake()
    assert payloads(one.feed(sse(ROLE, chunk(**delta)))) == [ROLE, chunk(**delta)]
    assert one.failure is None


@pytest.mark.parametrize("prefix", [b"event: message\n", b"event: message\nid: x\n", b": ping\n\n", b"retry: 3000\n\n"])
def test_odd_but_legal_framing(prefix: bytes) -> None:
    """Names of events, ids, comments and retry lines around a chunk change nothing."""
    assert payloads(intake().feed(prefix + sse(chunk("a")))) == [chunk("a")]


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "x"},
        {"reasoning_content": "x"},
        {"reasoning": "x"},
        {"refusal": "x"},
        {"tool_calls": [{"index": 0, "function": {"arguments": ""}}]},
        {"function_call": {"name": "f"}},
        {"audio": {"id": "a"}},
        {"content": [{"type": "thinking", "thinking": []}]},
    ],
)
def test_first_token(delta: dict[str, Any]) -> None:
    """Content of any kind ends the holding. The frames that were held come first."""
    one = intake()
    assert one.feed(sse(ROLE, chunk(""))) == []
    assert not one.has_token
    assert payloads(one.feed(sse(chunk(**delta)))) == [ROLE, chunk(""), chunk(**delta)]
    assert one.has_token
    assert payloads(one.feed(sse(chunk("")))) == [chunk("")]


def test_finish_is_a_token() -> None:
    """An empty answer is an answer: its finish reason ends the holding."""
    one = intake()
    assert payloads(one.feed(sse(ROLE, END) + DONE)) == [ROLE, END]
    assert one.failure is None


def test_held_leave_no_trace() -> None:
    """An attempt that fails before its first token has delivered nothing and counted nothing."""
    transcript = Transcript()
    one = intake(transcript=transcript, show_usage=True)
    one.feed(sse(ROLE, {**HEAD, "choices": [], "usage": USAGE}, b"garbage"))
    assert one.failure is not None
    assert not transcript.begun
    assert not transcript.usage_shown


# --- usage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("show_usage", [True, False])
def test_usage_chunk(show_usage: bool) -> None:
    """The usage chunk is counted always, and goes out only to a client that asked."""
    transcript, extra = Transcript(), {**HEAD, "choices": [], "usage": USAGE}
    pieces = intake(show_usage=show_usage, transcript=transcript).feed(sse(chunk("a"), END, extra) + DONE)
    assert transcript.usage == USAGE
    assert transcript.usage_shown is show_usage
    assert payloads(pieces)[2:] == ([extra] if show_usage else [])


@pytest.mark.parametrize("extra", [{"usage": USAGE}, {**HEAD, "choices": None, "usage": USAGE}])
def test_usage_without_choices(extra: Any) -> None:
    """A usage object without `choices`, which clients stumble over, is counted, and told in the usual form."""
    transcript = Transcript()
    pieces = intake(show_usage=True, transcript=transcript).feed(sse(chunk("a"), END, extra) + DONE)
    assert payloads(pieces) == [chunk("a"), END]
    assert transcript.usage == USAGE
    assert not transcript.usage_shown


def test_usage_in_the_last_chunk() -> None:
    """Usage beside a finish reason (Mistral, Groq) is counted, and its chunk goes out as it is."""
    transcript, last = Transcript(), {**END, "usage": USAGE}
    assert payloads(intake(transcript=transcript).feed(sse(chunk("a"), last))) == [chunk("a"), last]
    assert transcript.usage == USAGE
    assert not transcript.usage_shown


@pytest.mark.parametrize("usage", [5, "many", [], ["x"], {"prompt_tokens": "3"}, True])
def test_odd_usage(usage: Any) -> None:
    """A usage object without counts is ignored, and does no harm."""
    transcript = Transcript()
    one = intake(transcript=transcript)
    one.feed(sse(chunk("a"), {**END, "usage": usage}, {**HEAD, "choices": [], "usage": usage}) + DONE)
    assert one.failure is None
    assert transcript.usage is None


# --- errors ----------------------------------------------------------------------------------------------------------

GARBAGE: list[Any] = [
    b"not json",
    b"[DONE",
    b'{"choices": [',
    b'{"choices": [{"delta": {"content": "\xff"}}]}',
    b"<html>",
    b"[" * 2000,
    b"\xef\xbb\xbf{}",
]
UNUSABLE: list[Any] = [
    1,
    "text",
    True,
    b"NaN",
    [chunk("a")],
    [1],
    {"choices": {"a": 1}},
    {"choices": "x"},
    {"choices": 1},
    {"choices": [None]},
    {"choices": ["x"]},
    {"choices": [[]]},
    {"choices": [{"delta": [1]}]},
    {"choices": [{"delta": "x"}]},
    {"choices": [{"delta": {"content": "a"}, "index": "0"}]},
    {"choices": [{"delta": {"content": "a"}, "index": [0]}]},
    {"choices": [{"delta": {"content": "a"}, "finish_reason": ["stop"]}]},
    {"choices": [{"delta": {"content": "a"}, "finish_reason": 1}]},
    {"choices": [{"delta": {"content": "a"}}, 5]},
]


@pytest.mark.parametrize("bad", GARBAGE + UNUSABLE)
@pytest.mark.parametrize("before", [[], [ROLE], [ROLE, chunk("a")]])
def test_garbage(before: list[Any], bad: Any) -> None:
    """A frame that cannot be read ends the attempt. The frames before it are delivered, those after it are not.

    JSON is the content of one answer, for which the circuit does not open. Anything else is garbage.
    """
    one = intake()
    pieces = one.feed(sse(*before, bad, chunk("lost"), END) + DONE)
    assert payloads(pieces) == (before if len(before) == 2 else [])
    assert one.failure is not None
    assert one.failure.kind is (Kind.GARBAGE if bad in GARBAGE else Kind.UNUSABLE)
    assert not one.done
    assert one.feed(sse(chunk("lost"))) == []


@pytest.mark.parametrize(
    ("frames", "kind", "message"),
    [
        (sse({"error": {"message": "boom", "code": 500}}), Kind.OVERLOADED, "boom"),
        (sse({"error": "boom"}), Kind.IN_BAND, "boom"),
        (sse({"error": True, "message": "boom"}), Kind.IN_BAND, "boom"),
        (sse({"error": {"code": 429, "message": "boom"}, "choices": [{}]}), Kind.RATE_LIMIT, "boom"),
        (sse({"object": "error", "message": "boom", "code": 400}), Kind.BAD_REQUEST, "boom"),
        (b"event: error\n" + sse({"message": "boom"}), Kind.IN_BAND, "boom"),
        (b"event: error\n" + sse({"error": {"type": "overloaded_error", "message": "boom"}}), Kind.IN_BAND, "boom"),
        (b"event: error\n" + sse(b"boom"), Kind.IN_BAND, "boom"),
        (b"event: error\n" + sse(b'"boom"'), Kind.IN_BAND, "boom"),
        (b"event: error\n" + sse(b""), Kind.IN_BAND, "The upstream reported an error."),
        (b"event: fault\n" + sse({"error": "boom"}), Kind.IN_BAND, "boom"),
        (sse([{"error": {"code": 500, "message": "boom"}}]), Kind.OVERLOADED, "boom"),
        (sse({"type": "error", "message": "boom"}), Kind.IN_BAND, "boom"),
        (sse({"choices": None, "base_resp": {"status_code": 1013, "status_msg": "boom"}}), Kind.IN_BAND, "boom"),
        (sse({"error": {"message": "maximum context length"}}), Kind.CONTEXT_LENGTH, "maximum context length"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("before", [[], [chunk("a")]])
def test_in_band_error(before: list[Any], frames: bytes, kind: Kind, message: str) -> None:
    """Every shape of an error in a 200 stream is that error, never a chunk and never success."""
    one = intake()
    assert payloads(one.feed(sse(*before) + frames + sse(chunk("lost")) + DONE)) == before
    assert one.failure is not None
    assert (one.failure.kind, one.failure.message) == (kind, message)
    assert not one.done


@pytest.mark.parametrize("bad", [b"garbage", {"error": {"message": "late"}}, {"choices": [5]}])
def test_fault_after_the_finish(bad: Any) -> None:
    """After every choice has finished, a fault ends the reading, but the answer is complete."""
    one = intake()
    assert payloads(one.feed(sse(chunk("a"), END, bad))) == [chunk("a"), END]
    assert one.failure is None
    assert one.done


@pytest.mark.parametrize("parsed", [True, False])
@pytest.mark.parametrize(
    "frame",
    [b": x\n", b"\r", b"a\n", b"data\n\n", b"data:  \n\n", b"event: x\ndata\n\n", b"event: x\ndata: {\n\n",
     b"data: {}\n\n", b'data: {"choices":[]}\n\n', sse(chunk("a")), sse(chunk("b", reasoning="c")),
     sse(chunk(index=1))],
)  # fmt: skip
def test_thousands_of_small_frames_in_one_read(frame: bytes, parsed: bool) -> None:
    """Such a read is parsed in steps. Each frame comes out once, in order, whatever comes behind them."""
    data = frame * (65_536 // len(frame)) + sse(chunk("z"), END) + b"data: [DONE]\n\n"
    one = Intake(Transcript(), show_usage=True, parsed=parsed)
    taken, steps = one.feed(sse(chunk("x"))), 0
    while data:
        before = len(data)
        taken += one.feed(data)
        data = one.take_unparsed()
        steps += 1
        assert len(data) < before
    assert one.done
    assert 1 <= steps <= 6
    whole = Intake(Transcript(), show_usage=True, parsed=True)
    expected = whole.feed(sse(chunk("x")))
    for _ in range(65_536 // len(frame)):
        expected += whole.feed(frame)
    expected += whole.feed(sse(chunk("z"), END) + b"data: [DONE]\n\n")
    assert [piece.data for piece in taken] == [piece.data for piece in expected]


@pytest.mark.parametrize(
    "fat",
    [b'{"choices":[%b{}]}' % (b"{}," * MAX_VALUES), b'{"choices":[{"delta":{}}],"x":[%b1]}' % (b"[]," * MAX_VALUES),
     b'{"error":[%b1]}' % (b"[]," * MAX_VALUES), b'{"choices":[%b{}]}' % (b"{}," * MAX_CHOICES)],
)  # fmt: skip
def test_frame_of_too_many_values(fat: bytes) -> None:
    """A frame of thousands of values or choices would take seconds: it fails before it is parsed, or looked through."""
    one = intake()
    pieces = one.feed(sse(chunk("a")) + b"data: " + fat + b"\n\n")
    assert payloads(pieces) == [chunk("a")]
    assert one.failure is not None
    assert one.failure.kind is Kind.UNUSABLE


def test_text_of_many_brackets() -> None:
    """What is in a text counts as no value: a frame may hold a program of a megabyte."""
    one, text = intake(), "[1,2],{}" * 100_000
    assert payloads(one.feed(sse(chunk(text)))) == [chunk(text)]


def test_event_too_large() -> None:
    """An event past the decoder's bound is a fault of this answer, after what came before it."""
    one = intake()
    pieces = one.feed(sse(chunk("a")) + b"data: ")
    for _ in range(MAX_EVENT_BYTES // 65_536 + 1):
        pieces += one.feed(b"x" * 65_536)
    assert payloads(pieces) == [chunk("a")]
    assert one.failure is not None
    assert one.failure.kind is Kind.UNUSABLE


@pytest.mark.parametrize("frame", [sse(ROLE), sse({**ROLE, "padding": "x" * 10_000})])
def test_held_are_bounded(frame: bytes) -> None:
    """Empty frames are held up to a number and a size. Above that the answer cannot be used."""
    one, fed = intake(), 0
    while one.failure is None:
        assert one.feed(frame) == []
        fed += 1
        assert fed <= MAX_HELD + 1
        assert fed * len(frame) < MAX_HELD_BYTES + 2 * len(frame)
    assert one.failure.kind is Kind.UNUSABLE


def test_many_that_say_nothing_later() -> None:
    """The bound is on what is held: after the first token nothing is."""
    one = intake()
    one.feed(sse(chunk("a")))
    assert sum(len(one.feed(sse(ROLE))) for _ in range(3 * MAX_HELD)) == 3 * MAX_HELD
    assert one.failure is None


# --- the end ---------------------------------------------------------------------------------------------------------


def test_nothing_after_done() -> None:
    """After `[DONE]` nothing counts, in the same read and in later ones."""
    one = intake()
    assert payloads(one.feed(sse(chunk("a"), END) + DONE + sse(chunk("late"), b"garbage"))) == [chunk("a"), END]
    assert one.done
    assert one.feed(sse(chunk("later"), b"garbage")) == []
    assert one.failure is None


def test_done_stands_for_a_finish() -> None:
    """`[DONE]` ends a text that has no finish reason. Without a token it ends nothing."""
    one = intake()
    one.feed(sse(chunk("a")) + DONE)
    assert one.done
    silent = intake()
    assert silent.feed(sse(ROLE) + DONE) == []
    assert silent.failure is not None
    assert silent.failure.kind is Kind.GARBAGE
    assert not silent.done


def test_end_of_the_body() -> None:
    """A body may end only when every choice that was asked for has finished."""
    one = intake(choices=2)
    error = one.at_end()
    assert error is not None
    assert error.kind is Kind.GARBAGE
    one.feed(sse(chunk("a"), chunk("b", index=1), chunk(index=1, finish="stop")))
    error = one.at_end()
    assert error is not None
    assert error.kind is Kind.TRUNCATED
    one.feed(sse(chunk(finish="length")))
    assert one.at_end() is None


def test_several_choices_in_one_chunk() -> None:
    """A chunk of several choices counts for each of them."""
    transcript = Transcript(3)
    both = {**HEAD, "choices": [chunk("a", index=i, finish="stop")["choices"][0] for i in range(3)]}
    assert payloads(intake(transcript=transcript).feed(sse(both))) == [both]
    assert transcript.finish == {0: "stop", 1: "stop", 2: "stop"}
    assert transcript.tokens == 3
    assert transcript.finished


# --- a later attempt -------------------------------------------------------------------------------------------------

OTHER = {"id": "c-2", "object": "chat.completion.chunk", "created": 2, "model": "other", "fingerprint": "f"}


def retold(*chunks: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**one, **OTHER} for one in chunks]


def recovering(**seam: Any) -> tuple[Intake, Transcript]:
    """An intake after `Hello, ` has been delivered by another attempt."""
    transcript = Transcript()
    intake(transcript=transcript).feed(sse(chunk("Hello"), chunk(", ")))
    return intake(transcript=transcript, show_usage=True, seam=Suppression({(0, "content"): "Hello, "})), transcript


def test_restart() -> None:
    """Text that was delivered is dropped. The rest goes out under the id of the first chunk."""
    one, transcript = recovering()
    assert one.feed(sse(*retold(ROLE, chunk("Hel")))) == []
    assert one.at_seam
    assert one.has_token
    assert payloads(one.feed(sse(*retold(chunk("lo, wo"), chunk("rld"))))) == [
        {**OTHER, **chunk("wo")},
        {**OTHER, **chunk("rld")},
    ]
    last = {**retold(END)[0], "usage": USAGE}
    assert payloads(one.feed(sse(last))) == [{**OTHER, **END, "usage": None}]
    assert one.feed(sse({**OTHER, "choices": [], "usage": {**USAGE, "completion_tokens": 9}}) + DONE) == []
    assert one.done
    assert transcript.usage == {**USAGE, "completion_tokens": 9}
    assert transcript.tokens == 4


def test_restart_diverges() -> None:
    """No character of a text goes out from the first one on that differs."""
    one, _ = recovering()
    assert one.feed(sse(*retold(chunk("Hel"), chunk("p!"), chunk("Hello, world"), END)) + DONE) == []
    assert one.failure is not None
    assert one.failure.kind is Kind.DIVERGED


def test_restart_ends_too_early() -> None:
    """`[DONE]` inside the delivered text, without a finish reason, is a divergence and no success."""
    one, _ = recovering()
    assert one.feed(sse(*retold(chunk("Hello"))) + DONE) == []
    assert one.failure is not None
    assert one.failure.kind is Kind.DIVERGED
    assert not one.done


def test_restart_says_nothing() -> None:
    """In a recovery, too, only a bounded number of frames with nothing but a role is held."""
    one, _ = recovering()
    for _ in range(MAX_HELD + 1):
        one.feed(sse(ROLE))
    assert one.failure is not None
    assert one.failure.kind is Kind.UNUSABLE


def test_continuation_held_text_at_done() -> None:
    """Text held back at the seam goes out at `[DONE]`, even without a finish reason."""
    transcript = Transcript()
    intake(transcript=transcript).feed(sse(chunk("Hello \n\n")))
    one = intake(transcript=transcript, seam=Trim("Hello \n\n", " \n\n"))
    assert one.feed(sse(*retold(chunk(" \n")))) == []
    pieces = payloads(one.feed(DONE))
    assert [piece["choices"][0]["delta"]["content"] for piece in pieces] == [" \n"]
    assert pieces[0]["id"] == "c-1"
    assert one.done


FIELDS = st.sampled_from(
    ["choices", "delta", "content", "index", "finish_reason", "usage", "error", "reasoning", "role"]
)
JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS | st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
CHOICES = st.fixed_dictionaries(
    {},
    optional={
        "index": JSONISH,
        "finish_reason": JSONISH,
        "delta": st.dictionaries(FIELDS, JSONISH, max_size=3),
        "logprobs": JSONISH,
    },
)
CHUNKS = st.fixed_dictionaries(
    {"choices": st.lists(CHOICES, max_size=3)}, optional={"usage": JSONISH, "error": JSONISH}
)
SEAMS = st.sampled_from(
    [
        lambda: None,
        lambda: Suppression({(0, "content"): "ab", (1, "reasoning"): "c"}, {2: "stop"}),
        lambda: Trim("a long text. a long text. ", " ", echo=True),
        lambda: Trim("a long text. a long text. ", " ", turn=True),
    ]
)


@given(st.lists(CHUNKS | JSONISH, max_size=6), SEAMS, st.booleans())
def test_any_json(said: list[Any], seam: Any, show_usage: bool) -> None:
    """Whatever JSON comes, an intake takes it or sets `failure`: it never raises, with no seam and with any."""
    transcript = Transcript(2)
    one = intake(transcript=transcript, seam=seam(), show_usage=show_usage)
    try:
        frames = sse(*said)
    except TypeError:  # an integer that orjson does not write
        return
    payloads(one.feed(sse(chunk("a")) + frames + DONE))
    sorted(transcript.finish.values())  # the reasons can be joined into one text


FIRST = b'data: {"choices":[{"index":0,"delta":{"content":"first"},"finish_reason":null}]}\n\n'
ODD = st.sampled_from([None, "", 0, 1, True, [], ["x"], {}, {"a": 1}, "x", "stop", 1.5])
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "delta": st.fixed_dictionaries(
            {}, optional={"content": ODD, "role": ODD, "reasoning_content": ODD, "tool_calls": ODD}
        )
        | ODD,
        "index": ODD,
        "finish_reason": ODD,
    },
)
FRAMES = st.fixed_dictionaries(
    {},
    optional={
        "choices": st.lists(FIELDS | ODD, max_size=2) | ODD,
        "usage": ODD,
        "error": ODD,
        "object": st.sampled_from(["error", "chat.completion.chunk", None]),
    },
)


@given(FRAMES | ODD)
@example({"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}]})
@example({"choices": {"delta": 1}})
def test_the_short_way_of_a_token_is_the_long_way(frame: object) -> None:
    """A frame alone in a read may go the short way. It means the same as if it came in pieces."""

    def outcome(*reads: bytes) -> tuple[object, ...]:
        transcript = Transcript()
        one = Intake(transcript, show_usage=True)
        said = one.feed(FIRST)
        for read in reads:
            said = said + one.feed(read)
        failure = one.failure and (one.failure.kind, one.failure.message)
        counted = (transcript.tokens, transcript.finish, transcript.reasoning, transcript.calls, transcript.usage)
        return said, failure, one.done, counted

    data = b"data: " + orjson.dumps(frame) + b"\n\n"
    assert outcome(data) == outcome(data[:-1], data[-1:])


@given(FRAMES | ODD)
@example({"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}]})
@example({"choices": [{"index": True, "delta": {"content": "x"}, "finish_reason": None}]})
def test_what_counts_as_a_plain_token_is_well_formed_and_counted_alike(frame: Any) -> None:
    """A frame that the stencil takes for a token would pass the whole check, and be counted the same."""
    glance, whole = Transcript(), Transcript()
    if glance.observe_token(frame):
        assert well_formed(frame)
        assert not frame.get("error")
        assert frame.get("object") != "error"
        whole.observe(frame)
        facts = ("tokens", "finish", "reasoning", "calls", "usage", "usage_shown")
        assert [getattr(glance, name) for name in facts] == [getattr(whole, name) for name in facts]
    else:
        assert glance.tokens == 0
