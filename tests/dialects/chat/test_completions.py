"""`POST /v1/chat/completions` as a client sees it, byte for byte, and every error with its status."""

import re
import time

import pytest
from gateway import in_process
from wire import Client, call, complete, events_of, parse, texts

CHUNK = '{"id":"c1","object":"chat.completion.chunk","created":7,"model":"m","choices":[%s]}'
FINISH = '{"index":%d,"delta":{},"finish_reason":"stop"}'
ODD = '"choices":[{"index":0,"delta":{"content":"a\\u00fc\\n\u2028\u0085é水🌊"},"finish_reason":null}]}'


# --- a stream --------------------------------------------------------------------------------------------------


async def test_headers(gateway, model) -> None:
    """An SSE response has exactly these headers, and one of each."""
    answer = await complete(gateway.root, model, headers={"X-Request-Id": "mine-1"})
    assert answer.status == 200
    wanted = {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache, no-transform",
        "x-accel-buffering": "no",
        "x-request-id": "mine-1",
        "x-sluiceway-target": f"local/{model}",
    }
    assert {name: answer.headers.get(name) for name in wanted} == wanted
    assert re.fullmatch(r"strm_[A-Za-z0-9_-]{22,}", answer.headers["x-stream-id"])
    assert "content-length" not in answer.headers


@pytest.mark.parametrize("asked", ["", "a b", "x" * 129, "ü", "a\x01b"])
async def test_insane_request_id(gateway, model, asked) -> None:
    """A request id that could break a log line or a header is replaced."""
    async with Client(gateway.root) as client:
        await client.complete(model, headers={"X-Request-Id": asked})
        answer = await client.answer()
        if answer.status == 400:  # a control character in a header is refused by the parser
            assert "\x01" in asked
        else:
            assert re.fullmatch(r"req_[0-9a-f]{24}", answer.headers["x-request-id"])


async def test_ids_and_done(gateway, model) -> None:
    """Ids count from 1 without a gap, and `[DONE]` is a record like any other."""
    events = (await complete(gateway.root, model)).events
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    assert texts(events) == [f"tok{i} " for i in range(20)]
    assert events[-1].data == b"[DONE]"


async def test_byte_for_byte(gateway, provider, model) -> None:
    """A chunk goes out as it came in: odd spacing, unknown fields, escapes and characters of every width."""
    chunks = [
        '{"id":"c1", "object":"chat.completion.chunk","created":7,"x":{"y":[1.50,null]},' + ODD,
        CHUNK % FINISH % 0,
    ]
    await provider.script(model, {"chunks": chunks, "split": "byte"})
    events = (await complete(gateway.root, model)).events
    assert [event.data.decode() for event in events] == [*chunks, "[DONE]"]


async def test_role_only_deltas_are_held(gateway, provider, model) -> None:
    """Role-only and empty deltas wait for the first content, and then go out before it, as they came."""
    await provider.script(model, {"ttft": 0.4, "tokens": 2})
    async with Client(gateway.root) as client:
        began = time.monotonic()
        await client.complete(model)
        await client.head()
        assert time.monotonic() - began >= 0.4
        events = await client.rest()
    assert b'"role":"assistant"' in events[0].data
    assert texts(events) == ["tok0 ", "tok1 "]


async def test_two_choices(gateway, provider, model) -> None:
    """`n` = 2 interleaves the choices, and the stream ends when both have finished."""
    await provider.script(model, {"tokens": 3})
    events = (await complete(gateway.root, model, n=2)).events
    assert texts(events, 0) == ["tok0 ", "tok1 ", "tok2 "]
    assert len(texts(events, 1)) == 3
    assert sum(b'"finish_reason":"stop"' in event.data for event in events) == 2
    assert events[-1].data == b"[DONE]"


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("split", ["byte", "random", 7])
async def test_any_framing_upstream(gateway, provider, model, newline, split) -> None:
    """However the upstream splits and ends its lines, the client sees the same frames."""
    pieces = ["水", "🌊 ", "straße", "\n\n", '"'] * 3
    await provider.script(model, {"pieces": pieces, "newline": newline, "split": split})
    assert texts((await complete(gateway.root, model)).events) == pieces


