"""Uploads: of any size in bounded memory, within limits, and only what can be read in one way."""

import asyncio
import gzip
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from gateway import OwnProcess, own_process
from openai import OpenAI
from plain_upstream import PlainUpstream, form, over, refuses_early, says
from wire import Answer, Client, call, request, until

from server.api.plain import kept, outgoing
from server.api.plain.kept import REPLAYED

AUDIO, IMAGES = "/v1/audio/transcriptions", "/v1/images/edits"
MEGABYTE = 1 << 20
LARGE = 100 * MEGABYTE
TEXT = {"text": "hello"}
FORM = "multipart/form-data; boundary=xX"


@asynccontextmanager
async def watched(gateway: OwnProcess) -> AsyncIterator[list[int]]:
    """Give a list that ends with the most memory that a process has had during the block."""
    seen = [gateway.rss()]

    async def watch() -> None:
        while True:
            seen.append(max(seen[-1], gateway.rss()))
            await asyncio.sleep(0.01)

    watching = asyncio.create_task(watch())
    try:
        yield seen
    finally:
        watching.cancel()


async def put(root: str, body: bytes, headers: dict[str, str], path: str = AUDIO) -> Answer:
    """Send an upload, and read its answer even if it comes before the upload is whole."""
    async with Client(root) as client:
        sending = asyncio.create_task(client.send(request("POST", path, body, headers)))
        try:
            return await client.answer()
        finally:
            sending.cancel()
            await asyncio.wait([sending])


@pytest.mark.alone
@pytest.mark.parametrize("model_last", [False, True])
async def test_a_hundred_megabytes(tmp_path: Path, model_last: bool) -> None:
    """100 MB of audio go up, by the SDK, or with the model behind the file, and the gateway grows by a few MB."""
    async with PlainUpstream(says(TEXT)) as upstream, own_process(upstream.url) as gateway:
        assert (await call(gateway.root, "POST", AUDIO, *form())).status == 200  # whatever a first one loads
        async with watched(gateway) as memory:
            if model_last:
                body, headers = form(size=LARGE, model_last=True)
                assert (await put(gateway.root, body, headers)).json == TEXT
            else:
                recording = tmp_path / "a.wav"
                recording.touch()
                os.truncate(recording, LARGE)
                with OpenAI(api_key="x", base_url=gateway.url, max_retries=0) as sdk, recording.open("rb") as file:
                    got = await asyncio.to_thread(sdk.audio.transcriptions.create, model="m", file=file)
                assert got.text == "hello"
    assert upstream.seen[1].size > LARGE
    assert upstream.seen[1].whole
    assert len(memory) > 3
    assert memory[-1] - memory[0] < 24 * MEGABYTE


async def test_no_length() -> None:
    """An upload whose length nobody knows goes upstream in chunks, and a coded one uncoded."""
    body, _ = form(size=100_000)
    chunked = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:70_000], body[70_000:])) + b"0\r\n\r\n"
    ways = {
        "chunked": (chunked, {"Content-Type": FORM, "Transfer-Encoding": "chunked"}),
        "coded": (gzip.compress(body), {"Content-Type": FORM, "Content-Encoding": "gzip"}),
    }
    async with over(says(TEXT)) as (gateway, upstream):
        for how, (data, own) in ways.items():
            async with Client(gateway.root) as client:
                lines = "".join(f"{name}: {value}\r\n" for name, value in own.items())
                length = "" if how == "chunked" else f"Content-Length: {len(data)}\r\n"
                await client.send(f"POST {AUDIO} HTTP/1.1\r\nHost: localhost\r\n{lines}{length}\r\n".encode() + data)
                assert (await client.answer()).json == TEXT
            seen = upstream.seen[-1]
            assert bytes(seen.body) == body.replace(b"\r\n\r\nm\r\n", b"\r\n\r\nm-of-a\r\n")
            assert seen.headers.get("transfer-encoding") == "chunked"
            assert "content-encoding" not in seen.headers


