"""The bounds on the shape of a client's JSON, and what a body of any shape costs a running gateway."""

import asyncio
import hashlib
import json
from typing import Any

import pytest
from gateway import in_process, own_process
from hypothesis import given
from hypothesis import strategies as st
from wire import Client, call, complete, completion, request, until

from server.api.bounded_json import MAX_DEPTH, MAX_VALUES, PIECE, parse
from server.core.errors import Rejected
from server.core.shape import Shape

PATH = "/v1/chat/completions"
MEGABYTE = 1 << 20
WIDE = MAX_VALUES + 1
# Bodies of the kinds that took most memory or time per byte. Each is refused before it is parsed.
SHAPES: dict[str, tuple[int, bytes]] = {
    "empty arrays": (413, b'{"x":[' + b"[]," * WIDE + b"[]]}"),
    "empty objects": (413, b'{"x":[' + b"{}," * WIDE + b"{}]}"),
    "floats": (413, b'{"x":[' + b"1.5," * WIDE + b"1]}"),
    "nulls": (413, b'{"x":[' + b"null," * WIDE + b"1]}"),
    "texts": (413, b'{"x":[' + b'"",' * WIDE + b"1]}"),
    "unique keys": (413, b"{" + b",".join(b'"%d":0' % n for n in range(WIDE)) + b"}"),
    "escaped quotes": (413, b'{"x":[' + b'"\\"",' * WIDE + b"1]}"),
    "escaped backslashes": (413, b'{"x":[' + b'"\\\\",' * WIDE + b"1]}"),
    "deep arrays": (400, b'{"x":' + b"[" * 240 + b"]" * 240 + b"}"),
    "deep objects": (400, b'{"x":' * 240 + b"1" + b"}" * 240),
    "deep, again and again": (400, b'{"x":[' + b",".join([b"[" * 240 + b"]" * 240] * 100) + b"]}"),
    "many fields": (400, b"{" + b",".join(b'"%d":0' % n for n in range(1001)) + b"}"),
    "never closed": (400, b"[" * 90_000),
    "deep behind a text": (400, b'{"a":"]]]]]\\"","x":' + b"[" * 101 + b"]" * 101 + b"}"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_refused(shape: str) -> None:
    """A body with too many values or levels is refused with 413 or 400."""
    status, body = SHAPES[shape]
    with pytest.raises(Rejected) as refused:
        asyncio.run(parse(body))
    assert refused.value.status == status


@pytest.mark.parametrize(
    "value",
    [
        {"messages": [{"role": "user", "content": ',[{"' * 500_000}]},
        {"messages": [{"role": "user", "content": "\\" * 999_999 + '"[[[' * 1000}] * 3},
        {"messages": [{"role": "user", "content": "x"}] * 2048},
        [0] * (MAX_VALUES - 1),
        "é\u2028" * 100_000,
        json.loads("[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)),
    ],
)
def test_accepted(value: Any) -> None:
    """What is in texts does not count, and bodies below the bounds are parsed."""
    assert asyncio.run(parse(json.dumps(value).encode())) == value


@given(st.recursive(st.text(st.sampled_from('[{}],"\\a')), st.lists, max_leaves=20))
def test_texts_do_not_count(value: Any) -> None:
    """Brackets, quotes and backslashes in texts never make a body deep."""
    assert asyncio.run(parse(json.dumps([value, "[" * 200]).encode())) == [value, "[" * 200]


@given(st.recursive(st.text(st.sampled_from('[{}],"\\a')), st.lists, max_leaves=20), st.integers(1, 9))
def test_pieces_make_the_same_shape(value: Any, size: int) -> None:
    """However a text is cut into pieces, also inside an escape, its values and levels are the same."""
    text = json.dumps(value).encode()
    whole, cut = Shape(1000), Shape(1000)
    whole.feed(text)
    for at in range(0, len(text), size):
        cut.feed(text[at : at + size])
    assert (cut.values, cut.depth) == (whole.values, whole.depth)


async def test_others_have_turns_while_a_large_body_is_read() -> None:
    """While a body of 8 MB is counted, parsed and kept, the event loop has many turns for others."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    body = json.dumps({"x": "\n" * 3_900_000}).encode()
    beside = asyncio.create_task(others())
    value = await parse(body)
    beside.cancel()
    assert turns >= len(body) // PIECE
    assert len(value["x"]) == 3_900_000


def eight_megabytes(piece: bytes) -> bytes:
    """Return a body with an array of many equal values."""
    return b'{"x":[' + b",".join([piece] * (8_000_000 // (len(piece) + 1))) + b"]}"


async def test_cost(provider, model) -> None:
    """8 MB of each shape cost the gateway little more than their bytes, and another client is served after each."""
    bodies = [eight_megabytes(piece) for piece in (b"[]", b"0.1", b"[" * 240 + b"]" * 240)]
    bodies.append(b"{" + b",".join(b'"%x":0' % number for number in range(700_000)) + b"}")
    async with own_process(provider.url) as gateway:
        await complete(gateway.root, f"{model}-warm")
        before = gateway.rss()
        for body in bodies:
            assert (await call(gateway.root, "POST", PATH, body)).status == 413
            assert (await complete(gateway.root, model)).status == 200
        assert gateway.rss() - before < 60 * MEGABYTE  # 160 for the first of them alone, once parsed


async def test_held(provider, model) -> None:
    """Live streams keep bytes of their requests, and no objects: twenty would take 120 MB."""
    await provider.script(model, {"stall_after": 1})
    shape = [[]] * 49_000
    async with own_process(provider.url) as gateway:
        await complete(gateway.root, f"{model}-warm", padding=shape)
        before = gateway.rss()
        clients = [Client(gateway.root) for _ in range(20)]
        for client in clients:
            await client.__aenter__()
            await client.ask("POST", "/api/stream", completion(model, padding=shape))
            assert (await client.head())[0] == 200
        assert gateway.rss() - before < 40 * MEGABYTE
        for client in clients:
            client.leave()


async def test_deep(provider, model) -> None:
    """A body that is nested 240 levels deep is 400, with a sentence that says why."""
    async with own_process(provider.url) as gateway:
        answer = await call(gateway.root, "POST", PATH, SHAPES["deep arrays"][1])
        assert (answer.status, answer.error["code"]) == (400, "invalid_json")
        assert "100 levels" in answer.error["message"]


async def test_budget(provider, model) -> None:
    """Bodies that arrive or are live have one budget. Past an owner's half it is 429 for this owner, and no other."""
    names = ("greedy", "victim")
    keys = [{"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest()} for name in names]
    greedy, victim = ({"Authorization": f"Bearer {name}"} for name in names)
    bounds = {"max_body_bytes": MEGABYTE, "max_held_bytes": 6 * MEGABYTE}
    large = "x" * 900_000
    await provider.script(model, {"stall_after": 1})

    async def nothing_held() -> bool:  # a body is let go when its handler ends, after the last byte of its answer
        return gateway.app.streams.bodies.total == 0

    async with in_process(provider.url, server=bounds, keys=keys) as gateway:
        streams = [Client(gateway.root) for _ in range(3)]
        for client in streams:
            await client.__aenter__()
            await client.complete(model, headers=greedy, padding=large)
            assert (await client.head())[0] == 200
        async with Client(gateway.root) as arriving:
            length = {"Content-Type": "application/json", "Content-Length": "900000"}
            await arriving.send(request("POST", PATH, headers={**length, **greedy}) + b" " * 800_000)
            answer = await arriving.answer()
        assert (answer.status, answer.error["code"], answer.headers["retry-after"]) == (429, "too_many_bodies", "1")
        assert (await complete(gateway.root, f"{model}-v", headers=victim, padding=large)).status == 200
        for client in streams:
            client.leave()
        await gateway.idle()
        await until(nothing_held)
        assert (await complete(gateway.root, f"{model}-g", headers=greedy, padding=large)).status == 200
        await gateway.idle()
        await until(nothing_held)
