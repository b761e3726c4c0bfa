"""What providers send beside OpenAI's own shape, byte for byte on the wire: none of it costs an attempt."""

import json

import pytest
from raw_upstream import CHUNK, HELLO, RawUpstream, gateway_over, refusal
from wire import call, complete, texts

END = CHUNK + b'"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


def x(text: bytes) -> bytes:
    """Return the frame of a chunk with this content, as JSON writes it."""
    return CHUNK + b'"delta":{"content":"' + text + b'"},"finish_reason":null}]}\n\n'


def sse(*frames: bytes, kind: bytes = b"Content-Type: text/event-stream\r\n") -> bytes:
    """Return a whole answer with these frames and an ending."""
    return b"HTTP/1.1 200 OK\r\n" + kind + b"Connection: close\r\n\r\n" + b"".join(frames) + END


PING = b'event: ping\ndata: {"type": "ping"}\n\n'
NO_CHOICES = b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m"}\n\n'
USAGE_ONLY = b'data: {"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}\n\n'


@pytest.mark.parametrize("odd", [PING, NO_CHOICES, USAGE_ONLY, b"data:\n\n", b'data: {"error": null}\n\n'])
async def test_frames_that_are_no_chunk(odd) -> None:
    """They are passed over, before the first token and after it, and take no record."""
    upstream = RawUpstream(sse(odd, x(b"he"), odd, x(b"llo"), odd))
    async with gateway_over(upstream) as gateway:
        answer = await complete(gateway.root, "m")
    assert answer.status == 200
    assert texts(answer.events) == ["he", "llo"]
    assert [event.id for event in answer.events] == [1, 2, 3, 4]
    assert len(upstream.bodies) == 1


async def test_usage_alone_is_the_usage() -> None:
    """A usage object without `choices` is counted, and a client that asked for it gets a chunk that its SDK reads."""
    async with gateway_over(RawUpstream(sse(x(b"a"), USAGE_ONLY))) as gateway:
        answer = await complete(gateway.root, "m", stream_options={"include_usage": True})
    usage = json.loads(answer.events[-2].data)
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 4)


IMAGE = (
    CHUNK
    + b'"delta":{"images":[{"type":"image_url","image_url":{"url":"data:image/png;base64,'
    + b"A" * 1_500_000
    + b'"}}]},"finish_reason":null}]}\n\n'
)
LOGPROBS = CHUNK + (
    b'"delta":{"content":"a"},"finish_reason":null,'
    b'"logprobs":{"content":[{"token":"a","logprob":-Infinity,"top_logprobs":[{"token":"b","logprob":NaN}]}]}}]}\n\n'
)
READ_BY_THE_SDK = {
    "halves of surrogate pairs": [x(b"\\ud83d"), x(b"\\ude00")],
    "half of a pair alone": [x(b"a\\ud83d")],
    "-Infinity and NaN": [LOGPROBS],
    "Infinity": [CHUNK + b'"delta":{"content":"a"},"finish_reason":null}],"took":Infinity}\n\n'],
    "an image before any text": [IMAGE, x(b"Here.")],
    "an image between texts": [x(b"Look: "), IMAGE, x(b"Here.")],
}


@pytest.mark.parametrize("what", READ_BY_THE_SDK)
async def test_what_the_sdk_reads(what) -> None:
    """Halves of surrogate pairs, odd numbers and large images go through byte for byte, live and later."""
    frames = READ_BY_THE_SDK[what]
    upstream = RawUpstream(sse(*frames))
    async with gateway_over(upstream) as gateway:
        answer = await complete(gateway.root, "m")
        again = await call(gateway.root, "GET", f"/v1/streams/{answer.headers['x-stream-id']}")
        native = await call(gateway.root, "GET", f"/v1/streams/{answer.headers['x-stream-id']}?format=native")
    sent = [frame.removeprefix(b"data: ").strip() for frame in frames]
    assert [event.data for event in answer.events[: len(sent)]] == sent
    assert answer.events[-1].data == b"[DONE]"
    assert again.body == answer.body
    assert json.loads(native.events[-1].data)["status"] == "complete"
    assert len(upstream.bodies) == 1


async def test_whole_answer_with_infinity() -> None:
    """An answer that is not streamed is its upstream's JSON, byte for byte, with `-Infinity` too."""
    body = b'{"choices":[{"index":0,"message":{"content":"\\ud83d"},"logprobs":-Infinity,"finish_reason":"stop"}]}'
    async with gateway_over(RawUpstream(refusal(200, body))) as gateway:
        answer = await complete(gateway.root, "m", stream=False)
    assert (answer.status, answer.body) == (200, body)


LABELS = [b"application/json", b"text/plain; charset=utf-8", b"application/x-ndjson", b"application/octet-stream", b""]


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("opening", [b"", b"\n\n", b"\xef\xbb\xbf", b": hello\n\n", PING])
async def test_stream_under_another_label(label, opening) -> None:
    """SSE is SSE, whatever its `Content-Type` says."""
    kind = b"Content-Type: " + label + b"\r\n" if label else b""
    async with gateway_over(RawUpstream(sse(opening, x(b"hello"), kind=kind))) as gateway:
        answer = await complete(gateway.root, "m")
    assert (answer.status, texts(answer.events)) == (200, ["hello"])


ERRORS = [
    b'{"error": {"message": "No such voice.", "type": "invalid_request_error", "code": "bad_voice"}}',
    b'[{"error": {"message": "No such voice.", "code": 400}}]',
    b'\n {"object": "error", "message": "No such voice.", "code": 400}',
]


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream", "text/plain"])
@pytest.mark.parametrize("body", ERRORS)
async def test_json_instead_of_a_stream(kind, body) -> None:
    """JSON is the error that it says, under any label."""
    async with gateway_over(RawUpstream(refusal(200, body, kind=kind)), recovery={"strategy": "none"}) as gateway:
        answer = await complete(gateway.root, "m")
    assert answer.status >= 400
    assert answer.error["message"] == "No such voice."


async def test_json_that_is_no_error() -> None:
    """A whole answer to a streaming request is no stream, and the client is told so."""
    body = b'{"choices":[{"index":0,"message":{"content":"hello"},"finish_reason":"stop"}]}'
    async with gateway_over(RawUpstream(refusal(200, body)), recovery={"strategy": "none"}) as gateway:
        answer = await complete(gateway.root, "m")
    assert (answer.status, answer.error["code"]) == (502, "upstream_garbage")
    assert "with JSON" in answer.error["message"]


UNUSABLE = b'HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\ndata: {"choices": [5]}\n\n'


async def test_one_answer_opens_no_circuit() -> None:
    """Answers that cannot be used are the fault of what was asked: the model stays there for everybody."""
    odd = [UNUSABLE] * 8
    breaker = {"strategy": "none", "breaker_failures": 2}
    async with gateway_over(RawUpstream(*odd, HELLO), RawUpstream(HELLO), recovery=breaker) as gateway:
        for number in range(8):
            answer = await complete(gateway.root, "m", user=str(number))
            assert (answer.status, answer.error["code"]) == (502, "upstream_unusable_answer")
        answer = await complete(gateway.root, "m")
    assert (answer.status, answer.headers["x-sluiceway-target"]) == (200, "a/m")
