"""`/v1/streams`: resume at any position, live and ended; state; list; abort."""

import asyncio
import hashlib

import pytest
from gateway import in_process
from wire import Client, call, complete, texts, until

JSON = {"Accept": "application/json"}
TOKENS = 12
RECORDS = TOKENS + 3  # the role, the finish reason, [DONE]
FIELDS = {
    "id", "object", "model", "target", "state", "paused", "created", "last_activity", "records", "bytes", "lag",
    "readers", "recoveries",
}  # fmt: skip


@pytest.fixture
async def ended(gateway, provider, model):
    """The id of a stream that has ended, and its body as its first reader saw it."""
    await provider.script(model, {"tokens": TOKENS})
    answer = await complete(gateway.root, model)
    await gateway.idle()
    return answer.headers["x-stream-id"], answer.body


# --- resuming --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["header", "query"])
async def test_resume_ended_at_every_position(gateway, ended, how) -> None:
    """An ended stream can be read after every one of its records, byte for byte; after the last there is nothing."""
    stream, body = ended
    blocks = [block + b"\n\n" for block in body.split(b"\n\n")[:-1]]
    assert len(blocks) == RECORDS
    for cursor in range(RECORDS):
        where = ("", {"Last-Event-ID": str(cursor)}) if how == "header" else (f"?after={cursor}", {})
        answer = await call(gateway.root, "GET", f"/v1/streams/{stream}{where[0]}", headers=where[1])
        assert (answer.status, answer.body) == (200, b"".join(blocks[cursor:]))
    answer = await call(gateway.root, "GET", f"/v1/streams/{stream}?after={RECORDS}")
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["x-stream-id"] == stream
    assert answer.headers["x-request-id"]


async def test_no_cursor_replays_everything(gateway, ended) -> None:
    """Without a cursor, or with an empty one or 0, an ended stream is told from its start."""
    stream, body = ended
    for query, headers in (("", {}), ("?after=0", {}), ("?after=", {}), ("", {"Last-Event-ID": ""})):
        assert (await call(gateway.root, "GET", f"/v1/streams/{stream}{query}", headers=headers)).body == body


async def test_headers_of_a_resumed_stream(gateway, ended, model) -> None:
    """A resumed stream has the headers of every SSE response."""
    answer = await call(gateway.root, "GET", f"/v1/streams/{ended[0]}", headers={"X-Request-Id": "again"})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache, no-transform"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["x-stream-id"] == ended[0]
    assert answer.headers["x-request-id"] == "again"
    assert answer.headers["x-sluiceway-target"] == f"local/{model}"


async def test_last_event_id_wins(gateway, ended) -> None:
    """The header, which is the newer cursor, wins over the query."""
    answer = await call(gateway.root, "GET", f"/v1/streams/{ended[0]}?after=1", headers={"Last-Event-ID": "10"})
    assert answer.events[0].id == 11


@pytest.mark.parametrize("cursor", ["-1", "01", "1.0", "+1", "x", "1e3", "9" * 19, "%D9%A1", "1%20", "%00", "null"])
async def test_insane_cursor(gateway, ended, cursor) -> None:
    """What is no cursor is 400, never a guess."""
    answer = await call(gateway.root, "GET", f"/v1/streams/{ended[0]}?after={cursor}")
    assert (answer.status, answer.error["code"]) == (400, "invalid_cursor")


@pytest.mark.parametrize("cursor", [RECORDS + 1, 10**17, int("9" * 18)])
async def test_cursor_beyond_the_tail(gateway, ended, cursor) -> None:
    """A cursor beyond the tail is from another stream: 400."""
    answer = await call(gateway.root, "GET", f"/v1/streams/{ended[0]}", headers={"Last-Event-ID": str(cursor)})
    assert (answer.status, answer.error["code"]) == (400, "invalid_cursor")


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("name", ["strm_unknown", "x", "%2e%2e", "strm_%00", "strm_" + "a" * 500])
async def test_unknown_stream(gateway, method, name) -> None:
    """A stream that is not there is 404 in either direction."""
    answer = await call(gateway.root, method, f"/v1/streams/{name}")
    assert (answer.status, answer.error["code"]) == (404, "stream_not_found")


