"""`stream: false`: one call, its JSON as it is; yet a stream like any other."""

import pytest
from gateway import in_process
from wire import Client, call, complete, until

JSON = {"Accept": "application/json"}


@pytest.mark.parametrize("asked", [{"stream": False}, {"stream": None}])
async def test_answer_as_it_is(gateway, provider, model, asked) -> None:
    """The upstream's JSON goes out as it came, under the stream's headers; it was asked for no stream."""
    odd = {"id": "x", "object": "chat.completion", "choices": [{"index": 0, "finish_reason": "stop",
           "message": {"role": "assistant", "content": "水"}}], "vendor": {"a": [1.5, None]}}  # fmt: skip
    await provider.script(model, {"json_body": odd})
    answer = await complete(gateway.root, model, **asked)
    assert (answer.status, answer.json) == (200, odd)
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.headers["x-sluiceway-target"] == f"local/{model}"
    assert answer.headers["x-request-id"]
    [seen] = await provider.seen(model)
    assert not seen["body"].get("stream")
    assert "stream_options" not in seen["body"]


async def test_one_record(gateway, model) -> None:
    """It is listed like any stream, with one record and its usage, and GET returns that JSON again."""
    answer = await complete(gateway.root, model, stream=False)
    path = f"/v1/streams/{answer.headers['x-stream-id']}"
    state = (await call(gateway.root, "GET", path, headers=JSON)).json
    assert (state["state"], state["records"], state["usage"]["measured"]) == ("complete", 1, True)
    assert state["usage"]["completion_tokens"] == 20
    for query in ("", "?after=0", "?after=1"):
        again = await call(gateway.root, "GET", path + query)
        assert (again.status, again.body) == (200, answer.body)
        assert again.headers["content-type"].startswith("application/json")
    [listed] = (await call(gateway.root, "GET", "/v1/streams")).json["data"]
    assert listed["id"] == answer.headers["x-stream-id"]


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        ({"status": 400, "error": {"message": "no", "code": "c"}}, 400, "c"),
        ({"status": 401}, 502, "upstream_auth"),
        ({"status": 500}, 500, None),
        ({"reset_before_head": True}, 502, "upstream_reset"),
        ({"cut_after": 3}, 502, "upstream_cut"),
        ({"reset_after": 3}, 502, "upstream_cut"),
        ({"json_body": {"error": {"message": "no", "code": "c"}}}, 502, "c"),
        ({"never_answer": True}, 504, "total_timeout"),
        ({"stall_after": 3}, 504, "total_timeout"),
    ],
)
async def test_errors(provider, model, script, status, code) -> None:
    """Its failures keep their status and code; only the total timeout ends a silent one; GET tells the same error."""
    await provider.script(model, script)
    tables = {"upstream": {"ttft_timeout": 0.1, "idle_timeout": 0.1}}
    total = {"total_timeout": 1.0 if code == "total_timeout" else 30.0}
    async with in_process(provider.url, streams=total, **tables) as gateway:
        answer = await complete(gateway.root, model, stream=False)
        assert (answer.status, answer.error["code"]) == (status, code or answer.error["code"])
        assert answer.headers["x-should-retry"] == "false"
        again = await call(gateway.root, "GET", f"/v1/streams/{answer.headers['x-stream-id']}")
        assert (again.status, again.body) == (answer.status, answer.body)


async def test_slow_answer_has_no_ttft_timeout(provider, model) -> None:
    """A whole answer may take longer than the timeouts between tokens."""
    await provider.script(model, {"ttft": 0.6})
    async with in_process(provider.url, upstream={"ttft_timeout": 0.2, "idle_timeout": 0.2}) as gateway:
        assert (await complete(gateway.root, model, stream=False)).status == 200


async def test_retried(provider, model) -> None:
    """A whole answer is asked for again after a failure."""
    await provider.script(model, {"status": 500}, {})
    async with in_process(provider.url, recovery={"strategy": "auto", "backoff": 0.0}) as gateway:
        assert (await complete(gateway.root, model, stream=False)).status == 200
        assert len(await provider.seen(model)) == 2


async def test_abort(gateway, provider, model) -> None:
    """Aborted, it answers 499, and the upstream is closed."""
    await provider.script(model, {"never_answer": True})
    async with Client(gateway.root) as client:
        await client.complete(model, stream=False)
        await until(lambda: provider.seen(model))
        [live] = (await call(gateway.root, "GET", "/v1/streams")).json["data"]
        assert (await call(gateway.root, "DELETE", f"/v1/streams/{live['id']}")).status == 204
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (499, "cancelled")
    assert len(await provider.all_over(model)) == 1


async def test_get_waits(gateway, provider, model) -> None:
    """GET of one that is under way waits for its answer."""
    await provider.script(model, {"ttft": 0.4})
    async with Client(gateway.root) as client:
        await client.complete(model, stream=False)
        await until(lambda: provider.seen(model))
        [live] = (await call(gateway.root, "GET", "/v1/streams")).json["data"]
        again = await call(gateway.root, "GET", f"/v1/streams/{live['id']}")
        assert again.body == (await client.answer()).body


async def test_garbage(gateway, provider, model) -> None:
    """An answer that is no JSON object is 502."""
    await provider.script(model, {"json_body": [1]})
    answer = await complete(gateway.root, model, stream=False)
    assert (answer.status, answer.error["code"]) == (502, "upstream_garbage")
