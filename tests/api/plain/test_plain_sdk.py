"""OpenAI's Python SDK on every plain path, unmodified, through a gateway."""

import hashlib
import io
import json
from typing import Any

import openai
import pytest
from gateway import InProcess, in_process
from node import node
from openai import AsyncOpenAI
from plain_upstream import PlainUpstream, Seen, refuses, says, sends, streams
from wire import call

KEY = {"name": "web", "sha256": hashlib.sha256(b"token").hexdigest()}
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20
USAGE = {"prompt_tokens": 4, "completion_tokens": 6, "total_tokens": 10}
IMAGE = {
    "created": 1,
    "data": [{"b64_json": "aGk="}],
    "usage": {"input_tokens": 2, "output_tokens": 3, "total_tokens": 5},
}


def through(upstream: PlainUpstream, monkeypatch: pytest.MonkeyPatch, **tables: Any) -> Any:
    """Run a gateway with a key, whose model `ours` is the upstream's `theirs`."""
    monkeypatch.setenv("PLAIN_KEY", "sk-of-the-upstream")
    models = [{"name": "ours", "targets": ["local/theirs"]}, {"name": "omni-*", "targets": ["local/*"]}]
    settings = {"api_key_env": "PLAIN_KEY"}
    return in_process(upstream.url, upstream=settings, models=models, keys=[KEY], **tables)


def client(gateway: InProcess) -> AsyncOpenAI:
    return AsyncOpenAI(api_key="token", base_url=gateway.url, max_retries=0)


def asked(seen: Seen, path: str) -> dict[str, Any]:
    """Check what goes upstream with every request, and return its JSON."""
    assert (seen.path, seen.whole) == (path, True)
    assert seen.headers["authorization"] == "Bearer sk-of-the-upstream"
    assert "token" not in {value for name, value in seen.headers.items() if name != "authorization"}
    assert int(seen.headers["content-length"]) == seen.size
    body: dict[str, Any] = json.loads(seen.body) if seen.headers["content-type"] == "application/json" else {}
    return body


async def test_embeddings(monkeypatch) -> None:
    """Vectors of texts and of token numbers come as the upstream sends them; the model's name is the target's."""
    vectors = [{"object": "embedding", "index": 0, "embedding": [0.25, -1.5]}]
    answer = {"object": "list", "data": vectors, "model": "theirs", "usage": {"prompt_tokens": 4, "total_tokens": 4}}
    async with (
        PlainUpstream(says(answer)) as upstream,
        through(upstream, monkeypatch) as gateway,
        client(gateway) as sdk,
    ):
        for given in ("Hi", ["a", "b"], [[1, 2, 3]] * 40_000):
            got = await sdk.embeddings.create(model="ours", input=given, encoding_format="float", dimensions=2)
            assert got.data[0].embedding == [0.25, -1.5]
            assert got.usage.total_tokens == 4
            body = asked(upstream.seen[-1], "/v1/embeddings")
            assert body == {"model": "theirs", "input": given, "encoding_format": "float", "dimensions": 2}


async def test_completions(monkeypatch) -> None:
    """A legacy completion, whole and streamed."""
    choice = {"index": 0, "text": "Hi", "finish_reason": "stop", "logprobs": None}
    whole = {
        "id": "c",
        "object": "text_completion",
        "created": 1,
        "model": "theirs",
        "choices": [choice],
        "usage": USAGE,
    }
    chunks = [{**whole, "choices": [{**choice, "text": text}], "usage": None} for text in ("a", "b", "é")]
    frames = [b"data: %b\n\n" % json.dumps(chunk).encode() for chunk in (*chunks, {**whole, "choices": []})]
    answers = says(whole), streams([*frames, b"data: [DONE]\n\n"])
    async with PlainUpstream(*answers) as upstream, through(upstream, monkeypatch) as gateway, client(gateway) as sdk:
        got = await sdk.completions.create(model="ours", prompt="Say it.", max_tokens=3)
        assert (got.choices[0].text, got.usage.completion_tokens) == ("Hi", 6)
        assert asked(upstream.seen[0], "/v1/completions") == {"model": "theirs", "prompt": "Say it.", "max_tokens": 3}
        stream = await sdk.completions.create(model="ours", prompt="Say it.", stream=True)
        texts = [chunk.choices[0].text if chunk.choices else chunk.usage.total_tokens async for chunk in stream]
        assert texts == ["a", "b", "é", 10]
        assert (await sdk.get("/streams", cast_to=object)) == {"object": "list", "data": []}


