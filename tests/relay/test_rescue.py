"""Failures in the middle of a stream, through a running relay: the caller gets one whole text or one honest error."""

import asyncio
import json

import pytest
from targets import TEXT60, gateway_with_targets, requests_per_target, until_counted
from wire import Client, call, complete, texts, until

UNICODE = [f"wörter-{i}-水🌊é " for i in range(30)]
STATE = {"Accept": "application/json"}


def ending(answer) -> dict:
    """Return the error event that ends a stream."""
    assert answer.events[-1].data != b"[DONE]"
    return json.loads(answer.events[-1].data)["error"]


def check_whole(answer, text: str) -> None:
    """Check that the text came whole, once, in order, under one id and ids without a gap."""
    assert answer.status == 200
    assert "".join(texts(answer.events)) == text
    assert [event.id for event in answer.events] == list(range(1, len(answer.events) + 1))
    assert answer.events[-1].data == b"[DONE]"
    chunks = [json.loads(event.data) for event in answer.events[:-1]]
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    assert sum("role" in choice["delta"] for chunk in chunks for choice in chunk["choices"]) == 1


FAULTS = {
    "in-band error first": {"error_at": 0},
    "in-band error after content": {"error_at": 7},
    "clean end without a finish reason": {"eof_after": 7, "done": False},
    "clean end without a token": {"eof_after": 0},
    "cut": {"cut_after": 7},
    "reset": {"reset_after": 7},
    "reset inside a character": {"pieces": UNICODE, "reset_in_utf8_at": 7},
    "reset inside a character, bytes one by one": {"pieces": UNICODE, "reset_in_utf8_at": 7, "split": "byte"},
    "garbage": {"garbage_at": 7},
    "too short a body": {"content_length": "lie_long", "done": False, "finish": None},
    "no answer but JSON": {"json_body": {"id": "x"}},
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("by", ["the same target", "another one"])
async def test_absorbed(provider, model, fault, by) -> None:
    """Each of these faults is absorbed, whether the same target does better next time or only another one does."""
    say = {"pieces": fault["pieces"]} if "pieces" in fault else {"tokens": 60}
    broken, better = {**say, **fault}, say
    calls = [broken, better] if by == "the same target" else [broken]
    await provider.script(f"{model}-1", *calls)
    await provider.script(f"{model}-2", better)
    async with gateway_with_targets(provider, model, one={"idle_timeout": 1.0}) as gateway:
        answer = await complete(gateway.root, model)
    check_whole(answer, "".join(UNICODE) if "pieces" in fault else TEXT60)
    first, second = await requests_per_target(provider, model)
    assert (first > 1, second) == ((True, 0) if by == "the same target" else (first > 1, 1))


@pytest.mark.parametrize("fault", [{"stall_after": 20}, {"stall_after": 20, "comments": 0.05}])
async def test_stall_goes_to_another(provider, model, fault) -> None:
    """A target that goes silent in the middle, though it still sends comments, is left while another is there."""
    await provider.script(f"{model}-1", {"tokens": 60, **fault})
    await provider.script(f"{model}-2", {"tokens": 60})
    async with gateway_with_targets(provider, model, one={"idle_timeout": 0.2}) as gateway:
        check_whole(await complete(gateway.root, model), TEXT60)
    assert await requests_per_target(provider, model) == [1, 1]


async def test_bad_chunk_header(provider, model) -> None:
    """Broken HTTP in the middle, after which aiohttp's parser may stay silent for ever, is absorbed all the same."""
    await provider.script(f"{model}-1", {"tokens": 60, "bad_chunk_header_at": 20})
    await provider.script(f"{model}-2", {"tokens": 60})
    async with gateway_with_targets(provider, model) as gateway:
        check_whole(await complete(gateway.root, model), TEXT60)
    assert (await requests_per_target(provider, model))[0] <= 3


async def test_two_failures_on_two_targets(provider, model) -> None:
    """The first target cuts the stream each time, the second stalls further on, the third ends it."""
    await provider.script(f"{model}-1", {"tokens": 60, "cut_after": 15})
    await provider.script(f"{model}-2", {"tokens": 60, "stall_after": 30})
    await provider.script(f"{model}-3", {"tokens": 60})
    async with gateway_with_targets(provider, model, targets=3, two={"idle_timeout": 0.2}) as gateway:
        answer = await complete(gateway.root, model)
        check_whole(answer, TEXT60)
        state = (await call(gateway.root, "GET", f"/v1/streams/{answer.headers['x-stream-id']}", headers=STATE)).json
        assert (state["target"], state["state"], state["recoveries"]) == (f"three/{model}-3", "complete", 3)
    assert await requests_per_target(provider, model, 3) == [2, 1, 1]


async def test_three_choices(provider, model) -> None:
    """With `n` = 3 each choice is joined to its own text."""
    await provider.script(f"{model}-1", {"tokens": 20, "cut_after": 31}, {"tokens": 20})
    async with gateway_with_targets(provider, model) as gateway:
        events = (await complete(gateway.root, model, n=3)).events
    told = ["".join(texts(events, choice)) for choice in range(3)]
    assert told == ["".join(f"tok{i}{suffix} " for i in range(20)) for suffix in ("", ".1", ".2")]
    assert events[-1].data == b"[DONE]"


async def test_diverging_restart(provider, model) -> None:
    """Where the new text is another one nothing of it goes out: the error names the first cause."""
    await provider.script(f"{model}-1", {"text": "One two three four five six.", "cut_after": 3})
    await provider.script(f"{model}-2", {"text": "One two other words than before."})
    async with gateway_with_targets(provider, model, recovery={"max_retries": 0}) as gateway:
        answer = await complete(gateway.root, model)
        await until_counted(gateway, "sluiceway_recoveries_total", strategy="restart", outcome="diverged")
    assert "".join(texts(answer.events[:-1])) == "One two three "
    error = ending(answer)
    assert error["code"] == "upstream_cut"
    assert "recovery_diverged" in error["message"]
    assert await requests_per_target(provider, model) == [1, 1]


@pytest.mark.parametrize("finish", ["stop", None])
async def test_shorter_restart(provider, model, finish) -> None:
    """A restart that ends inside the delivered text is another text, with or without a finish reason."""
    await provider.script(f"{model}-1", {"text": "One two three four five six.", "cut_after": 4})
    await provider.script(f"{model}-2", {"text": "One two", "finish": finish})
    async with gateway_with_targets(provider, model, recovery={"max_retries": 0}) as gateway:
        answer = await complete(gateway.root, model)
    assert "".join(texts(answer.events[:-1])) == "One two three four "
    assert ending(answer)["code"] == "upstream_cut"


@pytest.mark.parametrize("form", ["assistant", "continue_final_message", "prefix", "partial"])
async def test_diverging_restart_is_continued(provider, model, form) -> None:
    """If a target can continue, a diverged restart is followed by a continuation of what was delivered."""
    await provider.script(f"{model}-1", {"text": "One two three four five six.", "cut_after": 3})
    words = "One two three or some other end."
    await provider.script(
        f"{model}-2", {"text": "Another text."}, {"text": words, "continue_text": True, "echo_prefix": form == "prefix"}
    )
    async with gateway_with_targets(
        provider, model, two={"continuation": form}, recovery={"max_retries": 1}
    ) as gateway:
        answer = await complete(gateway.root, model, max_tokens=50)
        await until_counted(gateway, "sluiceway_recoveries_total", strategy="continue", outcome="recovered")
    assert "".join(texts(answer.events)) == "One two three or some other end."
    assert answer.events[-1].data == b"[DONE]"
    continued = (await provider.seen(f"{model}-2"))[-1]["body"]
    assert continued["messages"][-1]["content"] == "One two three"
    assert continued["max_tokens"] == 47


@pytest.mark.parametrize(
    ("script", "fields"),
    [
        ({"tool_calls": [{"index": 0, "id": "c", "name": "f", "arguments": '{"a": 1}'}], "tool_piece": 2}, {}),
        ({"text": "Let me see. ", "tool_calls": [{"index": 0, "id": "c", "name": "f", "arguments": "{}"}]}, {}),
    ],
)
async def test_no_recovery_past_a_tool_call(provider, model, script, fields) -> None:
    """A delivered piece of a tool call forbids every further attempt: a client may run it."""
    await provider.script(f"{model}-1", {**script, "cut_after": 4})
    async with gateway_with_targets(provider, model, one={"continuation": "assistant"}) as gateway:
        answer = await complete(gateway.root, model, **fields)
    assert ending(answer)["code"] == "upstream_cut"
    assert await requests_per_target(provider, model) == [1, 0]


async def test_usage_after_a_restart(provider, model) -> None:
    """After a restart the usage is that of one answer. The bill for both is only in the log line."""
    await provider.script(f"{model}-1", {"tokens": 60, "cut_after": 40}, {"tokens": 60})
    async with gateway_with_targets(provider, model) as gateway:
        answer = await complete(gateway.root, model, stream_options={"include_usage": True})
        state = (await call(gateway.root, "GET", f"/v1/streams/{answer.headers['x-stream-id']}", headers=STATE)).json
    chunks = [json.loads(event.data) for event in answer.events[:-1]]
    [usage] = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    assert usage["completion_tokens"] == 60
    assert usage["prompt_tokens"] < 60
    assert state["usage"]["completion_tokens"] == 60


async def test_client_leaves_while_a_retry_waits(provider, model) -> None:
    """When the client goes during the wait for a retry, nothing more is sent upstream."""
    await provider.script(f"{model}-1", {"status": 429, "headers": {"Retry-After": "1"}}, {})
    async with gateway_with_targets(provider, model, targets=1) as gateway:
        async with Client(gateway.root) as client:
            await client.complete(model)
            await until(lambda: provider.seen(f"{model}-1"))
            client.leave()
        await gateway.idle()
        await asyncio.sleep(1.2)  # the retry's time has come and gone
    assert await requests_per_target(provider, model, 1) == [1]


async def test_stalled_client_costs_no_recovery(provider, model) -> None:
    """A stream whose client has stalled is not recovered until the client is back. Then it loses nothing."""
    big = {"tokens": 60, "big": 300_000}  # more than the sockets take
    await provider.script(f"{model}-1", {**big, "stall_after": 40, "stall_for": 4.0, "cut_after": 40}, big)
    tables = {
        "flow": {"drain_timeout": 1.5, "max_lag_bytes": 1 << 26},  # it is the client that stalls, not the lag
        "streams": {"linger": 30.0, "max_stream_bytes": 1 << 26},
    }
    async with gateway_with_targets(provider, model, targets=1, **tables) as gateway:
        async with Client(gateway.root) as client:
            await client.complete(model)
            _, headers = await client.head()
            path = f"/v1/streams/{headers['x-stream-id']}"

            async def detached() -> bool:
                return not (await call(gateway.root, "GET", path, headers=STATE)).json["readers"]

            async def cut() -> bool:
                return (await provider.seen(f"{model}-1"))[0]["finished"]

            await until(detached)
            await until(cut)
        await asyncio.sleep(0.3)
        assert await requests_per_target(provider, model, 1) == [1]
        answer = await call(gateway.root, "GET", f"{path}?after=0")
    assert answer.events[-1].data == b"[DONE]"
    assert len(texts(answer.events)) == 60
    assert await requests_per_target(provider, model, 1) == [2]


async def test_total_timeout_is_over_all_attempts(provider, model) -> None:
    """Retries do not begin the stream's time anew."""
    await provider.script(f"{model}-1", {"status": 503, "headers_after": 0.4})
    recovery = {"max_retries": 100}
    tables = {"streams": {"total_timeout": 1.0}, "recovery": {**recovery, "breaker_failures": 1000}}
    async with gateway_with_targets(provider, model, targets=1, **tables) as gateway:
        answer = await complete(gateway.root, model)
    assert answer.status == 504
    assert answer.error["code"] == "total_timeout"
    assert answer.headers["x-should-retry"] == "false"
    assert (await requests_per_target(provider, model, 1))[0] <= 3


async def test_max_recoveries(provider, model) -> None:
    """Recoveries after content are bounded over all targets, however many attempts each has left."""
    for number in (1, 2, 3):
        await provider.script(f"{model}-{number}", {"tokens": 60, "cut_after": 10})
    async with gateway_with_targets(
        provider, model, targets=3, recovery={"max_retries": 50, "max_recoveries": 4}
    ) as gateway:
        answer = await complete(gateway.root, model)
    assert "".join(texts(answer.events[:-1])) == TEXT60[: len("tok0 ") * 10]
    assert ending(answer)["code"] == "upstream_cut"
    assert sum(await requests_per_target(provider, model, 3)) == 5