async def test_too_large() -> None:
    """An upload that is larger than `max_upload_bytes` is 413, by its head, or as soon as that much has come."""
    body, headers = form(size=200_000)
    server = {"max_upload_bytes": 100_000, "max_body_bytes": 1000}
    async with over(says(TEXT), server=server) as (gateway, upstream):
        answer = await put(gateway.root, body, headers)
        assert (answer.status, answer.error["code"]) == (413, "request_too_large")
        chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        async with Client(gateway.root) as client:
            head = f"POST {AUDIO} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\n"
            await client.send(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
            assert (await client.answer()).status == 413
        assert (await put(gateway.root, *form(size=50_000))).status == 200  # larger than a JSON body may be
        answer = await call(gateway.root, "POST", "/v1/embeddings", {"model": "m", "input": "x" * 2000})
        assert answer.status == 413
    assert [seen.whole for seen in upstream.seen if seen.whole] == [True]


async def test_too_slow(monkeypatch) -> None:
    """An upload that stops coming is 408, and its upstream never takes the part for the whole."""
    monkeypatch.setattr(outgoing, "BODY_TIMEOUT", 0.3)
    body, headers = form(size=100_000)
    async with over(says(TEXT)) as (gateway, upstream), Client(gateway.root) as client:
        await client.send(request("POST", AUDIO, body, headers)[:-50_000])
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (408, "request_timeout")
        await asyncio.wait_for(upstream.seen[0].left.wait(), 20)
    assert not upstream.seen[0].whole


WRONG = {
    "two models": (b'\r\n--xX\r\nContent-Disposition: form-data; name="model"\r\n\r\nother\r\n', b"\r\n", 400),
    "a delimiter within": (b"\n--xX\r\n", b"\r\n", 400),
}


@pytest.mark.parametrize("why", WRONG)
@pytest.mark.parametrize("size", [100, 5_000_000])
async def test_two_meanings(why: str, size: int) -> None:
    """A body that names a second model, however late, is 400, and no upstream gets all of it."""
    first, last, status = WRONG[why]
    body, headers = form(size=size)
    end = body.rindex(b"\r\n--xX--")
    body = body[:end] + first.removesuffix(b"\r\n") + last + b"--xX--\r\n"
    headers["Content-Length"] = str(len(body))
    async with over(says(TEXT)) as (gateway, upstream):
        answer = await put(gateway.root, body, headers)
        assert (answer.status, answer.error["code"]) == (status, "invalid_multipart")
    assert not [seen for seen in upstream.seen if seen.whole]


async def test_a_model_of_others() -> None:
    """A key may name only its models in an upload, too, wherever the name stands."""
    keys = [{"name": "web", "sha256": hashlib.sha256(b"token").hexdigest(), "models": ["x*"]}]
    async with over(says(TEXT), keys=keys) as (gateway, upstream):
        for model_last in (False, True):
            body, headers = form(size=6_000_000, model_last=model_last)
            answer = await put(gateway.root, body, {**headers, "Authorization": "Bearer token"})
            assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    assert upstream.seen == []


async def test_temporary_files(tmp_path: Path, monkeypatch) -> None:
    """A file is needed only if the model comes late. It has no name, and a disk without room is 503."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    body, headers = form(size=3 * REPLAYED, model_last=True)
    async with over(refuses_early, says(TEXT)) as (gateway, _, two):
        assert (await put(gateway.root, body, headers)).json == TEXT
        assert os.listdir(tmp_path) == []  # noqa: PTH208
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
        assert (await put(gateway.root, *form(size=3 * REPLAYED))).status != 503  # its model came first
        answer = await put(gateway.root, body, headers)
        assert (answer.status, answer.error["code"]) == (503, "upload_not_kept")
    assert two.seen[0].size == len(body) + len("m-of-b") - 1


async def test_room_for_others(monkeypatch) -> None:
    """One key's uploads take their share of the disk, which is four of the largest, and no more: past it 429."""
    monkeypatch.setattr(kept, "REPLAYED", 10_000)
    body, headers = form(size=100_000, model_last=True)
    wire = request("POST", AUDIO, body, headers)
    async with (
        over(says(TEXT), server={"max_upload_bytes": len(body)}) as (gateway, upstream),
        AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(Client(gateway.root)) for _ in range(5)]
        for client in clients[:4]:
            await client.send(wire[:-100])
        await until(lambda: asyncio.sleep(0, gateway.app.plain.files.bytes.total > 4 * 95_000))
        await clients[4].send(wire)
        answer = await clients[4].answer()
        assert (answer.status, answer.error["code"]) == (429, "too_many_bodies")
        for client in clients[:4]:
            await client.send(wire[-100:])
            assert (await client.answer()).status == 200
        assert (gateway.app.plain.files.bytes.total, gateway.app.streams.bodies.total) == (0, 0)
    assert len(upstream.seen) == 4


async def test_what_is_no_form() -> None:
    """A body that is neither JSON nor a form is 415; one that calls itself a form and is none is 400."""
    async with over(says(TEXT)) as (gateway, upstream):
        for kind, status in (("text/plain", 415), ("application/x-www-form-urlencoded", 415), (FORM, 400),
                             ("multipart/form-data", 400), ("multipart/mixed; boundary=xX", 415)):  # fmt: skip
            answer = await call(gateway.root, "POST", IMAGES, b"--nothing", {"Content-Type": kind})
            assert answer.status == status, kind
    assert upstream.seen == []


FORMS = {
    "no browser": ({}, 200),
    "another site": ({"Origin": "https://evil.example"}, 403),
    "a page without an origin": ({"Origin": "null"}, 403),
    "another site, told by the browser alone": ({"Sec-Fetch-Site": "cross-site"}, 403),
    "another port": ({"Sec-Fetch-Site": "same-site"}, 403),
    "the address bar": ({"Sec-Fetch-Site": "none"}, 200),
}


@pytest.mark.parametrize("who", FORMS)
async def test_a_form_of_another_site(who: str) -> None:
    """Without keys an upload needs no preflight, so the page of another site is refused by what its browser says."""
    headers, status = FORMS[who]
    body, own = form()
    async with over(says(TEXT)) as (gateway, upstream):
        answer = await call(gateway.root, "POST", AUDIO, body, {**own, **headers})
        assert answer.status == status
        chat = await call(gateway.root, "POST", "/v1/chat/completions", body, {**own, **headers})
        assert chat.status in (403, 415)
    assert len(upstream.seen) == (status == 200)