async def test_moderations(monkeypatch) -> None:
    """A moderation, of a model with a name and of none: then it is OpenAI's default."""
    verdict = {"id": "m", "model": "omni", "results": [{"flagged": True, "categories": {}, "category_scores": {}}]}
    async with (
        PlainUpstream(says(verdict)) as upstream,
        through(upstream, monkeypatch) as gateway,
        client(gateway) as sdk,
    ):
        for model, there in (("ours", "theirs"), (openai.omit, "omni-moderation-latest")):
            got = await sdk.moderations.create(model=model, input="Hi")
            assert got.results[0].flagged
            assert asked(upstream.seen[-1], "/v1/moderations") == {"input": "Hi", "model": there}


async def test_images(monkeypatch) -> None:
    """Images are made by JSON and edited by an upload, whose file arrives as it was sent."""
    async with (
        PlainUpstream(says(IMAGE)) as upstream,
        through(upstream, monkeypatch) as gateway,
        client(gateway) as sdk,
    ):
        got = await sdk.images.generate(model="ours", prompt="a cat")
        assert got.data[0].b64_json == "aGk="
        assert asked(upstream.seen[0], "/v1/images/generations") == {"model": "theirs", "prompt": "a cat"}
        for images in (("a.png", PNG), [("a.png", PNG), ("b.png", PNG[::-1])]):
            got = await sdk.images.edit(model="ours", image=images, prompt="a dog", n=1)
            assert got.usage.input_tokens == 2
            asked(upstream.seen[-1], "/v1/images/edits")
            sent = bytes(upstream.seen[-1].body)
            assert PNG in sent
            assert b'name="model"\r\n\r\ntheirs\r\n' in sent
            assert b"ours" not in sent


async def test_audio(monkeypatch) -> None:
    """Speech comes as bytes, whole and as a stream; a recording goes up, and its text comes back."""
    sound = bytes(range(256)) * 2000
    answers = (
        sends(sound, "audio/mpeg"),
        sends(sound, "audio/mpeg"),
        says({"text": "hello"}),
        sends(b"hi", "text/plain"),
    )
    async with PlainUpstream(*answers) as upstream, through(upstream, monkeypatch) as gateway, client(gateway) as sdk:
        got = await sdk.audio.speech.create(model="ours", voice="alloy", input="Hi")
        assert got.content == sound
        assert got.response.headers["content-type"] == "audio/mpeg"
        assert asked(upstream.seen[0], "/v1/audio/speech")["model"] == "theirs"
        async with sdk.audio.speech.with_streaming_response.create(model="ours", voice="a", input="Hi") as streamed:
            assert b"".join([piece async for piece in streamed.iter_bytes()]) == sound
        assert upstream.seen[1].headers["accept"] == "application/octet-stream"
        recording = io.BytesIO(sound)
        recording.name = "a.wav"
        text = await sdk.audio.transcriptions.create(model="ours", file=recording, language="en")
        assert text.text == "hello"
        asked(upstream.seen[2], "/v1/audio/transcriptions")
        assert sound in bytes(upstream.seen[2].body)
        with pytest.warns(DeprecationWarning, match="deprecated"):
            translated = await sdk.audio.translations.create(
                model="ours", file=("a.wav", sound), response_format="text"
            )
        assert translated == "hi"
        asked(upstream.seen[3], "/v1/audio/translations")


async def test_rerank(monkeypatch) -> None:
    """Ranking has no method in the SDK, but a path."""
    answer = {"results": [{"index": 1, "relevance_score": 0.9}], "usage": {"total_tokens": 7}}
    async with (
        PlainUpstream(says(answer)) as upstream,
        through(upstream, monkeypatch) as gateway,
        client(gateway) as sdk,
    ):
        body = {"model": "ours", "query": "q", "documents": ["a", "b"]}
        assert await sdk.post("/rerank", body=body, cast_to=object) == answer
        assert asked(upstream.seen[0], "/v1/rerank") == {**body, "model": "theirs"}