async def test_unknown_fields_go_upstream(gateway, provider, model) -> None:
    """The upstream gets the client's body: unknown fields as they are, and only the usage option added."""
    asked = {"temperature": 0.5, "top_k": 7, "extra": {"deep": [None, 1e3]}, "stream_options": {"other": 1}}
    await complete(gateway.root, model, **asked)
    [seen] = await provider.seen(model)
    body = seen["body"]
    assert {name: body[name] for name in ("temperature", "top_k", "extra")} == {
        name: asked[name] for name in ("temperature", "top_k", "extra")
    }
    assert body["stream_options"] == {"other": 1, "include_usage": True}
    assert body["model"] == model


# --- usage -----------------------------------------------------------------------------------------------------


async def test_usage_hidden(gateway, model) -> None:
    """A client that did not ask for usage gets no such chunk, and no id is lost to it."""
    answer = await complete(gateway.root, model)
    assert b'"usage"' not in answer.body
    state = (await call(gateway.root, "GET", f"/v1/streams/{answer.headers['x-stream-id']}",
                        headers={"Accept": "application/json"})).json  # fmt: skip
    assert state["usage"] == {"prompt_tokens": 2, "completion_tokens": 20, "total_tokens": 22, "measured": True}
    assert state["records"] == len(answer.events)


async def test_usage_shown(gateway, model) -> None:
    """A client that asked gets the upstream's own usage chunk, as it is, before `[DONE]`."""
    events = (await complete(gateway.root, model, stream_options={"include_usage": True})).events
    assert b'"choices":[],"usage":{"prompt_tokens":2,' in events[-2].data
    assert sum(b'"usage"' in event.data for event in events) == 1


async def test_usage_estimated(gateway, provider, model) -> None:
    """A client that asked an upstream which tells none gets an estimate, marked as one."""
    await provider.script(model, {"usage": False, "tokens": 5})
    events = (await complete(gateway.root, model, stream_options={"include_usage": True})).events
    assert b'"completion_tokens":5' in events[-2].data
    assert b'"measured":false' in events[-2].data
    assert events[-1].data == b"[DONE]"


async def test_usage_that_never_comes(gateway, provider, model) -> None:
    """After the finish reason an upstream that hangs costs a second, not the idle timeout, and the stream is whole."""
    await provider.script(model, {"usage": False, "done": False, "after_finish": "hang"})
    began = time.monotonic()
    events = (await complete(gateway.root, model)).events
    assert events[-1].data == b"[DONE]"
    assert time.monotonic() - began < 10


# --- the opening -----------------------------------------------------------------------------------------------


async def test_early_opening_and_heartbeats(provider, model) -> None:
    """A slow first token: the response opens after `early_open_after`, and heartbeats flow between whole events."""
    await provider.script(model, {"ttft": 1.2, "tokens": 3, "stall_after": 2, "stall_for": 0.6})
    flow = {"early_open_after": 0.2, "heartbeat_interval": 0.2}
    async with in_process(provider.url, flow=flow) as gateway, Client(gateway.root) as client:
        began = time.monotonic()
        await client.complete(model)
        status, headers = await client.head()
        assert (status, headers["x-sluiceway-target"]) == (200, f"local/{model}")
        assert time.monotonic() - began >= 0.2
        events = await client.rest()
        assert parse(client.body)[1] >= 3
        assert client.body.startswith(b": hb\n"), "it opened before the first token"
        assert texts(events) == ["tok0 ", "tok1 ", "tok2 "]


async def test_no_heartbeat_while_tokens_flow(provider, model) -> None:
    """A stream that is not silent for an interval has no heartbeats."""
    await provider.script(model, {"rate": 50, "tokens": 100})
    async with in_process(provider.url, flow={"heartbeat_interval": 1.0}) as gateway:
        assert parse((await complete(gateway.root, model)).body)[1] == 0


