"""POST /api/stream: native events on raw sockets, errors, resuming."""

import asyncio
import time

import native
import pytest
import wire
from gateway import in_process

TEXT = "Water finds its own level."
TWO = [{"name": "one", "targets": ["local/one"]}, {"name": "two", "targets": ["local/two"]}]


async def test_events(provider, model) -> None:
    """A generation is start, tokens, done, with every field of docs/protocol.md. The text is whole."""
    await provider.script(model, {"text": TEXT})
    async with in_process(provider.url) as gateway:
        before = time.time() * 1000 - 1
        answer = await native.ask(gateway.root, model)
        found = native.decoded(answer.events)
    assert answer.status == 200
    for name, value in {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache, no-transform",
        "x-accel-buffering": "no",
        "x-sluiceway-target": f"local/{model}",
    }.items():
        assert answer.headers[name] == value
    assert answer.headers["x-request-id"]
    assert [event.id for event in found] == list(range(1, 8))
    assert native.types(found) == ["start", "token", "done"]
    start, *tokens, done = (event.data for event in found)
    assert start == {
        "type": "start", "stream_id": answer.headers["x-stream-id"], "model": model, "target": f"local/{model}",
    }  # fmt: skip
    assert native.text(found) == TEXT
    assert [token["token_count"] for token in tokens] == [1, 2, 3, 4, 5]
    assert all(before <= token["timestamp"] <= time.time() * 1000 for token in tokens)
    assert done.keys() == {"type", "status", "reason", "token_count", "usage", "ttft_ms"}
    assert (done["status"], done["reason"], done["token_count"]) == ("complete", "stop", 5)
    assert done["usage"] == {"prompt_tokens": 2, "completion_tokens": 5, "total_tokens": 7, "measured": True}
    assert done["ttft_ms"] > 0


async def test_what_goes_upstream(provider, model) -> None:
    """A prompt becomes the user's message, sampling fields pass, and what is only the gateway's does not."""
    await provider.script(model, {"text": TEXT})
    async with in_process(provider.url) as gateway:
        await native.events(gateway.root, model, temperature=0.5, top_k=3, stream=False, session_id=None)
        await native.events(gateway.root, model, messages=[{"role": "system", "content": "Be brief."}])
    first, second = [one["body"] for one in await provider.seen(model)]
    assert first == {
        "model": model,
        "messages": [{"role": "user", "content": "Say it."}],
        "temperature": 0.5,
        "top_k": 3,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert second["messages"] == [{"role": "system", "content": "Be brief."}]


async def test_reasoning_and_refusal(provider, model) -> None:
    """Reasoning comes as events of its own, a refusal as tokens that say so; neither is counted as content."""
    refusal = {"choices": [{"index": 0, "delta": {"refusal": "No."}}]}
    finish = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    await provider.script(model, {"reasoning": ["I ", "think."], "text": "So."}, {"chunks": [refusal, finish]})
    async with in_process(provider.url) as gateway:
        thought = await native.events(gateway.root, model)
        refused = await native.events(gateway.root, model)
    assert native.types(thought) == ["start", "reasoning", "token", "done"]
    assert [event["content"] for event in native.of(thought, "reasoning")] == ["I ", "think."]
    assert thought[-1].data["token_count"] == 1
    (token,) = native.of(refused, "token")
    assert (token["content"], token["field"], token["token_count"]) == ("No.", "refusal", 0)


@pytest.mark.parametrize(("finish", "status"), [("length", "incomplete"), ("content_filter", "incomplete")])
async def test_incomplete(provider, model, finish: str, status: str) -> None:
    """A finish reason that is no proper end makes the status incomplete, and is its reason."""
    await provider.script(model, {"text": TEXT, "finish": finish})
    async with in_process(provider.url) as gateway:
        done = (await native.events(gateway.root, model))[-1].data
    assert (done["status"], done["reason"]) == (status, finish)


async def test_failure_after_content(provider, model) -> None:
    """A failure in the middle is an error and then done, two records, and nothing follows."""
    await provider.script(model, {"text": TEXT, "cut_after": 2})
    async with in_process(provider.url) as gateway:
        found = await native.events(gateway.root, model)
    assert native.types(found) == ["start", "token", "error", "done"]
    error, done = found[-2].data, found[-1].data
    assert error.keys() == {"type", "message", "code", "retryable", "resumable"}
    assert (error["code"], error["retryable"], error["resumable"]) == ("upstream_cut", True, False)
    assert (done["status"], done["reason"], done["token_count"]) == ("failed", "upstream_cut", 2)
    assert done["usage"]["measured"] is False


async def test_failure_before_content(provider, model) -> None:
    """A failure before the first token keeps its HTTP status, in OpenAI's shape, and names the stream."""
    await provider.script(model, {"status": 429, "error": {"message": "slow down", "code": "rate_limit_exceeded"}})
    async with in_process(provider.url) as gateway:
        answer = await native.ask(gateway.root, model)
        assert (answer.status, answer.error["message"]) == (429, "slow down")
        again = await wire.call(gateway.root, "GET", f"/v1/streams/{answer.headers['x-stream-id']}")
    assert native.types(native.decoded(again.events)) == ["error", "done"]


async def test_failure_after_an_early_opening(provider, model) -> None:
    """A failure before the first token of a response that has opened is in-band: error, done."""
    await provider.script(model, {"ttft": 0.3, "cut_after": 0})
    async with in_process(provider.url, flow={"early_open_after": 0.05}) as gateway:
        found = await native.events(gateway.root, model)
    assert native.types(found) == ["error", "done"]


async def test_a_failure_releases_the_idempotency_key(provider, model) -> None:
    """A key whose stream failed before it opened begins another; one whose stream opened joins it from id 1."""
    await provider.script(model, {"status": 500}, {"text": TEXT})
    headers = {"Idempotency-Key": "k1"}
    async with in_process(provider.url) as gateway:
        assert (await native.ask(gateway.root, model, headers=headers)).status == 500
        first = await native.ask(gateway.root, model, headers=headers)
        second = await native.ask(gateway.root, model, headers=headers)
        other = await native.ask(gateway.root, model, headers=headers, temperature=1)
    assert native.text(native.decoded(first.events)) == TEXT
    assert (second.headers["x-stream-id"], second.body) == (first.headers["x-stream-id"], first.body)
    assert (other.status, other.error["code"]) == (422, "idempotency_key_reused")
    assert len(await provider.seen(model)) == 2


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "m"}, "prompt"),
        ({"model": "m", "prompt": ""}, "prompt"),
        ({"model": "m", "prompt": 3}, "prompt"),
        ({"model": "m", "prompt": "a", "messages": [{"role": "user", "content": "b"}]}, "prompt"),
        ({"model": "m", "messages": []}, "messages"),
        ({"model": "m", "prompt": "a", "n": 2}, "n"),
        ({"model": "m", "prompt": "a", "temperature": "hot"}, "temperature"),
        ({"model": 3, "prompt": "a"}, "model"),
        ({"prompt": "a"}, "model"),
        ({"session_id": 3}, "session_id"),
        ({"model": "m", "prompt": "a", "last_event_id": 3}, "session_id"),
    ],
)
async def test_bad_requests(provider, body: dict[str, object], param: str) -> None:
    """A request that makes no sense is a 400 that names the field, and nothing goes upstream."""
    async with in_process(provider.url) as gateway:
        answer = await wire.call(gateway.root, "POST", "/api/stream", body)
    assert (answer.status, answer.error["param"]) == (400, param)
    assert "x-stream-id" not in answer.headers