async def test_errors(monkeypatch) -> None:
    """An error is the upstream's own, with who said it; credentials are masked. An unknown model is 404."""
    answers = (
        refuses(400, "the key sk-of-the-upstream is odd", **{"x-request-id": "up-1"}), refuses(401), refuses(429)
    )  # fmt: skip
    async with PlainUpstream(*answers) as upstream, through(upstream, monkeypatch) as gateway, client(gateway) as sdk:
        with pytest.raises(openai.BadRequestError) as bad:
            await sdk.embeddings.create(model="ours", input="Hi")
        assert bad.value.code == "c"
        assert bad.value.body["message"] == "the key [hidden] is odd"
        assert bad.value.body["upstream"] == {"name": "local", "target": "local/theirs", "request_id": "up-1"}
        assert bad.value.response.headers["x-should-retry"] == "false"
        assert bad.value.response.headers["x-sluiceway-target"] == "local/theirs"
        with pytest.raises(openai.InternalServerError) as refused:
            await sdk.audio.transcriptions.create(model="ours", file=("a.wav", b"x"))
        assert (refused.value.status_code, refused.value.code) == (502, "upstream_auth")
        with pytest.raises(openai.RateLimitError):
            await sdk.moderations.create(model="ours", input="Hi")
        for unknown in (sdk.images.generate(prompt="a", model="others"), sdk.embeddings.create(model="x", input="a")):
            with pytest.raises(openai.NotFoundError) as missing:
                await unknown
            assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
        for unnamed in (sdk.images.generate(prompt="a"), sdk.post("/embeddings", body={"input": "a"}, cast_to=object)):
            with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as nameless:
                await unnamed
            assert nameless.value.param == "model"
    assert len(upstream.seen) == 3


async def test_javascript(monkeypatch) -> None:
    """OpenAI's JavaScript SDK on every path. It writes the model of a recording behind the file."""
    choice = {"index": 0, "text": "Hi", "finish_reason": "stop", "logprobs": None}
    vectors = {"object": "list", "data": [{"index": 0, "embedding": [0.5]}], "usage": {}}
    chunks = [b'data: {"choices": [{"text": "%b"}]}\n\n' % text for text in (b"a", b"b")]
    answers = (
        says(vectors), says({"choices": [choice]}), streams([*chunks, b"data: [DONE]\n\n"]),
        says({"results": [{"flagged": True}]}), says(IMAGE), says(IMAGE), says({"text": "hello"}),
        sends(b"s" * 70_000, "audio/mpeg"),
    )  # fmt: skip
    size = 5_000_000
    async with PlainUpstream(*answers) as upstream, through(upstream, monkeypatch) as gateway:
        said = await node("openai_plain.mjs", gateway.url, "ours", str(size))
        assert said == {
            "embedding": [0.5], "completion": "Hi", "streamed": "ab", "flagged": True, "image": "aGk=",
            "edited": "aGk=", "text": "hello", "sound": 70_000, "error": ["NotFoundError", 404, "model_not_found"],
        }  # fmt: skip
        recording = upstream.seen[6]
        assert (recording.path, recording.whole) == ("/v1/audio/transcriptions", True)
        assert recording.size > size
    assert len(upstream.seen) == len(answers)


async def test_an_image_of_no_model(monkeypatch) -> None:
    """An image without a model is for the upstream behind "*", which has a default of its own."""
    async with PlainUpstream(says(IMAGE)) as upstream, in_process(upstream.url) as gateway, client(gateway) as sdk:
        await sdk.images.generate(prompt="a cat")
        assert json.loads(upstream.seen[0].body) == {"prompt": "a cat"}
        await sdk.images.edit(prompt="a cat", image=("a.png", PNG))
        assert b"model" not in bytes(upstream.seen[1].body)
        assert PNG in bytes(upstream.seen[1].body)


async def test_an_image_of_no_model_and_no_default() -> None:
    """Where every model has a name, a request has to name one."""
    models = [{"name": "m", "targets": ["local/*"]}]
    async with PlainUpstream(says(IMAGE)) as upstream, in_process(upstream.url, models=models) as gateway:
        answer = await call(gateway.root, "POST", "/v1/images/generations", {"prompt": "a cat"})
    assert (answer.status, answer.error["param"], answer.error["code"]) == (400, "model", "invalid_value")
    assert upstream.seen == []