async def test_early_opening_counts_over_all_attempts(provider, model) -> None:
    """`early_open_after` counts from acceptance: a first attempt that failed late does not start it again."""
    await provider.script(model, {"headers_after": 1.0, "status": 500}, {"ttft": 2.0})
    recovery = {"strategy": "auto", "backoff": 0.0}
    flow = {"early_open_after": 1.2}
    async with in_process(provider.url, flow=flow, recovery=recovery) as gateway, Client(gateway.root) as client:
        began = time.monotonic()
        await client.complete(model)
        await client.head()
        opened = time.monotonic()
        _, second = await provider.seen(model)
        assert began + 1.2 <= opened < second["started_at"] + 1.2
        assert (await client.rest())[-1].data == b"[DONE]"


async def test_the_first_token_opens_it(provider, model) -> None:
    """The response opens with the first token although the answer goes on for long."""
    await provider.script(model, {"stall_after": 1})
    async with in_process(provider.url, flow={"early_open_after": 60.0}) as gateway, Client(gateway.root) as client:
        await client.complete(model)
        assert (await client.head())[0] == 200
        assert texts(await client.events(2)) == ["tok0 "]


# --- errors before the opening ---------------------------------------------------------------------------------

ERROR = {"message": "So sorry.", "type": "their_type", "param": "messages", "code": "their_code"}
TOLD = [  # script, status, code
    ({"status": 400, "error": ERROR}, 400, "their_code"),
    ({"status": 404, "error": ERROR}, 404, "their_code"),
    ({"status": 409, "error": ERROR}, 409, "their_code"),
    ({"status": 422, "error": ERROR}, 422, "their_code"),
    ({"status": 429, "error": ERROR, "headers": {"Retry-After": "7"}}, 429, "their_code"),
    ({"status": 500, "error": ERROR}, 500, "their_code"),
    ({"status": 503, "error": ERROR}, 503, "their_code"),
    ({"status": 529, "error": ERROR}, 529, "their_code"),
    ({"status": 401, "error": ERROR}, 502, "upstream_auth"),
    ({"status": 403, "error": ERROR}, 502, "upstream_auth"),
    ({"status": 500, "error": "<h1>Oh no</h1>"}, 500, "upstream_server_error"),
    ({"status": 302, "headers": {"Location": "http://127.0.0.1:1/"}}, 502, None),
    ({"reset_before_head": True}, 502, "upstream_reset"),
    ({"reset_after": 0}, 502, "upstream_cut"),
    ({"cut_after": 0}, 502, "upstream_cut"),
    ({"eof_after": 0}, 502, "upstream_garbage"),
    ({"garbage_at": 0}, 502, "upstream_garbage"),
    ({"error_at": 0, "error": ERROR}, 502, "their_code"),
    ({"json_body": True}, 502, "upstream_garbage"),
    ({"json_body": {"error": ERROR}}, 502, "their_code"),
    ({"never_answer": True}, 504, "upstream_ttft_timeout"),
    ({"stall_after": 0}, 504, "upstream_ttft_timeout"),
    ({"stall_after": 0, "comments": 0.1}, 504, "upstream_ttft_timeout"),
]


@pytest.mark.parametrize(("script", "status", "code"), TOLD)
async def test_error_before_opening(provider, model, script, status, code) -> None:
    """A failure before the first token keeps an HTTP status and its code, and tells SDKs not to retry it again."""
    await provider.script(model, script)
    ttft_timeout = 0.7 if code == "upstream_ttft_timeout" else 30.0
    async with in_process(provider.url, upstream={"ttft_timeout": ttft_timeout}) as gateway:
        answer = await complete(gateway.root, model)
        error = answer.error
        assert (answer.status, code or error["code"]) == (status, error["code"])
        assert answer.headers["x-should-retry"] == "false"
        assert answer.headers["x-stream-id"].startswith("strm_")
        assert answer.headers["x-request-id"].startswith("req_")
        assert answer.headers["x-sluiceway-target"] == f"local/{model}"
        assert answer.headers.get("retry-after") == ("7" if status == 429 else None)
        if code == "their_code":
            assert {name: error[name] for name in ERROR} == ERROR
        if code == "upstream_auth":
            assert "So sorry" not in answer.body.decode()
        await gateway.idle()


