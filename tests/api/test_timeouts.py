"""The four timeouts, each with its own code: before the opening a 504, after it in-band."""

import asyncio
import json
import socket
import time

import pytest
from gateway import in_process
from wire import Client, complete, texts


@pytest.fixture
def full_backlog():
    """The port of a server that accepts nobody: a connection to it hangs."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = []
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
            waiting.append(sock)
        time.sleep(0.1)
        yield listener.getsockname()[1]
        for sock in waiting:
            sock.close()


@pytest.mark.parametrize("stream", [True, False])
async def test_connect(full_backlog, model, stream) -> None:
    """An upstream that cannot be connected in time is 504, with a code of its own."""
    async with in_process(f"http://127.0.0.1:{full_backlog}/v1", upstream={"connect_timeout": 0.4}) as gateway:
        answer = await complete(gateway.root, model, stream=stream)
        assert (answer.status, answer.error["code"]) == (504, "upstream_connect_timeout")


@pytest.mark.parametrize("comments", [0.0, 0.05])
async def test_idle(provider, model, comments) -> None:
    """Between two tokens there are idle_timeout seconds; comments do not count as tokens."""
    await provider.script(model, {"stall_after": 3, "comments": comments})
    async with in_process(provider.url, upstream={"idle_timeout": 0.5}) as gateway:
        began = time.monotonic()
        events = (await complete(gateway.root, model)).events
        assert time.monotonic() - began >= 0.5
        assert len(texts(events[:-1])) == 3
        assert b'"code":"upstream_idle_timeout"' in events[-1].data
        await provider.closed(model)


async def test_idle_starts_anew_with_each_token(provider, model) -> None:
    """A stream much longer than idle_timeout is whole, as long as its tokens keep coming."""
    await provider.script(model, {"tokens": 30, "rate": 10})
    async with in_process(provider.url, upstream={"idle_timeout": 1.0, "ttft_timeout": 1.0}) as gateway:
        assert len(texts((await complete(gateway.root, model)).events)) == 30


async def test_role_is_no_token(provider, model) -> None:
    """The head and the role chunk are no first token: ttft_timeout goes on."""
    await provider.script(model, {"ttft": 5.0})
    async with in_process(provider.url, upstream={"ttft_timeout": 0.4, "idle_timeout": 60.0}) as gateway:
        answer = await complete(gateway.root, model)
        assert (answer.status, answer.error["code"]) == (504, "upstream_ttft_timeout")


@pytest.mark.parametrize("stall", [0, 3])
async def test_total(provider, model, stall) -> None:
    """total_timeout ends the whole stream, before the opening with 504 and after it in-band."""
    await provider.script(model, {"stall_after": stall, "comments": 0.05})
    async with in_process(provider.url, streams={"total_timeout": 0.6}) as gateway:
        answer = await complete(gateway.root, model)
        if stall:
            assert b'"code":"total_timeout"' in answer.events[-1].data
        else:
            assert (answer.status, answer.error["code"]) == (504, "total_timeout")
        await gateway.idle()
    assert len(await provider.all_over(model)) == 1


async def test_total_while_paused(provider, model) -> None:
    """total_timeout also ends a stream that its own reader holds back."""
    await provider.script(model, {"tokens": 100_000, "big": 1000})
    async with in_process(provider.url, streams={"total_timeout": 1.0}) as gateway, Client(gateway.root) as client:
        await client.complete(model)
        await client.head()
        await gateway.idle_streams()
        await asyncio.sleep(0)
        assert b'"code":"total_timeout"' in (await client.rest())[-1].data


async def test_total_over_all_attempts(provider, model) -> None:
    """Attempts share the total: the waiting between them counts."""
    await provider.script(model, {"status": 500})
    tables = {"recovery": {"strategy": "auto", "backoff": 0.4, "max_retries": 9}, "streams": {"total_timeout": 1.0}}
    async with in_process(provider.url, **tables) as gateway:
        began = time.monotonic()
        answer = await complete(gateway.root, model)
        assert answer.status in (500, 504)
        assert time.monotonic() - began < 3


EMPTY = {
    "nothing": {"delta": {}},
    "a role": {"delta": {"role": "assistant"}},
    "an empty text": {"delta": {"role": "assistant", "content": ""}},
    "null": {"delta": {"content": None}},
    "a call of nothing": {"delta": {"tool_calls": [{"index": 0, "type": "function", "function": {"arguments": ""}}]}},
    "an empty part": {"delta": {"content": [{"type": "text", "text": ""}]}},
}


def said(choice: dict, **fields: object) -> str:
    """Give a chunk with one choice."""
    choices = [{"index": 0, "finish_reason": None, **choice}]
    return json.dumps({"id": "c", "object": "chat.completion.chunk", "choices": choices, **fields})


TOKENS = [said({"delta": {"content": f"{n} "}}) for n in range(3)]


@pytest.mark.parametrize("name", EMPTY)
async def test_an_empty_delta_is_no_token(provider, model, name) -> None:
    """Deltas that bring nothing of the answer do not keep a stream from its idle_timeout."""
    await provider.script(model, {"chunks": [*TOKENS, *[said(EMPTY[name])] * 2000], "rate": 20})
    async with in_process(provider.url, upstream={"idle_timeout": 0.5}) as gateway:
        events = (await complete(gateway.root, model)).events
        assert [text for text in texts(events[:-1]) if isinstance(text, str)] == ["0 ", "1 ", "2 "]
        assert b'"code":"upstream_idle_timeout"' in events[-1].data


FULL = {
    "reasoning": {"delta": {"reasoning_content": "hm"}},
    "a call": {"delta": {"tool_calls": [{"index": 0, "function": {"arguments": "1"}}]}},
    "a part": {"delta": {"content": [{"type": "text", "text": "x"}]}},
    "a field that we do not know": {"delta": {"images": [{"url": "data:"}]}},
    "a thought with stop": {"delta": {"reasoning_content": "hm"}, "finish_reason": "stop"},
}


@pytest.mark.parametrize("name", FULL)
async def test_any_part_of_an_answer_is_a_token(provider, model, name) -> None:
    """Thoughts, calls and unknown fields are parts of the answer. Gemini sends `stop` with each of its thoughts."""
    chunks = [*[said(FULL[name])] * 30, TOKENS[0], said({"delta": {}, "finish_reason": "stop"})]
    await provider.script(model, {"chunks": chunks, "rate": 20})
    async with in_process(provider.url, upstream={"idle_timeout": 0.7}) as gateway:
        events = (await complete(gateway.root, model)).events
    assert len(events) == 33
    assert events[-1].data == b"[DONE]"


@pytest.mark.parametrize("after", ["stop", "usage"])
async def test_nothing_after_the_finish_holds_the_stream(provider, model, after) -> None:
    """A finish reason or a usage that is sent again and again ends the stream as complete, a moment after the first."""
    stop = said({"delta": {}, "finish_reason": "stop"})
    again = stop if after == "stop" else json.dumps({"id": "c", "choices": [], "usage": {"prompt_tokens": 1}})
    await provider.script(model, {"chunks": [*TOKENS, stop, *[again] * 2000], "rate": 10})
    async with in_process(provider.url) as gateway:
        async with asyncio.timeout(15):
            events = (await complete(gateway.root, model)).events
        await gateway.idle()
    assert events[-1].data == b"[DONE]"
