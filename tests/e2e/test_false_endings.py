"""Finish reasons as providers send them, byte for byte on the wire: false ends, failures and words of their own."""

import asyncio
import json

import pytest
from raw_upstream import CHUNK, RawUpstream, gateway_over, refusal
from wire import call, complete, texts

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def x(text: str, reason: str = "") -> bytes:
    """Return the frame of a chunk with this content, and a finish reason if there is one."""
    return CHUNK + b'"delta":{"content":"%b"},"finish_reason":%b}]}\n\n' % (text.encode(), _json(reason))


def end(reason: str) -> bytes:
    """Return the frame of a chunk with nothing but a finish reason."""
    return CHUNK + b'"delta":{},"finish_reason":%b}]}\n\n' % _json(reason)


def _json(reason: str) -> bytes:
    return json.dumps(reason or None).encode()


class Slow(RawUpstream):
    """Sends its frames with `pause` seconds between them, and then `last`. Without `last` it stays silent."""

    def __init__(self, *frames: bytes, pause: float, last: bytes = b"") -> None:
        super().__init__(HEAD)
        self._frames, self._pause, self._last = frames, pause, last

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        await super().serve(reader, writer)
        for number, frame in enumerate(self._frames):
            await asyncio.sleep(self._pause if number else 0)
            writer.write(frame)
        writer.write(self._last)
        if not self._last:
            await reader.read()  # until the gateway leaves


async def state_of(root: str, answer) -> dict:
    """Return the state of the stream of an answer."""
    path = f"/v1/streams/{answer.headers['x-stream-id']}"
    return (await call(root, "GET", path, headers={"Accept": "application/json"})).json


@pytest.mark.parametrize("last", [DONE, b""])
async def test_a_finish_reason_in_every_chunk(last) -> None:
    """Gemini says `stop` in every chunk: each that says more restarts the second of silence."""
    upstream = Slow(*(x(f"p{number}", "stop") for number in range(5)), pause=0.6, last=last)
    async with gateway_over(upstream) as gateway:
        answer = await complete(gateway.root, "m")
        assert texts(answer.events) == ["p0", "p1", "p2", "p3", "p4"]
        assert answer.events[-1].data == DONE[6:-2]
        assert (await state_of(gateway.root, answer))["state"] == "complete"
    assert len(upstream.bodies) == 1


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
async def test_a_finish_reason_beside_thoughts(name) -> None:
    """`stop` beside thoughts alone ends nothing: the answer may come later than a second after it."""
    hmm = CHUNK + b'"delta":{"%b":"hmm"},"finish_reason":"stop"}]}\n\n' % name.encode()
    async with gateway_over(Slow(hmm, x("The answer.", "stop"), pause=1.5, last=DONE)) as gateway:
        answer = await complete(gateway.root, "m")
    assert texts(answer.events) == ["The answer."]
    assert answer.events[-1].data == b"[DONE]"


async def test_thoughts_that_were_cut_short() -> None:
    """Thoughts that used up all tokens are the end: the client need not wait for the idle timeout."""
    hmm = CHUNK + b'"delta":{"reasoning_content":"hmm"},"finish_reason":"length"}]}\n\n'
    async with gateway_over(Slow(hmm, pause=0), settings={"idle_timeout": 600.0}) as gateway:
        answer = await complete(gateway.root, "m")
        assert (await state_of(gateway.root, answer))["state"] == "incomplete"


@pytest.mark.parametrize("fault", [b"", b"data: garbage\n\n", b'data: {"error": {"message": "boom"}}\n\n'])
async def test_a_fault_after_thoughts(fault) -> None:
    """A cut or an error after `stop` beside thoughts alone is a failure: the answer is still missing."""
    hmm = CHUNK + b'"delta":{"reasoning":"hmm"},"finish_reason":"stop"}]}\n\n'
    head = HEAD.replace(b"\r\n\r\n", b"\r\nContent-Length: 999999\r\n\r\n")  # its body never comes to that
    upstream = RawUpstream(head + hmm + fault, HEAD + hmm + x("The answer.", "stop") + DONE)
    async with gateway_over(upstream) as gateway:
        answer = await complete(gateway.root, "m")
    assert texts(answer.events) == ["The answer."]
    assert answer.body.count(b"hmm") == 1
    assert len(upstream.bodies) == 2


