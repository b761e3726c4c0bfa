"""A restart tells nothing twice: pictures, annotations and signatures, as their bytes come from the upstream."""

import json

import pytest
from raw_upstream import CHUNK, RawUpstream, gateway_over
from wire import call, complete

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n"
CUT = HEAD + b"Content-Length: 9999999\r\n\r\n"  # its body never comes to that
END = CHUNK + b'"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


def delta(fields: bytes) -> bytes:
    """Return the frame of a chunk with these fields in its delta."""
    return CHUNK + b'"delta":{' + fields + b'},"finish_reason":null}]}\n\n'


ONE, TWO = delta(b'"content":"one "'), delta(b'"content":"two"')
IMAGE = delta(b'"images":[{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]')
ANOTHER = IMAGE.replace(b"AAAA", b"BBBB")
ITEMS = {
    "an image": (IMAGE, IMAGE, b"AAAA"),
    "an image that came out differently": (IMAGE, ANOTHER, b"AAAA"),
    "an annotation": (delta(b'"annotations":[{"type":"url_citation"}]'),) * 2 + (b"url_citation",),
    "a signature": (delta(b'"signature":"c2ln"'),) * 2 + (b"c2ln",),
    "a context": (delta(b'"context":{"citations":["doc1"]}'),) * 2 + (b"doc1",),
}


@pytest.mark.parametrize("what", ITEMS)
@pytest.mark.parametrize("order", ["after the text", "before the text", "alone"])
@pytest.mark.parametrize("path", ["chat", "native"])
async def test_once(what, order, path) -> None:
    """What was delivered before the cut does not come again, whether text was delivered or not."""
    first, again, mark = ITEMS[what]
    before = {"after the text": (ONE, first), "before the text": (first, ONE), "alone": (first,)}[order]
    retold = {"after the text": (ONE, again), "before the text": (again, ONE), "alone": (again, ONE)}[order]
    upstream = RawUpstream(CUT + b"".join(before), HEAD + b"\r\n" + b"".join(retold) + TWO + END)
    async with gateway_over(upstream) as gateway:
        if path == "chat":
            answer = await complete(gateway.root, "m")
        else:
            answer = await native(gateway.root)
    assert len(upstream.bodies) == 2
    assert answer.status == 200
    assert answer.body.count(mark) == 1
    assert b"BBBB" not in answer.body
    assert text_of(answer) == "one two"


async def native(root: str):
    """Ask for a stream of the native protocol."""
    return await call(root, "POST", "/api/stream", {"model": "m", "prompt": "Say it."})


def text_of(answer) -> str:
    """Return the text of an answer in either protocol."""
    parsed = [json.loads(event.data) for event in answer.events if event.data != b"[DONE]"]
    if "type" in parsed[0]:
        return "".join(event["content"] for event in parsed if event["type"] == "token")
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in parsed)


async def test_log_probabilities_that_are_none() -> None:
    """After a recovery a number that JSON does not have is still what the upstream said."""
    odd = (
        CHUNK + b'"delta":{"content":"two"},"logprobs":{"content":[{"logprob":-Infinity}]},"finish_reason":null}]}\n\n'
    )
    async with gateway_over(RawUpstream(CUT + ONE, HEAD + b"\r\n" + ONE + odd + END)) as gateway:
        answer = await complete(gateway.root, "m")
    assert text_of(answer) == "one two"
    assert b'"logprob":-Infinity' in answer.body


async def test_half_of_a_character() -> None:
    """A cut between the halves of a surrogate pair joins to an attempt that sends the character whole."""
    half, whole = delta(b'"content":"one \\ud83d"'), delta('"content":"one \N{SLIGHTLY SMILING FACE}two"'.encode())
    async with gateway_over(RawUpstream(CUT + half, HEAD + b"\r\n" + whole + END)) as gateway:
        answer = await complete(gateway.root, "m")
    text = text_of(answer).encode("utf-16", "surrogatepass").decode("utf-16")
    assert text == "one \N{SLIGHTLY SMILING FACE}two"


@pytest.mark.parametrize("form", ["assistant", "user_turn", "continue_final_message"])
async def test_continuation_after_half_of_a_character(form) -> None:
    """The half is not given to the upstream, which cannot hold it; the character that comes again is joined to it."""
    half, rest = delta(b'"content":"one \\ud83d"'), delta('"content":"\N{SLIGHTLY SMILING FACE}two"'.encode())
    upstream = RawUpstream(CUT + half, HEAD + b"\r\n" + rest + END)
    async with gateway_over(upstream, settings={"continuation": form}, recovery={"strategy": "continue"}) as gateway:
        answer = await complete(gateway.root, "m")
    text = text_of(answer).encode("utf-16", "surrogatepass").decode("utf-16")
    assert text == "one \N{SLIGHTLY SMILING FACE}two"