async def test_bad_chunk_header_does_not_hang(provider, model) -> None:
    """HTTP garbage in the body, which hangs aiohttp's client, is an upstream error, and no timeout has to pass."""
    await provider.script(model, {"bad_chunk_header_at": 0})
    async with in_process(provider.url) as gateway:
        answer = await complete(gateway.root, model)
        assert (answer.status, answer.error["code"]) == (502, "upstream_garbage")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/v1", "http://no-such-name.invalid/v1"])
async def test_unreachable(model, url) -> None:
    """An upstream that cannot be connected is 502."""
    async with in_process(url) as gateway:
        answer = await complete(gateway.root, model)
        assert (answer.status, answer.error["code"][:9]) == (502, "upstream_")


async def test_no_target(provider, model) -> None:
    """With every circuit open the answer is 503 `no_target` at once, with Retry-After, and nothing is asked."""
    await provider.script(model, {"status": 500})
    recovery = {"strategy": "auto", "max_retries": 0, "breaker_failures": 1, "breaker_reset": 30.0}
    upstreams = [{"name": name, "base_url": provider.url} for name in ("local", "other")]
    models = [{"name": "*", "targets": ["local/*", "other/*"]}]
    async with in_process(provider.url, recovery=recovery, upstreams=upstreams, models=models) as gateway:
        assert (await complete(gateway.root, model)).status == 500
        answer = await complete(gateway.root, model)
        assert (answer.status, answer.error["code"]) == (503, "no_target")
        assert 1 <= int(answer.headers["retry-after"]) <= 30
        assert len(await provider.seen(model)) == 2


async def test_error_after_early_opening(provider, model) -> None:
    """Once the response has opened early, an error is in-band: 200, one error record, no `[DONE]`."""
    await provider.script(model, {"headers_after": 0.5, "status": 500, "error": ERROR})
    async with in_process(provider.url, flow={"early_open_after": 0.1}) as gateway:
        answer = await complete(gateway.root, model)
        assert answer.status == 200
        [event] = answer.events
        assert event.id == 1
        assert b'"code":"their_code"' in event.data


CUT_SHORT = [
    {"reset_after": 3},
    {"cut_after": 3},
    {"eof_after": 3},
    {"error_at": 3},
    {"garbage_at": 3},
    {"stall_after": 3},
    {"bad_chunk_header_at": 3, "rate": 20},
    {"reset_in_utf8_at": 3, "pieces": ["水"] * 6},
    {"tokens": 3, "finish": None, "done": False},
]


@pytest.mark.parametrize("script", CUT_SHORT)
async def test_error_after_opening(provider, model, script) -> None:
    """A failure after content is in-band: everything that came, one error as the last record, no `[DONE]`."""
    await provider.script(model, script if "pieces" in script else {"tokens": 6, **script})
    async with in_process(provider.url, upstream={"idle_timeout": 0.7}) as gateway:
        answer = await complete(gateway.root, model)
        events = answer.events
        assert answer.status == 200
        assert len(texts(events[:-1])) == 3
        assert [event.id for event in events] == list(range(1, len(events) + 1))
        assert events[-1].data.startswith(b'{"error":{"message":')
        assert b"[DONE]" not in answer.body


@pytest.mark.parametrize("script", [{"finish": None}, {"done": False}, {"content_length": "lie_long"}])
async def test_whole_all_the_same(provider, model, script) -> None:
    """A finish reason or `[DONE]` is an ending, whatever of the rest an upstream leaves out or gets wrong."""
    await provider.script(model, {"tokens": 6, **script})
    async with in_process(provider.url) as gateway:
        events = (await complete(gateway.root, model)).events
        assert (len(texts(events)), events[-1].data) == (6, b"[DONE]")