async def test_the_only_model(provider, model) -> None:
    """The model may be left out if only one is configured. With two it is a 400 that lists them."""
    await provider.script(model, {"text": TEXT})
    one = [{"name": "*", "targets": ["local/*"]}, {"name": "small", "targets": [f"local/{model}"]}]
    async with in_process(provider.url, models=one) as gateway:
        answer = await wire.call(gateway.root, "POST", "/api/stream", {"prompt": "a"})
        assert native.decoded(answer.events)[0].data["model"] == "small"
    async with in_process(provider.url, models=TWO) as gateway:
        answer = await wire.call(gateway.root, "POST", "/api/stream", {"prompt": "a"})
        assert answer.status == 400
        assert "one, two" in answer.error["message"]
        unknown = await wire.call(gateway.root, "POST", "/api/stream", {"prompt": "a", "model": "x"})
        assert (unknown.status, unknown.error["code"]) == (404, "model_not_found")


async def test_resuming_at_every_position(provider, model) -> None:
    """session_id and last_event_id give exactly what follows that id; at the end there is 204."""
    await provider.script(model, {"text": TEXT})
    async with in_process(provider.url) as gateway:
        answer = await native.ask(gateway.root, model)
        session, all_ = answer.headers["x-stream-id"], answer.events

        async def after(cursor: object, **fields: object) -> wire.Answer:
            body = {"session_id": session, "last_event_id": cursor, **fields}
            return await wire.call(gateway.root, "POST", "/api/stream", body)

        for cursor in range(len(all_)):
            assert (await after(cursor)).events == all_[cursor:]
        assert (await after("2")).events == all_[2:]
        assert (await after(None)).events == all_
        assert (await after(1, prompt="Say it.")).events == all_[1:]
        assert (await after(len(all_))).status == 204
        for bad in (len(all_) + 1, -1, 1.5, "01", True, [1]):
            assert (await after(bad)).status == 400, bad
        assert (await after(1, prompt="Something else.")).status == 400
        header = await wire.call(
            gateway.root, "POST", "/api/stream", {"session_id": session, "last_event_id": 1}, {"Last-Event-ID": "3"}
        )
        assert header.events == all_[3:]
        unknown = await wire.call(gateway.root, "POST", "/api/stream", {"session_id": "strm_x"})
        assert (unknown.status, unknown.error["code"]) == (404, "stream_not_found")
    assert len(await provider.seen(model)) == 1