async def test_unknown_format(gateway, ended) -> None:
    """A form that does not exist is 400."""
    assert (await call(gateway.root, "GET", f"/v1/streams/{ended[0]}?format=xml")).status == 400


async def test_expired(provider, model) -> None:
    """After its retention a stream is 404 and no longer listed."""
    async with in_process(provider.url, streams={"retention": 0.3}) as gateway:
        stream = (await complete(gateway.root, model)).headers["x-stream-id"]
        assert (await call(gateway.root, "GET", f"/v1/streams/{stream}")).status == 200
        path = f"/v1/streams/{stream}"

        async def expired() -> bool:
            return (await call(gateway.root, "GET", path)).status == 404

        await until(expired)
        assert (await call(gateway.root, "GET", "/v1/streams")).json["data"] == []


# --- several readers -------------------------------------------------------------------------------------------


async def test_readers_join_live_at_every_position(gateway, provider, model) -> None:
    """Readers that join a live stream all along, at every cursor there is, see it without a gap or a repeat."""
    await provider.script(model, {"tokens": 60, "rate": 60, "split": "random"})
    async with Client(gateway.root) as first:
        await first.complete(model)
        stream = (await first.head())[1]["x-stream-id"]
        joined: list[tuple[int, asyncio.Task]] = []
        while await first.more():
            tail = first.body.count(b"\n\n")
            for cursor in {0, tail // 2, tail}:
                got = asyncio.create_task(call(gateway.root, "GET", f"/v1/streams/{stream}?after={cursor}"))
                joined.append((cursor, got))
        assert len(joined) > 60
        blocks = [block + b"\n\n" for block in first.body.split(b"\n\n")[:-1]]
        assert blocks[-1].endswith(b"data: [DONE]\n\n")
        for cursor, got in joined:
            answer = await got
            wanted = b"".join(blocks[cursor:])
            told = answer.body.removeprefix(b": hb\n")  # the head of one that has to wait goes out with a heartbeat
            assert (answer.status, told) == ((200, wanted) if wanted else (204, b""))


async def test_waits_at_the_tail(gateway, provider, model) -> None:
    """At the tail of a live stream a reader gets its head at once and then what comes."""
    await provider.script(model, {"tokens": 2, "stall_after": 1, "stall_for": 0.5})
    async with Client(gateway.root) as first, Client(gateway.root) as second:
        await first.complete(model)
        stream = (await first.head())[1]["x-stream-id"]
        assert texts(await first.events(2)) == ["tok0 "]
        await second.ask("GET", f"/v1/streams/{stream}?after=2")
        assert (await second.head())[0] == 200
        assert [event.id for event in await second.rest()] == [3, 4, 5]


async def test_fast_reader_is_not_held_by_a_stuck_one(provider, model) -> None:
    """The relay runs at the pace of the fastest reader; one that does not read gets all of it later from the log."""
    await provider.script(model, {"tokens": 3000, "big": 1000})
    async with in_process(provider.url) as gateway, Client(gateway.root) as stuck, Client(gateway.root) as fast:
        await stuck.complete(model)
        stream = (await stuck.head())[1]["x-stream-id"]
        await fast.ask("GET", f"/v1/streams/{stream}")
        await fast.head()
        assert len(texts(await fast.rest())) == 3000
        await gateway.idle_streams()
        assert len(texts(await stuck.rest())) == 3000
        assert hashlib.sha256(stuck.body).digest() == hashlib.sha256(fast.body).digest()


# --- state and list --------------------------------------------------------------------------------------------


async def test_state_of_a_live_and_an_ended_stream(gateway, provider, model) -> None:
    """The state says who reads, how far it is, and at the end what it used; it is always 200, also after an error."""
    await provider.script(model, {"tokens": 3, "stall_after": 1, "stall_for": 0.3})
    async with Client(gateway.root) as client:
        await client.complete(model)
        stream = (await client.head())[1]["x-stream-id"]
        await client.events(2)
        state = (await call(gateway.root, "GET", f"/v1/streams/{stream}", headers=JSON)).json
        assert state.keys() == FIELDS | {"usage", "error"}
        assert (state["id"], state["model"], state["target"]) == (stream, model, f"local/{model}")
        assert (state["state"], state["records"], state["readers"], state["lag"]) == ("streaming", 2, 1, 0)
        assert (state["usage"], state["error"], state["paused"]) == (None, None, False)
        await client.rest()
    await gateway.idle()
    state = (await call(gateway.root, "GET", f"/v1/streams/{stream}", headers=JSON)).json
    assert (state["state"], state["records"], state["readers"]) == ("complete", 6, 0)
    assert state["usage"]["completion_tokens"] == 3
    assert state["last_activity"] >= state["created"]


@pytest.mark.parametrize(
    ("script", "state", "code"),
    [
        ({"finish": "length"}, "incomplete", None),
        ({"finish": "content_filter"}, "incomplete", None),
        ({"finish": "tool_calls"}, "complete", None),
        ({"cut_after": 2}, "failed", "upstream_cut"),
        ({"status": 500}, "failed", "upstream_server_error"),
    ],
)
async def test_ending_states(gateway, provider, model, script, state, code) -> None:
    """The state at the end says what became of the stream, and why."""
    await provider.script(model, script)
    stream = (await complete(gateway.root, model)).headers["x-stream-id"]
    found = (await call(gateway.root, "GET", f"/v1/streams/{stream}", headers=JSON)).json
    assert (found["state"], (found["error"] or {}).get("code")) == (state, code)
    assert found["usage"]["measured"] == (state != "failed")


async def test_failed_before_opening_is_readable(gateway, provider, model) -> None:
    """A stream that failed with an HTTP status is still a stream: read again, it is its one error event."""
    await provider.script(model, {"status": 500})
    stream = (await complete(gateway.root, model)).headers["x-stream-id"]
    answer = await call(gateway.root, "GET", f"/v1/streams/{stream}")
    assert answer.status == 200
    assert [event.data[:10] for event in answer.events] == [b'{"error":{']


async def test_list(gateway, provider, model) -> None:
    """The list has every live and retained stream, oldest first, each with all fields."""
    await provider.script(model, {}, {"stall_after": 1})
    first = (await complete(gateway.root, model)).headers["x-stream-id"]
    async with Client(gateway.root) as client:
        await client.complete(model)
        second = (await client.head())[1]["x-stream-id"]
        await client.events(2)
        listed = (await call(gateway.root, "GET", "/v1/streams")).json
        assert listed["object"] == "list"
        assert [(one["id"], one["state"]) for one in listed["data"]] == [(first, "complete"), (second, "streaming")]
        assert all(one.keys() == FIELDS for one in listed["data"])


# --- owners ----------------------------------------------------------------------------------------------------


async def test_foreign_streams(provider, model) -> None:
    """With keys a stream is its owner's: for anybody else it is 404, not listed and not to be aborted.

    An admin key may do all that, and is told whose stream it is.
    """
    tokens = {"alice": "a-token", "bob": "b-token", "root": "r-token"}
    keys = [
        {"name": name, "sha256": hashlib.sha256(token.encode()).hexdigest(), "admin": name == "root"}
        for name, token in tokens.items()
    ]
    headers = {name: {"Authorization": f"Bearer {token}"} for name, token in tokens.items()}
    await provider.script(model, {"stall_after": 1})
    async with in_process(provider.url, keys=keys) as gateway, Client(gateway.root) as client:
        assert (await complete(gateway.root, model)).status == 401
        await client.complete(model, headers=headers["alice"])
        path = f"/v1/streams/{(await client.head())[1]['x-stream-id']}"
        for name, status in (("alice", 200), ("bob", 404), ("root", 200)):
            assert (await call(gateway.root, "GET", path, headers=headers[name] | JSON)).status == status
            listed = (await call(gateway.root, "GET", "/v1/streams", headers=headers[name])).json["data"]
            assert len(listed) == (status == 200)
            state = (await call(gateway.root, "GET", path, headers=headers[name] | JSON)).json
            owners = [one.get("owner") for one in (*listed, state)]
            assert owners == (["alice"] * 2 if name == "root" else [None] * len(owners))
        assert (await call(gateway.root, "DELETE", path)).status == 401
        assert (await call(gateway.root, "DELETE", path, headers=headers["bob"])).status == 404
        assert (await call(gateway.root, "DELETE", path, headers=headers["root"])).status == 204
        assert b'"code":"cancelled"' in (await client.rest())[-1].data


# --- abort -----------------------------------------------------------------------------------------------------


async def test_abort(gateway, provider, model) -> None:
    """DELETE ends a live stream for all its readers with error `cancelled`, not retryable; again it is 204."""
    await provider.script(model, {"tokens": 1000, "rate": 50})
    async with Client(gateway.root) as first, Client(gateway.root) as second:
        await first.complete(model)
        path = f"/v1/streams/{(await first.head())[1]['x-stream-id']}"
        await first.events(3)
        await second.ask("GET", path)
        await second.head()
        assert (await call(gateway.root, "DELETE", f"{path}?reason=enough")).status == 204
        await provider.closed(model)
        events = await first.rest()
        assert await second.rest() == events
        assert b'"code":"cancelled","retryable":false' in events[-1].data
        assert b"enough" in events[-1].data
        assert b"[DONE]" not in first.body
    assert (await call(gateway.root, "DELETE", path)).status == 204
    state = (await call(gateway.root, "GET", path, headers=JSON)).json
    assert (state["state"], state["records"]) == ("cancelled", len(events))
    assert (await call(gateway.root, "GET", path)).events == events


async def test_abort_leaves_an_ended_one(gateway, ended) -> None:
    """DELETE of an ended stream is 204 and changes nothing."""
    stream, body = ended
    assert (await call(gateway.root, "DELETE", f"/v1/streams/{stream}")).status == 204
    assert (await call(gateway.root, "GET", f"/v1/streams/{stream}")).body == body


@pytest.mark.parametrize("script", [{"headers_after": 60.0}, {"never_answer": True}, {"stall_after": 0}])
async def test_abort_before_opening(gateway, provider, model, script) -> None:
    """A stream that is aborted before it opened answers 499, and its upstream is closed."""
    await provider.script(model, script)
    async with Client(gateway.root) as client:
        await client.complete(model)
        await until(lambda: provider.seen(model))
        [live] = (await call(gateway.root, "GET", "/v1/streams")).json["data"]
        assert (live["state"], live["records"]) == ("starting", 0)
        assert (await call(gateway.root, "DELETE", f"/v1/streams/{live['id']}")).status == 204
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (499, "cancelled")
        assert answer.headers["x-stream-id"] == live["id"]
        assert len(await provider.all_over(model)) == 1


async def test_abort_while_paused(provider, model) -> None:
    """An abort reaches a stream that is held back for a reader who does not read."""
    await provider.script(model, {"tokens": 1_000_000, "big": 1000})
    async with in_process(provider.url) as gateway, Client(gateway.root) as client:
        await client.complete(model)
        path = f"/v1/streams/{(await client.head())[1]['x-stream-id']}"

        async def paused() -> bool:
            return (await call(gateway.root, "GET", path, headers=JSON)).json["paused"]

        await until(paused)
        assert (await call(gateway.root, "DELETE", path)).status == 204
        assert b'"code":"cancelled"' in (await client.rest())[-1].data