async def test_error_with_a_line_end_in_it(provider, model) -> None:
    """An in-band error's own words cannot break the frame."""
    await provider.script(model, {"error_at": 1, "error": {"message": "a\n\nid: 9\ndata: x\r\n", "code": "c"}})
    async with in_process(provider.url) as gateway:
        events = (await complete(gateway.root, model)).events
        assert rb"a\n\nid: 9\ndata: x" in events[-1].data


# --- rejected before it became a stream -------------------------------------------------------------------------


async def test_rejected_has_no_stream_id(gateway) -> None:
    """What was turned away before it became a stream carries its request's id alone, and leaves no stream."""
    answer = await call(gateway.root, "POST", "/v1/chat/completions", {"model": "m"}, {"X-Request-Id": "r-1"})
    assert (answer.status, answer.headers["x-request-id"]) == (400, "r-1")
    assert "x-stream-id" not in answer.headers
    assert "x-sluiceway-target" not in answer.headers
    assert "x-should-retry" not in answer.headers
    assert (await call(gateway.root, "GET", "/v1/streams")).json["data"] == []


async def test_max_streams(provider, model) -> None:
    """Past `max_streams` the answer is 429 with Retry-After, and there is room again when one has ended."""
    await provider.script(model, {"stall_after": 1}, {})
    async with in_process(provider.url, server={"max_streams": 1}) as gateway:
        async with Client(gateway.root) as first:
            await first.complete(model)
            await first.head()
            answer = await complete(gateway.root, model)
            assert (answer.status, answer.error["code"], answer.headers["retry-after"]) == (
                429,
                "too_many_streams",
                "1",
            )
        await gateway.idle()
        assert (await complete(gateway.root, model)).status == 200


async def test_max_stream_bytes(provider, model) -> None:
    """A stream that grows past `max_stream_bytes` fails with `stream_too_large`, and its upstream is closed."""
    await provider.script(model, {"tokens": 1_000_000, "big": 1000})
    async with in_process(provider.url, streams={"max_stream_bytes": 100_000}) as gateway:
        answer = await complete(gateway.root, model)
        assert b'"code":"stream_too_large"' in answer.events[-1].data
        assert 100_000 < len(answer.body) < 300_000
        state = (await call(gateway.root, "GET", "/v1/streams")).json["data"][0]
        assert state["state"] == "failed"
        await provider.closed(model)


# --- other paths ------------------------------------------------------------------------------------------------


async def test_unknown_model(provider, model) -> None:
    """A model that no table names is 404 `model_not_found`."""
    async with in_process(provider.url, models=[{"name": "a", "targets": ["local/x"]}]) as gateway:
        answer = await complete(gateway.root, model)
        assert (answer.status, answer.error["code"], answer.error["param"]) == (404, "model_not_found", "model")
        await complete(gateway.root, "a")
    assert [seen["body"]["model"] for seen in await provider.seen("x")][-1:] == ["x"]


async def test_keep_alive(gateway, model) -> None:
    """Two streams one after the other on one connection."""
    async with Client(gateway.root) as client:
        for _ in range(2):
            await client.complete(model)
            answer = await client.answer()
            assert events_of(answer.body)[-1].data == b"[DONE]"


async def test_http_1_0(gateway, model) -> None:
    """An HTTP/1.0 client gets the stream up to the close of the connection."""
    async with Client(gateway.root) as client:
        body = b'{"model":"%b","stream":true,"messages":[{"role":"user","content":"x"}]}' % model.encode()
        head = b"POST /v1/chat/completions HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        await client.send(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        answer = await client.answer()
        assert "transfer-encoding" not in answer.headers
        assert answer.events[-1].data == b"[DONE]"