async def test_several_choices() -> None:
    """The second of silence begins when the last choice has finished; more of an earlier one is still delivered."""
    other = x("b", "stop").replace(b'"index":0', b'"index":1')
    upstream = Slow(x("a", "stop"), other, x("aa", "length"), pause=0.7)
    async with gateway_over(upstream) as gateway:
        answer = await complete(gateway.root, "m", n=2)
        state = await state_of(gateway.root, answer)
    assert (texts(answer.events), texts(answer.events, choice=1)) == (["a", "aa"], ["b"])
    assert state["state"] == "incomplete"  # the last word of each choice counts


FAILURES = [
    *("abort", "error", "ERROR", "network_error", "insufficient_system_resource", "MALFORMED_FUNCTION_CALL"),
]


@pytest.mark.parametrize("reason", FAILURES)
@pytest.mark.parametrize("before", [b"", x("The answer is for")])
async def test_failures(reason, before) -> None:
    """A finish reason that means failure recovers as one: `b` gives the rest, and no client sees the word."""
    a, b = (
        RawUpstream(HEAD + before + end(reason) + DONE),
        RawUpstream(HEAD + x("The answer is forty-two.", "stop") + DONE),
    )
    async with gateway_over(a, b, recovery={"max_retries": 0}) as gateway:
        answer = await complete(gateway.root, "m")
        state = await state_of(gateway.root, answer)
    assert "".join(texts(answer.events)) == "The answer is forty-two."
    assert answer.events[-1].data == b"[DONE]"
    assert reason.encode() not in answer.body
    assert (state["state"], state["target"]) == ("complete", "b/m")


@pytest.mark.parametrize("reason", FAILURES)
async def test_failures_whole(reason) -> None:
    """So does an answer that is not streamed."""
    body = b'{"choices":[{"index":0,"message":{"content":"The answer is for"},"finish_reason":"%b"}]}'
    a, b = RawUpstream(refusal(200, body % reason.encode())), RawUpstream(refusal(200, body % b"stop"))
    async with gateway_over(a, b, recovery={"max_retries": 0}) as gateway:
        answer = await complete(gateway.root, "m", stream=False)
    assert (answer.status, answer.body) == (200, body % b"stop")


async def test_nobody_else() -> None:
    """Without anybody who could do better, the client gets the error, and no `[DONE]`."""
    error = b'"error":{"code":502,"message":"Provider disconnected."}'
    broken = end("error").replace(b'"delta"', error + b',"delta"')
    async with gateway_over(RawUpstream(HEAD + x("The") + broken), recovery={"strategy": "none"}) as gateway:
        answer = await complete(gateway.root, "m")
        state = await state_of(gateway.root, answer)
    assert json.loads(answer.events[-1].data)["error"]["message"] == "Provider disconnected."
    assert state["state"] == "failed"


@pytest.mark.parametrize("reason", ["model_length", "max_tokens", "MAX_TOKENS", "SAFETY", "content_filter", "length"])
@pytest.mark.parametrize("stream", [True, False])
async def test_cut_short(reason, stream) -> None:
    """A limit or a filter, in whatever word, makes the stream incomplete; the client gets the upstream's word."""
    whole = b'{"choices":[{"index":0,"message":{"content":"a"},"finish_reason":"%b"}]}' % reason.encode()
    said = HEAD + x("a") + end(reason) + DONE if stream else refusal(200, whole)
    async with gateway_over(RawUpstream(said)) as gateway:
        answer = await complete(gateway.root, "m", stream=stream)
        assert answer.status == 200
        assert reason.encode() in answer.body
        assert (await state_of(gateway.root, answer))["state"] == "incomplete"