async def test_resuming_live(provider, model) -> None:
    """A client that is cut in the middle and resumes gets the rest, live, without a gap or a repeat."""
    await provider.script(model, {"tokens": 60, "rate": 200})
    async with in_process(provider.url, streams={"on_disconnect": "continue"}) as gateway:
        async with wire.Client(gateway.root) as client:
            await client.ask("POST", "/api/stream", {"prompt": "a", "model": model})
            _, headers = await client.head()
            first = (await client.events(10))[:10]
            client.leave("rst")
        body = {"session_id": headers["x-stream-id"], "last_event_id": 10}
        rest = (await wire.call(gateway.root, "POST", "/api/stream", body)).events
    assert [event.id for event in first + rest] == list(range(1, 63))
    assert native.text(native.decoded(first + rest)) == "".join(f"tok{i} " for i in range(60))


async def test_leaving_cancels(provider, model) -> None:
    """The disconnect policy is that of completions: under cancel the stream ends in error cancelled."""
    await provider.script(model, {"tokens": 5, "rate": 1000, "stall_after": 5})
    async with in_process(provider.url) as gateway:
        async with wire.Client(gateway.root) as client:
            await client.ask("POST", "/api/stream", {"prompt": "a", "model": model})
            _, headers = await client.head()
            await client.events(6)
        await gateway.idle()
        again = await wire.call(gateway.root, "GET", f"/v1/streams/{headers['x-stream-id']}")
    *_, error, done = native.decoded(again.events)
    assert (error.data["code"], error.data["retryable"]) == ("cancelled", False)
    assert done.data["status"] == "cancelled"


async def test_aborting(provider, model) -> None:
    """DELETE gives the reader error cancelled and then done."""
    await provider.script(model, {"tokens": 5, "stall_after": 5})
    async with in_process(provider.url) as gateway, wire.Client(gateway.root) as client:
        await client.ask("POST", "/api/stream", {"prompt": "a", "model": model})
        _, headers = await client.head()
        await client.events(6)
        answer = await wire.call(gateway.root, "DELETE", f"/v1/streams/{headers['x-stream-id']}")
        assert answer.status == 204
        *_, error, done = native.decoded(await client.rest())
    assert (error.data["code"], done.data["status"]) == ("cancelled", "cancelled")


async def test_recovery_event(provider, model) -> None:
    """A failure in the middle that is absorbed shows as one recovery event; the text is whole, the ids have no gap."""
    await provider.script(model, {"text": TEXT, "cut_after": 2}, {"text": TEXT})
    recovery = {"strategy": "auto", "backoff": 0.01}
    async with in_process(provider.url, recovery=recovery) as gateway:
        found = await native.events(gateway.root, model)
    assert native.types(found) == ["start", "token", "recovery", "token", "done"]
    assert native.text(found) == TEXT
    (event,) = native.of(found, "recovery")
    assert event == {
        "type": "recovery", "attempt": 1, "strategy": "restart", "target": f"local/{model}", "reason": "upstream_cut",
        "exact": True,
    }  # fmt: skip
    assert found[-1].data["status"] == "complete"


async def test_recovery_of_a_refusal_and_reasoning(provider, model) -> None:
    """Reasoning that was delivered is verified and dropped by a restart, like content."""
    script = {"reasoning": ["I ", "think ", "so."], "text": "Yes it is."}
    await provider.script(model, {**script, "cut_after": 4}, script)
    async with in_process(provider.url, recovery={"strategy": "auto", "backoff": 0.01}) as gateway:
        found = await native.events(gateway.root, model)
    assert "".join(event["content"] for event in native.of(found, "reasoning")) == "I think so."
    assert native.text(found) == "Yes it is."


async def test_several_readers(provider, model) -> None:
    """Two readers of one live stream get the same events."""
    await provider.script(model, {"tokens": 50, "rate": 200})
    async with in_process(provider.url) as gateway, wire.Client(gateway.root) as client:
        await client.ask("POST", "/api/stream", {"prompt": "a", "model": model})
        _, headers = await client.head()
        await client.events(3)
        joined, mine = await asyncio.gather(
            wire.call(gateway.root, "GET", f"/v1/streams/{headers['x-stream-id']}?format=native"), client.rest()
        )
    assert joined.events == mine


async def test_listed(provider, model) -> None:
    """A native stream is listed and has a state like any other."""
    await provider.script(model, {"text": TEXT})
    async with in_process(provider.url) as gateway:
        answer = await native.ask(gateway.root, model)
        path = f"/v1/streams/{answer.headers['x-stream-id']}"
        state = (await wire.call(gateway.root, "GET", path, headers={"Accept": "application/json"})).json
    assert (state["state"], state["records"], state["error"]) == ("complete", 7, None)
    assert state["usage"]["measured"] is True
